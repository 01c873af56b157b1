package addclient_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addclient"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	postProto = "syntax = \"proto3\";\npackage post.v1;\nimport \"common/v1/id.proto\";\nimport \"google/protobuf/empty.proto\";\nservice PostService { rpc Get(common.v1.Id) returns (google.protobuf.Empty); }\n"
	idProto   = "syntax = \"proto3\";\npackage common.v1;\nmessage Id { string id = 1; }\n"
	mainGo    = `package main

import (
	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/app"
)

func main() { app.Run("user", service()...) }

func service() []fx.Option {
	return []fx.Option{
		// newsvc:clients
		// newsvc:end
	}
}
`
)

// project is the directory of a service "user" with a neighbour "post"; files are added, or take the place of theirs.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"user/go.mod": "module example.com/user\n\ngo 1.26\n", "user/newsvc.yaml": "kind: service\nname: user\n",
		"user/main.go": mainGo, "user/config.yaml": "# Settings.\n",
		"post/go.mod": "module example.com/post\n", "post/newsvc.yaml": "kind: service\nname: post\n",
		"post/proto/post/v1/service.proto": postProto, "post/proto/common/v1/id.proto": idProto,
	}
	maps.Copy(all, files)
	for name, text := range all {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "user")
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		all[filepath.ToSlash(rel)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCopiesWhatTheProtoImportsToo(t *testing.T) {
	t.Parallel()
	dir := project(t, nil)
	if _, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"}); err != nil {
		t.Fatal(err)
	}
	got := tree(t, dir)
	for _, name := range []string{"proto/post/v1/service.proto", "proto/post/v1/service_grpc.pb.go", "proto/common/v1/id.proto", "proto/common/v1/id.pb.go"} {
		if got[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
	if !strings.HasSuffix(got["proto/common/v1/id.proto"], idProto) {
		t.Error("the copy does not end with the original")
	}
	if _, ok := got["proto/google/protobuf/empty.proto"]; ok {
		t.Error("a file that is built in was copied")
	}
	again, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"})
	if err != nil || len(again.Changes) != 0 {
		t.Errorf("a second run: %+v, %v", again, err)
	}
	if !maps.Equal(tree(t, dir), got) {
		t.Error("a second run wrote something")
	}
}

// TestOnlyTheListOfMainChanges compares whole files.
func TestOnlyTheListOfMainChanges(t *testing.T) {
	t.Parallel()
	const line, path = `app.Client("post", postv1.NewPostServiceClient),`, `postv1 "example.com/user/proto/post/v1"`
	for name, tc := range map[string]struct{ before, want string }{
		"a group of its own": {mainGo, strings.Replace(strings.Replace(mainGo, "\t\t// newsvc:end", "\t\t"+line+"\n\t\t// newsvc:end", 1),
			"\t\"go.uber.org/fx\"\n", "\t"+path+"\n\t\"go.uber.org/fx\"\n", 1)},
		"beside its like": {strings.Replace(mainGo, "framework/app\"\n", "framework/app\"\n\n\t\"example.com/user/internal/user\" // mine\n\t_ \"example.com/user/z\"\n", 1),
			strings.Replace(strings.Replace(mainGo, "framework/app\"\n", "framework/app\"\n\n\t\"example.com/user/internal/user\" // mine\n\t"+path+"\n\t_ \"example.com/user/z\"\n", 1),
				"\t\t// newsvc:end", "\t\t"+line+"\n\t\t// newsvc:end", 1)},
		"not as gofmt would have it": {strings.Replace(mainGo, "func main() {", "func  main()  {", 1), strings.Replace(strings.Replace(strings.Replace(mainGo, "func main() {", "func  main()  {", 1),
			"\t\t// newsvc:end", "\t\t"+line+"\n\t\t// newsvc:end", 1), "\t\"go.uber.org/fx\"\n", "\t"+path+"\n\t\"go.uber.org/fx\"\n", 1)},
	} {
		for _, eol := range []string{"\n", "\r\n"} {
			t.Run(name+strings.Repeat(" crlf", len(eol)-1), func(t *testing.T) {
				t.Parallel()
				dir := project(t, map[string]string{"user/main.go": strings.ReplaceAll(tc.before, "\n", eol)})
				if _, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"}); err != nil {
					t.Fatal(err)
				}
				if got, want := tree(t, dir)["main.go"], strings.ReplaceAll(tc.want, "\n", eol); got != want {
					t.Errorf("main.go is\n%q\nwant\n%q", got, want)
				}
			})
		}
	}
}

func TestLinesThatAreThere(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"between the marks":   strings.Replace(mainGo, "\t\t// newsvc:end", "\t\tapp.Client(\"post\", x.New),\n\t\t// newsvc:end", 1),
		"without the marks":   strings.ReplaceAll(strings.Replace(mainGo, "\t\t// newsvc:end", "\t\tapp.Client[x.C](`post`, x.New, app.Named(\"a\")),", 1), "newsvc:clients", "mine"),
		"by another name":     strings.ReplaceAll(strings.Replace(strings.Replace(mainGo, "// newsvc:end", "edge.Client(\"post\", x.New),", 1), "\"github.com", "edge \"github.com", 1), "app.Run", "edge.Run"),
		"in a file beside it": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"user/main.go": text}
			if text == "" {
				files = map[string]string{"user/wiring.go": "package main\n\nimport \"github.com/newsvc/newsvc/framework/app\"\n\nvar c = app.Client(\"post\", x)\n"}
			}
			dir := project(t, files)
			before := tree(t, dir)["main.go"]
			if _, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"}); err != nil {
				t.Fatal(err)
			}
			if tree(t, dir)["main.go"] != before {
				t.Error("main.go was changed")
			}
		})
	}
}

func TestMarksCountAsCommentsOnLinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"in a string":      strings.Replace(mainGo, "\t\t// newsvc:clients\n\t\t// newsvc:end\n", "\t}\n}\n\nfunc text() []string {\n\treturn []string{\n\t\t`\n// newsvc:clients\n// newsvc:end\n`,\n", 1),
		"after code":       strings.Replace(mainGo, "return []fx.Option{\n\t\t// newsvc:clients", "return []fx.Option{ // newsvc:clients", 1),
		"the wrong order":  strings.Replace(mainGo, "// newsvc:clients\n\t\t// newsvc:end", "// newsvc:end\n\t\t// newsvc:clients", 1),
		"among statements": strings.Replace(strings.Replace(mainGo, "\t\t// newsvc:clients\n\t\t// newsvc:end\n", "", 1), "\treturn []fx", "\t// newsvc:clients\n\t// newsvc:end\n\treturn []fx", 1),
		"outside of all":   strings.Replace(mainGo, "\t\t// newsvc:clients\n\t\t// newsvc:end\n", "", 1) + "\n// newsvc:clients\n// newsvc:end\n",
		"only the end one": strings.Replace(mainGo, "\t\t// newsvc:clients\n", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := project(t, map[string]string{"user/main.go": text})
			before := tree(t, dir)
			res, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"})
			if problem.Code(err) != problem.Conflict || len(res.Paste) != 2 {
				t.Errorf("Run = %+v, %v; want exit 4 and two lines", res, err)
			}
			if !maps.Equal(tree(t, dir), before) {
				t.Error("the tree changed")
			}
		})
	}
}

func TestPolicyIsAComment(t *testing.T) {
	t.Parallel()
	entry := func(before string) string {
		return before + "post:\n" + before + "  timeout: \"5s\"               # longest unary call, repeats included\n" +
			before + "  balancer: round_robin       # or least_request, ring_hash, weighted_round_robin, pick_first\n" +
			before + "  min_instances: 0            # the start waits for this many instances\n" +
			before + "  retry:\n" + before + "    max_attempts: 4           # of methods without side effects; 1: none is repeated\n"
	}
	for name, tc := range map[string]struct{ before, want string }{
		"at the end":                        {"# log:\n#   level: info", "# log:\n#   level: info\n\n# clients:\n" + entry("#   ")},
		"an empty file":                     {"", "\n# clients:\n" + entry("#   ")},
		"below a comment":                   {"# clients:\n#   other:\n#     timeout: \"1s\"\n", "# clients:\n" + entry("#   ") + "#   other:\n#     timeout: \"1s\"\n"},
		"below clients":                     {"clients:\n  defaults:\n    timeout: \"1s\"\nlog:\n  level: info\n", "clients:\n" + entry("  # ") + "  defaults:\n    timeout: \"1s\"\nlog:\n  level: info\n"},
		"its indentation":                   {"clients: # all\n    # first\n    defaults:\n        timeout: \"1s\"\n", "clients: # all\n" + entry("    # ") + "    # first\n    defaults:\n        timeout: \"1s\"\n"},
		"there already":                     {"clients:\n  post:\n    timeout: \"1s\"\n", "clients:\n  post:\n    timeout: \"1s\"\n"},
		"there, a comment":                  {"# clients:\n#   post:\n", "# clients:\n#   post:\n"},
		"of another section":                {"post:\n  x: 1\n# etcd:\n#   post: a\n# clients:\n#   other:\n\n# log:\n#   post: x\n", "post:\n  x: 1\n# etcd:\n#   post: a\n# clients:\n" + entry("#   ") + "#   other:\n\n# log:\n#   post: x\n"},
		"an anchor":                         {"a: &x {timeout: \"1s\"}\nclients: &c\n  other:\n    <<: *x\nd: *c\n", "a: &x {timeout: \"1s\"}\nclients: &c\n  other:\n    <<: *x\nd: *c\n\n# clients:\n" + entry("#   ")},
		"there, on a line":                  {"clients: {post: {timeout: \"1s\"}, other: {}}\n", "clients: {post: {timeout: \"1s\"}, other: {}}\n"},
		"flow below":                        {"clients:\n  {other: {timeout: \"1s\"}}\n", "clients:\n" + entry("  # ") + "  {other: {timeout: \"1s\"}}\n"},
		"a text that ends as the file does": {"a: |+\n  text\n", "a: |+\n  text\n"},
		"clients on a line":                 {"clients: {defaults: {timeout: \"1s\"}}\n", "clients: {defaults: {timeout: \"1s\"}}\n\n# clients:\n" + entry("#   ")},
	} {
		for _, eol := range []string{"\n", "\r\n"} {
			t.Run(name+strings.Repeat(" crlf", len(eol)-1), func(t *testing.T) {
				t.Parallel()
				before, want := strings.ReplaceAll(tc.before, "\n", eol), strings.ReplaceAll(tc.want, "\n", eol)
				if !strings.Contains(before, "\n") {
					want = tc.want
				}
				dir := project(t, map[string]string{"user/config.yaml": before})
				if _, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "post"}); err != nil {
					t.Fatal(err)
				}
				if got := tree(t, dir)["config.yaml"]; got != want {
					t.Errorf("config.yaml is\n%q\nwant\n%q", got, want)
				}
			})
		}
	}
}

