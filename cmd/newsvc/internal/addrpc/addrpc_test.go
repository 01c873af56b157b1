package addrpc_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func TestEveryKindOfMethodOnceAndNotTwice(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, stream, rpc, file, signature, call string }{
		{"SyncWindows", "", "rpc SyncWindows(SyncWindowsRequest) returns (SyncWindowsResponse);", "sync_windows_rpc",
			"func (srv *Server) SyncWindows(_ context.Context, _ *userv1.SyncWindowsRequest) (*userv1.SyncWindowsResponse, error) {", "server.SyncWindows(t.Context(), &userv1.SyncWindowsRequest{})"},
		{"CreateTest", "server", "rpc CreateTest(CreateTestRequest) returns (stream CreateTestResponse);", "create_test_rpc",
			"func (srv *Server) CreateTest(_ *userv1.CreateTestRequest, _ grpc.ServerStreamingServer[userv1.CreateTestResponse]) error {", "server.CreateTest(&userv1.CreateTestRequest{}, nil)"},
		{"Server", "client", "rpc Server(stream ServerRequest) returns (ServerResponse);", "server_rpc",
			"func (srv *Server) Server(_ grpc.ClientStreamingServer[userv1.ServerRequest, userv1.ServerResponse]) error {", "server.Server(nil)"},
		{"Get2FA", "bidi", "rpc Get2FA(stream Get2FARequest) returns (stream Get2FAResponse);", "get2_fa_rpc",
			"func (srv *Server) Get2FA(_ grpc.BidiStreamingServer[userv1.Get2FARequest, userv1.Get2FAResponse]) error {", "server.Get2FA(nil)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := project(t, nil)
			before := tree(t, dir)
			o := addrpc.Options{Dir: dir, Name: tc.name, Stream: tc.stream}
			res := add(t, o)
			want := []addrpc.Change{
				{Action: "update", Path: "proto/user/v1/service.proto", Note: "line 10: " + strings.TrimSuffix(tc.rpc, ";")},
				{Action: "create", Path: "internal/user/" + tc.file + ".go", Note: "write the method here"},
				{Action: "create", Path: "internal/user/" + tc.file + "_test.go", Note: "skips once that is written: test it here"},
				{Action: "create", Path: "proto/user/v1/service.pb.go"},
				{Action: "create", Path: "proto/user/v1/service_grpc.pb.go"},
			}
			if !slices.Equal(res.Changes, want) {
				t.Errorf("changes are %v\nwant %v", res.Changes, want)
			}
			after := tree(t, dir)
			if len(after) != len(before)+4 {
				t.Errorf("%d files became %d: %q", len(before), len(after), slices.Sorted(maps.Keys(after)))
			}
			for name, part := range map[string]string{
				"proto/user/v1/service.proto":           tc.rpc,
				"internal/user/" + tc.file + ".go":      tc.signature,
				"internal/user/" + tc.file + "_test.go": tc.call,
				"proto/user/v1/service_grpc.pb.go":      `"/user.v1.UserService/` + tc.name + `"`,
			} {
				if !strings.Contains(after[name], part) {
					t.Errorf("%s lacks %q:\n%s", name, part, after[name])
				}
			}
			if stub := `"` + tc.name + ": write it in internal/user/" + tc.file + `.go"`; !strings.Contains(after["internal/user/"+tc.file+".go"], stub) ||
				!strings.Contains(after["internal/user/"+tc.file+"_test.go"], stub) {
				t.Errorf("stub and test do not both say %s", stub)
			}
			if after["internal/user/server.go"] != server {
				t.Error("somebody's own file was changed")
			}
			if again := add(t, o); len(again.Changes) != 0 {
				t.Errorf("a second run changes %v", again.Changes)
			}
			if !maps.Equal(tree(t, dir), after) {
				t.Error("a second run wrote something")
			}
		})
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	dir := project(t, nil)
	before := tree(t, dir)
	if res := add(t, addrpc.Options{Dir: dir, Name: "Get", DryRun: true}); len(res.Changes) != 5 {
		t.Errorf("%d changes are announced, want 5", len(res.Changes))
	}
	if !maps.Equal(tree(t, dir), before) {
		t.Error("a dry run wrote something")
	}
}

func TestAMethodThatIsWrittenGetsNoStub(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"internal/user/get.go": "package user\n\nfunc (s *Server) Get() {}\n"})
	for _, c := range add(t, addrpc.Options{Dir: dir, Name: "Get"}).Changes {
		if strings.HasPrefix(c.Path, "internal/") {
			t.Errorf("%s %s, though the method exists", c.Action, c.Path)
		}
	}
}

