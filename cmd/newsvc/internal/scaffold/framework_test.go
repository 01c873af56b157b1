package scaffold_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

// dirWith makes a directory that is the root of a module.
func dirWith(t *testing.T, module string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module "+module+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFindFramework(t *testing.T) {
	t.Parallel()
	checkout, second, foreign, empty := dirWith(t, buildinfo.Module), dirWith(t, buildinfo.Module), dirWith(t, "example.com/x"), t.TempDir()
	deep := filepath.Join(checkout, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	release := buildinfo.Info{Version: "v0.4.0", Sum: "h1:x"}
	onTag := buildinfo.Info{Version: "v0.4.0"}
	source := filepath.Join(checkout, "cmd", "newsvc", "internal", "scaffold", "framework.go")
	const trimmed = "github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold/framework.go"
	for _, tc := range []struct {
		name string
		in   scaffold.FrameworkQuery
		want scaffold.Framework
	}{
		{"installed release", scaffold.FrameworkQuery{Build: release, Source: trimmed, Cwd: empty}, scaffold.Framework{Version: "v0.4.0"}},
		{"installed release inside a checkout", scaffold.FrameworkQuery{Build: release, Source: trimmed, Cwd: checkout}, scaffold.Framework{Version: "v0.4.0"}},
		{"checkout on a tag", scaffold.FrameworkQuery{Build: onTag, Source: source, Cwd: empty}, scaffold.Framework{Dir: checkout}},
		{"checkout", scaffold.FrameworkQuery{Source: source, Cwd: empty}, scaffold.Framework{Dir: checkout}},
		{"trimmed, from the checkout", scaffold.FrameworkQuery{Source: trimmed, Cwd: deep}, scaffold.Framework{Dir: checkout}},
		{"checkout moved away, another around", scaffold.FrameworkQuery{Source: "/nowhere/framework.go", Cwd: second}, scaffold.Framework{Dir: second}},
		{"flag is a version", scaffold.FrameworkQuery{Flag: "v0.5.0-rc.1", Env: second, Build: release, Cwd: empty}, scaffold.Framework{Version: "v0.5.0-rc.1"}},
		{"flag is a directory", scaffold.FrameworkQuery{Flag: second, Build: release, Cwd: empty}, scaffold.Framework{Dir: second}},
		{"flag is a relative directory", scaffold.FrameworkQuery{Flag: "../..", Cwd: deep}, scaffold.Framework{Dir: checkout}},
		{"environment", scaffold.FrameworkQuery{Env: second, Source: source, Cwd: empty}, scaffold.Framework{Dir: second}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := scaffold.FindFramework(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("FindFramework = %+v, want %+v", got, tc.want)
			}
		})
	}
	for _, tc := range []struct {
		name string
		in   scaffold.FrameworkQuery
		exit int
		want string
	}{
		{"nothing found", scaffold.FrameworkQuery{Source: trimmed, Cwd: empty}, problem.Environment, "this newsvc was built from a checkout that cannot be found any more"},
		{"foreign directory", scaffold.FrameworkQuery{Flag: foreign, Cwd: empty}, problem.Usage, "says module example.com/x"},
		{"no directory", scaffold.FrameworkQuery{Flag: "nowhere", Cwd: empty}, problem.Usage, `--framework "nowhere" is neither a version nor a checkout`},
		{"short version", scaffold.FrameworkQuery{Flag: "v1", Cwd: empty}, problem.Usage, "a version with three numbers"},
		{"bad environment", scaffold.FrameworkQuery{Env: "x", Cwd: empty}, problem.Usage, `NEWSVC_FRAMEWORK "x" is neither`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := scaffold.FindFramework(tc.in)
			var p *problem.Error
			if !errors.As(err, &p) || p.ExitCode() != tc.exit || !strings.Contains(err.Error(), tc.want) || p.Fix == "" {
				t.Errorf("FindFramework = %v, want exit %d, %q and a remedy", err, tc.exit, tc.want)
			}
		})
	}
}

func TestProjectFramework(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, gomod, want string }{
		{"release", "module example.com/x\n\nrequire github.com/newsvc/newsvc v0.4.0\n", "github.com/newsvc/newsvc v0.4.0"},
		{"checkout", "module example.com/x\n\nrequire github.com/newsvc/newsvc v0.0.0-00010101000000-000000000000\n\nreplace github.com/newsvc/newsvc => ../newsvc\n", "github.com/newsvc/newsvc => ../newsvc"},
		{"repository", "module github.com/newsvc/newsvc\n", "the framework's own repository"},
		{"foreign", "module example.com/x\n", ""},
		{"broken", "modul\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(tc.gomod), 0o644); err != nil {
				t.Fatal(err)
			}
			below := filepath.Join(dir, "internal", "x")
			if err := os.MkdirAll(below, 0o755); err != nil {
				t.Fatal(err)
			}
			if got := scaffold.ProjectFramework(below); got != tc.want {
				t.Errorf("ProjectFramework = %q, want %q", got, tc.want)
			}
		})
	}
}