// TestPolicyShowsTheDefaults fails when package client moves and the comment does not.
func TestPolicyShowsTheDefaults(t *testing.T) {
	t.Parallel()
	d := client.DefaultPolicy()
	if d.Timeout != 5*time.Second || d.Balancer != "round_robin" || d.MinInstances != 0 || d.Retry.MaxAttempts != 4 {
		t.Errorf("the defaults are %v, %q, %d, %d; configyaml.go shows others", d.Timeout, d.Balancer, d.MinInstances, d.Retry.MaxAttempts)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	two := "syntax = \"proto3\";\npackage post.v1;\nservice AService {}\nservice BService {}\n"
	for _, tc := range []struct {
		name  string
		files map[string]string
		o     addclient.Options
		exit  int
		want  string
	}{
		{"several services", map[string]string{"post/proto/post/v1/service.proto": two}, addclient.Options{Name: "post"}, problem.Conflict, "post has 2 services, and none is called PostService"},
		{"not found", nil, addclient.Options{Name: "nobody"}, problem.NotFound, "no proto found for nobody"},
		{"broken main", map[string]string{"user/main.go": "package main\nfunc {"}, addclient.Options{Name: "post"}, problem.Failed, "main.go is no Go code"},
		{"broken config", map[string]string{"user/config.yaml": "a: [\n"}, addclient.Options{Name: "post"}, problem.Failed, "config.yaml is no YAML"},
		{"a proto in the way", map[string]string{"user/proto/common/v1/id.proto": "syntax = \"proto3\";\n"}, addclient.Options{Name: "post"}, problem.Conflict, "proto/common/v1/id.proto is in the way: it is no copy of ../post/proto/common/v1/id.proto"},
		{"a broken proto", map[string]string{"post/proto/common/v1/id.proto": "syntax = \"proto3\";\npackage common.v1;\nmessage Ib {}\n"}, addclient.Options{Name: "post"}, problem.Failed, "unknown request type common.v1.Id; did you mean common.v1.Ib?"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.o.Dir = project(t, tc.files)
			before := tree(t, tc.o.Dir)
			_, err := addclient.Run(t.Context(), tc.o)
			var p *problem.Error
			if !errors.As(err, &p) || p.ExitCode() != tc.exit || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Run = %v, want exit %d and %q", err, tc.exit, tc.want)
			}
			if !maps.Equal(tree(t, tc.o.Dir), before) {
				t.Error("the tree changed")
			}
		})
	}
}

// The framework is a module that every project requires; its example APIs are taken when --proto names them, and only then.
func TestAnExampleOfTheFrameworkIsNamedByProtoOnly(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{
		"user/go.mod":                    "module example.com/user\n\ngo 1.26\n\nrequire github.com/newsvc/newsvc v0.0.0\n\nreplace github.com/newsvc/newsvc => ../fw\n",
		"fw/go.mod":                      "module github.com/newsvc/newsvc\n",
		"fw/proto/pos/v1/pos.proto":      "syntax = \"proto3\";\npackage pos.v1;\nservice PosService {}\n",
		"fw/proto/pos/v1/pos_grpc.pb.go": "package posv1\n",
	})
	_, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "pos"})
	var e *problem.Error
	if !errors.As(err, &e) || e.Exit != problem.NotFound || !strings.Contains(e.What, "did you mean post?") || e.Fix != "newsvc add client post" {
		t.Errorf("error %+v, want exit 5 that asks for post", err)
	}
	res, err := addclient.Run(t.Context(), addclient.Options{Dir: dir, Name: "pos", Proto: "../fw/proto"})
	if err != nil || res.Import != "github.com/newsvc/newsvc/proto/pos/v1" {
		t.Errorf("with --proto: %q, %v; want the import of the framework's package", res.Import, err)
	}
}