func TestAMethodOfTheProtoGetsItsStub(t *testing.T) {
	t.Parallel()
	text := strings.Replace(service, "}\n\nmessage", "  rpc Get(google.protobuf.Empty) returns (Outer.Inner);\n}\nmessage Outer { message Inner {} }\nmessage", 1)
	text = strings.Replace(text, "package user.v1;", "package user.v1;\nimport \"google/protobuf/empty.proto\";", 1)
	dir := project(t, map[string]string{"proto/user/v1/service.proto": text})
	add(t, addrpc.Options{Dir: dir, Name: "Get"})
	got := tree(t, dir)
	if got["proto/user/v1/service.proto"] != text {
		t.Error("the proto was changed, though it has the method")
	}
	for _, part := range []string{`"google.golang.org/protobuf/types/known/emptypb"`, "Get(_ context.Context, _ *emptypb.Empty) (*userv1.Outer_Inner, error)"} {
		if !strings.Contains(got["internal/user/get_rpc.go"], part) {
			t.Errorf("the stub lacks %q:\n%s", part, got["internal/user/get_rpc.go"])
		}
	}
	if strings.Contains(got["internal/user/get_rpc_test.go"], "userv1") {
		t.Error("the test imports what it does not use")
	}
}

func TestTypesThatNobodyOutsideCanName(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"internal/user/server.go": strings.ReplaceAll(server, "Server struct", "server struct")})
	add(t, addrpc.Options{Dir: dir, Name: "Get"})
	if got := tree(t, dir)["internal/user/get_rpc_test.go"]; !strings.HasPrefix(got, "package user\n") || !strings.Contains(got, "server := &server{}") {
		t.Errorf("the test is\n%s", got)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	second := strings.ReplaceAll(service, "service UserService", "service AdminService")
	second = second[:strings.Index(second, "message")]
	second = strings.Replace(second, "package user.v1;", "package user.v1;\nimport \"user/v1/service.proto\";", 1)
	for _, tc := range []struct {
		name  string
		files map[string]string
		o     addrpc.Options
		exit  int
		want  string
	}{
		{"lower case", nil, addrpc.Options{Name: "getUser"}, problem.Usage, "\"getUser\" is not a method name: buf and Go want UpperCamelCase\n  fix: newsvc add rpc GetUser"},
		{"another in Go", nil, addrpc.Options{Name: "Sha256sum"}, problem.Usage, "\"Sha256sum\" is not a method name: in Go it would be another, Sha256Sum\n  fix: newsvc add rpc Sha256Sum"},
		{"snake case", nil, addrpc.Options{Name: "get_2fa"}, problem.Usage, "\"get_2fa\" is not a method name: buf and Go want UpperCamelCase\n  fix: newsvc add rpc Get2Fa"},
		{"digit first", nil, addrpc.Options{Name: "2FA"}, problem.Usage, "fix: newsvc add rpc FA"},
		{"stream", nil, addrpc.Options{Name: "Get", Stream: "both"}, problem.Usage, "--stream \"both\" is unknown"},
		{"another kind", nil, addrpc.Options{Name: "Ping", Stream: "bidi"}, problem.Conflict,
			"UserService already has a method Ping, with --stream none\n   at: proto/user/v1/service.proto:8:3"},
		{"two services", map[string]string{"proto/user/v1/admin.proto": second}, addrpc.Options{Name: "Get"}, problem.Usage,
			"two services in this project; say which\n   at: user.v1.AdminService, user.v1.UserService\n  fix: newsvc add rpc Get --service user.v1.AdminService"},
		{"no such service", nil, addrpc.Options{Name: "Get", Service: "UserServce"}, problem.Usage,
			"this project has no service \"UserServce\"\n   at: there are: user.v1.UserService\n  fix: newsvc add rpc Get --service UserService"},
		{"an enum of that name", map[string]string{"proto/user/v1/service.proto": service + "enum GetRequest { GET_REQUEST_UNSPECIFIED = 0; }\n"}, addrpc.Options{Name: "Get"}, problem.Conflict,
			"Get needs a message GetRequest, but that is an enum\n   at: proto/user/v1/service.proto"},
		{"a message elsewhere", map[string]string{"proto/user/v1/more.proto": "syntax = \"proto3\";\npackage user.v1;\nmessage GetRequest {}\n"}, addrpc.Options{Name: "Get"}, problem.Conflict,
			"Get needs a message GetRequest, which another file declares\n   at: proto/user/v1/more.proto\n  fix: add to proto/user/v1/service.proto: import \"user/v1/more.proto\";"},
		{"broken before", map[string]string{"proto/user/v1/service.proto": strings.Replace(service, "(PingRequest)", "(PingReqest)", 1)}, addrpc.Options{Name: "Get"}, problem.Failed,
			"proto/user/v1/service.proto does not compile\n   at: proto/user/v1/service.proto:8:12: method user.v1.UserService.Ping: unknown request type PingReqest; did you mean PingRequest?"},
		{"broken by the edit", map[string]string{"proto/user/v1/service.proto": strings.Replace(service, "package user.v1;", "package user.v1;\nimport \"user/v1/getrequest.proto\";", 1),
			"proto/user/v1/getrequest.proto": "syntax = \"proto3\";\npackage user.v1.GetRequest;\nmessage X {}\n"}, addrpc.Options{Name: "Get"}, problem.Conflict,
			"with a method Get the .proto files would not compile any more; nothing is written\n   at: proto/user/v1/"},
		{"a message of that name in use", nil, addrpc.Options{Name: "PingRequest"}, problem.Conflict,
			"with a method PingRequest the .proto files would not compile any more; nothing is written\n   at: proto/user/v1/service.proto:8:12: method user.v1.UserService.Ping: invalid request type: user.v1.UserService.PingRequest is a method, not a message\n  fix: choose another name for the method"},
		{"a field of that name", nil, addrpc.Options{Name: "Config"}, problem.Conflict, "Server has a field Config, so Go allows no method of that name\n   at: internal/user/server.go:6"},
		{"no implementation", map[string]string{"internal/user/server.go": "package user\n"}, addrpc.Options{Name: "Get"}, problem.Conflict, "no type of this service embeds UnimplementedUserServiceServer"},
		{"two implementations", map[string]string{"internal/two/server.go": server}, addrpc.Options{Name: "Get"}, problem.Conflict, "2 types embed UnimplementedUserServiceServer"},
		{"a file in the way", map[string]string{"internal/user/get_rpc_test.go": "package user\n"}, addrpc.Options{Name: "Get"}, problem.Conflict,
			"internal/user/get_rpc_test.go is in the way: it exists, without a method Get"},
		{"edited generated code", map[string]string{"proto/user/v1/service.pb.go": "package userv1\n"}, addrpc.Options{Name: "Get"}, problem.Conflict, "proto/user/v1/service.pb.go is in the way"},
		{"broken Go code", map[string]string{"internal/user/x.go": "package user\nfunc {"}, addrpc.Options{Name: "Get"}, problem.Failed, "internal/user/x.go is no Go code"},
		{"no project", map[string]string{"proto/user/v1/service.proto": "syntax = \"proto3\";\n"}, addrpc.Options{Name: "Get"}, problem.Usage, "no .proto file of this project declares a service"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.o.Dir = project(t, tc.files)
			before := tree(t, tc.o.Dir)
			_, err := addrpc.Run(t.Context(), tc.o)
			var p *problem.Error
			if !errors.As(err, &p) || p.ExitCode() != tc.exit || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Run = %v, want exit %d and\n%s", err, tc.exit, tc.want)
			}
			if !maps.Equal(tree(t, tc.o.Dir), before) {
				t.Error("the tree changed")
			}
		})
	}
}

