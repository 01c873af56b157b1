package addrpc_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
)

const (
	head = "syntax = \"proto3\";\npackage user.v1;\n"
	ping = "message PingRequest {}\nmessage PingResponse {}\n"
	line = "rpc Get(GetRequest) returns (GetResponse);"
	tail = "\nmessage GetRequest {}\n\nmessage GetResponse {}\n"
)

// TestBytesAroundTheNewLineSurvive compares whole files: comments, blank lines, tabs, ends of lines.
func TestBytesAroundTheNewLineSurvive(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, before, want string }{
		{"empty body", head + "service UserService {}\n", head + "service UserService {\n  " + line + "\n}\n" + tail},
		{"a blank between braces", head + "service UserService { }\n", head + "service UserService {\n  " + line + "\n}\n" + tail},
		{"empty body over two lines", head + "service UserService {\n}\n", head + "service UserService {\n  " + line + "\n}\n" + tail},
		{"a comment alone", head + "service UserService {\n  // None yet.\n}\n", head + "service UserService {\n  // None yet.\n\n  " + line + "\n}\n" + tail},
		{"a comment in one line", head + "service UserService { /* none } yet */ }\n", head + "service UserService { /* none } yet */\n\n  " + line + "\n}\n" + tail},
		{
			"comments everywhere", head + "/* a { */ service /* b */ UserService /* c } */ { // d\n  // Ping\n  rpc Ping(PingRequest) returns (PingResponse) { } // e }\n  // f\n} // g\n" + ping + "// h",
			head + "/* a { */ service /* b */ UserService /* c } */ { // d\n  // Ping\n  rpc Ping(PingRequest) returns (PingResponse) { } // e }\n  // f\n\n  " + line + "\n} // g\n" + ping + "// h\n" + tail,
		},
		{"tabs", head + "service UserService {\n\trpc Ping(PingRequest) returns (PingResponse);\n}\n" + ping, head + "service UserService {\n\trpc Ping(PingRequest) returns (PingResponse);\n\n\t" + line + "\n}\n" + ping + tail},
		{"all in one line", head + "service UserService { rpc Ping(PingRequest) returns (PingResponse); }\n" + ping, head + "service UserService { rpc Ping(PingRequest) returns (PingResponse);\n\n  " + line + "\n}\n" + ping + tail},
		{"a blank line at the end", head + "service UserService {\n  option deprecated = true;\n\n}\n", head + "service UserService {\n  option deprecated = true;\n\n  " + line + "\n}\n" + tail},
		{"no line end at the end of the file", head + "service UserService {}", head + "service UserService {\n  " + line + "\n}\n" + tail},
		{"two services", head + "service UserServiceOld {}\nservice UserService {}\n", head + "service UserServiceOld {}\nservice UserService {\n  " + line + "\n}\n" + tail},
		{"byte order mark", "\xef\xbb\xbf" + head + "service UserService {}\n", "\xef\xbb\xbf" + head + "service UserService {\n  " + line + "\n}\n" + tail},
		{"an edition", "edition = \"2023\";\npackage user.v1;\nservice UserService {}\n", "edition = \"2023\";\npackage user.v1;\nservice UserService {\n  " + line + "\n}\n" + tail},
		{"proto2", "syntax = \"proto2\";\npackage user.v1;\nservice UserService {}\n", "syntax = \"proto2\";\npackage user.v1;\nservice UserService {\n  " + line + "\n}\n" + tail},
		{"letters of other alphabets", head + "// Dienst für Benutzer: ñ, 服务.\nservice UserService {\n  // é\n}\n", head + "// Dienst für Benutzer: ñ, 服务.\nservice UserService {\n  // é\n\n  " + line + "\n}\n" + tail},
		{"messages that exist", head + "service UserService {}\nmessage GetRequest { string id = 1; }\nmessage GetResponse {}\n", head + "service UserService {\n  " + line + "\n}\nmessage GetRequest { string id = 1; }\nmessage GetResponse {}\n"},
	} {
		for _, eol := range []string{"\n", "\r\n"} {
			t.Run(tc.name+strings.TrimSuffix(strings.Repeat(" crlf", len(eol)-1), "\n"), func(t *testing.T) {
				t.Parallel()
				before, want := strings.ReplaceAll(tc.before, "\n", eol), strings.ReplaceAll(tc.want, "\n", eol)
				dir := project(t, map[string]string{"proto/user/v1/service.proto": before})
				add(t, addrpc.Options{Dir: dir, Name: "Get", Service: "UserService"})
				got := tree(t, dir)["proto/user/v1/service.proto"]
				if got != want {
					t.Errorf("the file is\n%q\nwant\n%q", got, want)
				}
				if added := without(line); !strings.Contains(without(got), added) {
					t.Errorf("the file lacks %q", line)
				}
			})
		}
	}
}

func TestPackagesBelowPackages(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{
		"proto/user/v1/service.proto":       "syntax = \"proto3\";\npackage user.v1;\nmessage Ref {}\n",
		"proto/user/admin/v1/service.proto": "syntax = \"proto3\";\npackage user.admin.v1;\nservice UserService {}\n",
		"internal/user/server.go":           strings.ReplaceAll(server, "userv1 \"example.com/user/proto/user/v1\"", "userv1 \"example.com/user/proto/user/admin/v1\""),
	})
	add(t, addrpc.Options{Dir: dir, Name: "Get"})
	if got := tree(t, dir)["proto/user/admin/v1/service.proto"]; !strings.Contains(got, line) {
		t.Errorf("the file is\n%s", got)
	}
}
