package generate_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const proto = `syntax = "proto3";
package user.v1;
service UserService {
  rpc Get(Ref) returns (Ref);
}
message Ref {}
`

// project writes files into a new directory and returns it.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWritesOnceThenNothing(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"go.mod": "module example.com/user\n", "proto/user/v1/service.proto": proto})
	first, err := generate.Run(t.Context(), generate.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"proto/user/v1/service.pb.go", "proto/user/v1/service_grpc.pb.go"}; !slices.Equal(first.Updated, want) {
		t.Errorf("the first run wrote %q, want %q", first.Updated, want)
	}
	second, err := generate.Run(t.Context(), generate.Options{Dir: dir})
	if err != nil || len(second.Updated) != 0 || second.Same != 2 {
		t.Errorf("the second run says %+v, %v; want 2 files unchanged", second, err)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "proto/user/v1"))
	if len(entries) != 3 {
		t.Errorf("%d files lie beside the proto, want 3: no temporary ones", len(entries))
	}
}

func TestFromBelowAndInsideAnotherModule(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{
		"go.mod":                              "module example.com/mono\n",
		"svc/user/proto/user/v1/user.proto":   proto,
		"svc/user/internal/deep/.placeholder": "",
	})
	res, err := generate.Run(t.Context(), generate.Options{Dir: filepath.Join(dir, "svc/user/internal/deep")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "../../proto/user/v1/user.pb.go"; !slices.Contains(res.Updated, want) {
		t.Errorf("updated %q, want %q among them", res.Updated, want)
	}
	if text := read(t, dir, "svc/user/proto/user/v1/user.pb.go"); !strings.Contains(text, "example.com/mono/svc/user/proto/user/v1") {
		t.Error("the import path does not follow the directory")
	}
}

func TestProtoDirectoryMayBeALink(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"go.mod": "module example.com/user\n", "api/user/v1/service.proto": proto})
	if err := os.Symlink("api", filepath.Join(dir, "proto")); err != nil {
		t.Fatal(err)
	}
	res, err := generate.Run(t.Context(), generate.Options{Dir: dir})
	if err != nil || len(res.Updated) != 2 {
		t.Errorf("Run = %+v, %v; want two files", res, err)
	}
}

func TestCheckWritesNothing(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"go.mod": "module example.com/user\n", "proto/user/v1/service.proto": proto, "proto/user/v1/service.pb.go": "package old\n"})
	res, err := generate.Run(t.Context(), generate.Options{Dir: dir, Check: true})
	if problem.Code(err) != problem.Conflict || len(res.Updated) != 2 {
		t.Errorf("Run = %+v, %v; want exit 4 and two files", res, err)
	}
	if read(t, dir, "proto/user/v1/service.pb.go") != "package old\n" {
		t.Error("--check wrote a file")
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		files map[string]string
		exit  int
		want  string
	}{
		{"no project", map[string]string{"x": ""}, problem.Usage, "no project with .proto files here"},
		{"module without protos", map[string]string{"go.mod": "module example.com/user\n"}, problem.Usage, "no project with .proto files here"},
		{"empty proto directory", map[string]string{"go.mod": "module example.com/user\n", "proto/x": ""}, problem.Usage, "there are no .proto files"},
		{
			"broken proto", map[string]string{"go.mod": "module example.com/user\n", "proto/user/v1/service.proto": strings.Replace(proto, "(Ref) returns", "(Reff) returns", 1)},
			problem.Failed, "proto/user/v1/service.proto does not compile\n   at: proto/user/v1/service.proto:4:11: ",
		},
		{
			"two files of one name",
			map[string]string{
				"go.mod": "module example.com/user\n", "proto/user/v1/service.proto": proto,
				"proto/user/v1/service_grpc.proto": "syntax = \"proto3\";\npackage user.v1;\nmessage Other {}\n",
			},
			problem.Failed, "proto/user/v1/service_grpc.proto:1:1: its Go code and the gRPC stubs of user/v1/service.proto would both be user/v1/service_grpc.pb.go",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := generate.Run(t.Context(), generate.Options{Dir: project(t, tc.files)})
			var p *problem.Error
			if !errors.As(err, &p) || p.ExitCode() != tc.exit || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Run = %v, want exit %d and %q", err, tc.exit, tc.want)
			}
		})
	}
}