func TestServicesOfOtherProjectsAreNotOffered(t *testing.T) {
	t.Parallel()
	other := "// Copied by newsvc add client from ../post/proto/post/v1/service.proto\n// sha256 of the original: " + strings.Repeat("0", 64) +
		". Do not edit; to bring it up to date: x\n\nsyntax = \"proto3\";\npackage post.v1;\nservice PostService {}\n"
	dir := project(t, map[string]string{"proto/post/v1/service.proto": other, "newsvc.yaml": "kind: service\nname: renamed\n"})
	add(t, addrpc.Options{Dir: filepath.Join(dir, "internal"), Name: "Get"})
	if got := tree(t, dir); !strings.Contains(got["proto/user/v1/service.proto"], "rpc Get(") || got["proto/post/v1/service.proto"] != other {
		t.Error("the method is not in the project's own service")
	}
}

func TestOneOfTwoServices(t *testing.T) {
	t.Parallel()
	admin := "syntax = \"proto3\";\npackage user.v1;\nservice AdminService {}\n"
	dir := project(t, map[string]string{
		"proto/user/v1/admin.proto": admin,
		"internal/user/admin.go":    "package user\n\nimport pb \"example.com/user/proto/user/v1\"\n\ntype Admin struct{ pb.UnimplementedAdminServiceServer }\n",
	})
	add(t, addrpc.Options{Dir: dir, Name: "Reset", Service: "AdminService"})
	got := tree(t, dir)
	if want := admin[:len(admin)-2] + "\n  rpc Reset(ResetRequest) returns (ResetResponse);\n}\n\nmessage ResetRequest {}\n\nmessage ResetResponse {}\n"; got["proto/user/v1/admin.proto"] != want {
		t.Errorf("the proto is\n%s\nwant\n%s", got["proto/user/v1/admin.proto"], want)
	}
	if want := "func (s *Admin) Reset(_ context.Context, _ *pb.ResetRequest) (*pb.ResetResponse, error) {"; !strings.Contains(got["internal/user/reset_rpc.go"], want) {
		t.Errorf("the stub lacks %q:\n%s", want, got["internal/user/reset_rpc.go"])
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere; TestAddRPCWithoutPermission runs this as somebody else")
	}
	dir := project(t, nil)
	before := tree(t, dir)
	if err := os.Chmod(filepath.Join(dir, "internal/user"), 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "internal/user"), 0o755) })
	if _, err := addrpc.Run(t.Context(), addrpc.Options{Dir: dir, Name: "Get"}); problem.Code(err) != problem.Failed {
		t.Errorf("Run = %v, want exit 1", err)
	}
	if !maps.Equal(tree(t, dir), before) {
		t.Error("the tree changed")
	}
}
