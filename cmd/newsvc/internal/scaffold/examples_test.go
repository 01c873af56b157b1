package scaffold_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
	"github.com/newsvc/newsvc/templates"
)

// shown is one of the framework's examples: a project that create wrote and people went on with.
type shown struct {
	kind string
	// count is how many files create writes of it.
	count int
	// same are the files that nobody changed. Those of .newsvc are what create writes with today's templates: the example
	// follows them by hand, in the commit that changes them, so that a later upgrade finds nothing to merge.
	same []string
	// elsewhere are files that lie at another path below the repository's root.
	elsewhere map[string]string
	// without says why a file is not there; all that is in no list is there and was changed.
	without map[string]string
}

func examples() map[string]shown {
	const own = "its first commit put methods of its own in place of the one that create shows"
	const annotated = "its routes are the annotations of user.proto, served by grpc-gateway: there is no code of its own (docs/decisions/0024)"
	record := []string{".newsvc/.gitignore", ".newsvc/base.txtar", ".newsvc/template.json", ".gitignore", "Dockerfile"}
	return map[string]shown{
		"user-service": {
			kind: scaffold.Service, count: 20, same: record,
			elsewhere: map[string]string{ // third parties call it, so its API is where they look
				"proto/user/v1/service.proto":      "proto/user/v1/user.proto",
				"proto/user/v1/service.pb.go":      "proto/user/v1/user.pb.go",
				"proto/user/v1/service_grpc.pb.go": "proto/user/v1/user_grpc.pb.go",
			},
			without: map[string]string{"internal/user/ping.go": own, "internal/user/ping_test.go": own},
		},
		"gateway": {
			kind: scaffold.Gateway, count: 17, same: append(record, "deploy/k8s.yaml"),
			without: map[string]string{
				"internal/gateway/config.go": annotated, "internal/gateway/config_test.go": annotated,
				"internal/gateway/handler.go": annotated, "internal/gateway/handler_test.go": annotated,
				"internal/gateway/ping.go": annotated, "internal/gateway/ping_test.go": annotated,
			},
		},
	}
}

// TestExamplesAreProjects compares what create writes in the framework's repository with the examples that are there.
func TestExamplesAreProjects(t *testing.T) {
	t.Parallel()
	for name, ex := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := render(t, scaffold.Spec{
				Kind: ex.kind, Name: parse(t, name), Module: buildinfo.Module, InRepo: true, Framework: scaffold.Framework{Dir: root}, CLI: "(devel)",
			})
			if len(files) != ex.count {
				t.Errorf("create writes %d files, and %d are compared", len(files), ex.count)
			}
			for _, f := range files {
				ex.compare(t, filepath.Join(root, "examples", name), f)
				delete(ex.elsewhere, f.Path)
				delete(ex.without, f.Path)
			}
			if len(ex.elsewhere)+len(ex.without) > 0 {
				t.Errorf("create does not write these exceptions: %v %v", ex.elsewhere, ex.without)
			}
			says, err := os.ReadFile(filepath.Join(root, "examples", name, "newsvc.yaml"))
			for _, want := range []string{"kind: service\n", "name: " + name + "\n", fmt.Sprintf("template: %d\n", templates.Version), "answers:\n  module: " + buildinfo.Module + "\n"} {
				if err != nil || !strings.Contains(string(says), want) {
					t.Errorf("newsvc.yaml does not say %q: %v", want, err)
				}
			}
		})
	}
}

// compare looks for one file that create writes; with -update those that nobody changed are written anew.
func (ex shown) compare(t *testing.T, dir string, f scaffold.File) {
	t.Helper()
	at := filepath.Join(dir, filepath.FromSlash(f.Path))
	if p, ok := ex.elsewhere[f.Path]; ok {
		at = filepath.Join(root, filepath.FromSlash(p))
	}
	same := false
	for _, p := range ex.same {
		same = same || p == f.Path
	}
	if same && *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, f.Content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(at)
	why, excepted := ex.without[f.Path]
	switch {
	case errors.Is(err, fs.ErrNotExist) && !excepted:
		t.Errorf("there is no %s, which create writes", f.Path)
	case err == nil && excepted:
		t.Errorf("there is %s: take it from the list of what is not there (%s)", f.Path, why)
	case err != nil && !excepted:
		t.Error(err)
	case err == nil && same && !bytes.Equal(text, f.Content):
		t.Errorf("%s is not what create writes with today's templates: take over into the example what changed in them, and then go test ./cmd/newsvc/internal/scaffold -update", f.Path)
	case err == nil && !same && bytes.Equal(text, f.Content):
		t.Errorf("%s is just as create writes it: say so in the list of those", f.Path)
	}
}
