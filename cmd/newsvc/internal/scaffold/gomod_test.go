package scaffold_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
	"github.com/newsvc/newsvc/templates"
)

const root = "../../../.."

// stubs is the module of the plugin that writes gRPC stubs, a tool of new projects.
const stubs = "google.golang.org/grpc/cmd/protoc-gen-go-grpc"

func stored(t *testing.T, name string) []byte {
	t.Helper()
	text, err := templates.FS.ReadFile("gomod/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func modOf(t *testing.T, name string, text []byte) *modfile.File {
	t.Helper()
	f, err := modfile.Parse(name, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestStoredModIsTidy lets the go command complete the go.mod of a new project: it has to find nothing to do.
func TestStoredModIsTidy(t *testing.T) {
	t.Parallel()
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{scaffold.Service, scaffold.Gateway} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			isTidy(t, abs, kind)
		})
	}
}

func isTidy(t *testing.T, abs, kind string) {
	t.Helper()
	mod, sum, err := scaffold.Tidy(t.Context(), abs, kind)
	if err != nil {
		for _, sign := range []string{"module lookup disabled by GOPROXY", "dial tcp", "no such host", "i/o timeout"} {
			if strings.Contains(err.Error(), sign) {
				t.Skipf("no network, and a module that is not in the cache is needed: %v", err)
			}
		}
		t.Fatal(err)
	}
	const fix = "run: go run ./cmd/newsvc/internal/scaffold/gomod"
	if diff := cmp.Diff(string(stored(t, kind+".mod")), string(mod)); diff != "" {
		t.Errorf("go mod tidy changes the go.mod of a new project; %s\n%s", fix, diff)
	}
	if diff := cmp.Diff(string(stored(t, kind+".sum")), string(sum)); diff != "" {
		t.Errorf("go mod tidy changes the go.sum of a new project; %s\n%s", fix, diff)
	}
}

// TestStoredModFollowsTheFramework needs no network: a new project asks for exactly what the framework is built with.
func TestStoredModFollowsTheFramework(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	tools, err := os.ReadFile(filepath.Join(root, "tools", "gen", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := modOf(t, "go.mod", text), modOf(t, "service.mod", stored(t, "service.mod"))
	if ours.Go.Version != theirs.Go.Version {
		t.Errorf("a new project says go %s, the framework go %s", theirs.Go.Version, ours.Go.Version)
	}
	versions := map[string]string{}
	for _, r := range modOf(t, "go.mod", tools).Require {
		if r.Mod.Path == stubs { // no package of the framework imports it
			versions[r.Mod.Path] = r.Mod.Version
		}
	}
	for _, r := range ours.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	for _, r := range theirs.Require {
		if versions[r.Mod.Path] != r.Mod.Version {
			t.Errorf("a new project requires %s, the framework %s", r.Mod, versions[r.Mod.Path])
		}
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	toolSums, err := os.ReadFile(filepath.Join(root, "tools", "gen", "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range bytes.Lines(sums) {
		known[string(line)] = true
	}
	for line := range bytes.Lines(toolSums) {
		if bytes.HasPrefix(line, []byte(stubs+" ")) {
			known[string(line)] = true
		}
	}
	for line := range bytes.Lines(stored(t, "service.sum")) {
		if !known[string(line)] {
			t.Errorf("go.sum of a new project has a line that the framework's lacks: %s", bytes.TrimSpace(line))
		}
	}
}
