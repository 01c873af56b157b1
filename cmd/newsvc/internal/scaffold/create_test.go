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

// replaceLine is the replace directive of the project that was created in cwd.
func replaceLine(t *testing.T, cwd, service string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cwd, service, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "replace ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// realTemp is a temporary directory without links in its path.
func realTemp(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReplaceIsRelativeWhenNear(t *testing.T) {
	t.Parallel()
	top := realTemp(t)
	checkout := mkdir(t, top, "new svc")
	if err := os.WriteFile(filepath.Join(checkout, "go.mod"), []byte("module "+buildinfo.Module+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(top, "link")
	if err := os.Symlink(mkdir(t, top, "a", "b"), link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, cwd, want string }{
		{"beside", top, `"../new svc"`},
		{"three up", mkdir(t, top, "x", "y"), `"../../../new svc"`},
		{"four up", mkdir(t, top, "x", "y", "z"), `"` + filepath.ToSlash(checkout) + `"`},
		{"through a link", link, `"` + filepath.ToSlash(checkout) + `"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := scaffold.Options{Name: "blogger-user", Cwd: tc.cwd, FrameworkFlag: checkout, NoVerify: true}
			if _, err := scaffold.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if got := replaceLine(t, tc.cwd, "blogger-user"); got != "replace github.com/newsvc/newsvc => "+tc.want {
				t.Errorf("go.mod says %s, want => %s", got, tc.want)
			}
		})
	}
}

func TestEmptyDirectoryIsFilled(t *testing.T) {
	t.Parallel()
	cwd := realTemp(t)
	mkdir(t, cwd, "blogger-user")
	if _, err := scaffold.Create(t.Context(), scaffold.Options{Name: "blogger-user", Cwd: cwd, NoVerify: true}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(cwd, "blogger-user"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the project's directory is %v, %v; want mode 0755", info.Mode(), err)
	}
	only(t, cwd, "blogger-user")
}

func TestLinksAreNotReplaced(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]string{"to nothing": "nowhere", "to an empty directory": "empty"} {
		cwd := realTemp(t)
		mkdir(t, cwd, "empty")
		if err := os.Symlink(target, filepath.Join(cwd, "blogger-user")); err != nil {
			t.Fatal(err)
		}
		_, err := scaffold.Create(t.Context(), scaffold.Options{Name: "blogger-user", Cwd: cwd, NoVerify: true})
		var p *problem.Error
		if !errors.As(err, &p) || p.ExitCode() != problem.Conflict || !strings.Contains(p.What, "symbolic link") {
			t.Errorf("%s: Create = %v, want exit 4 and that a link is there", name, err)
		}
		if got, err := os.Readlink(filepath.Join(cwd, "blogger-user")); err != nil || got != target {
			t.Errorf("%s: the link is %q now, %v", name, got, err)
		}
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	t.Parallel()
	cwd := realTemp(t)
	repo := mkdir(t, cwd, "repo")
	for name, text := range map[string]string{"go.mod": "module " + buildinfo.Module + "\n", "examples": "a file where a directory has to be\n"} {
		if err := os.WriteFile(filepath.Join(repo, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := scaffold.Create(t.Context(), scaffold.Options{Name: "blogger-user", Cwd: repo, NoVerify: true})
	var p *problem.Error
	if !errors.As(err, &p) || p.ExitCode() != problem.Failed || p.Fix == "" {
		t.Errorf("Create = %v, want exit 1 and a remedy", err)
	}
	only(t, repo, "examples", "go.mod")
}

func TestVersionThatCannotBeDownloaded(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-modcacherw")
	t.Setenv("GOMODCACHE", t.TempDir())
	cwd := realTemp(t)
	_, err := scaffold.Create(t.Context(), scaffold.Options{Name: "blogger-user", Cwd: cwd, FrameworkFlag: "v0.4.0"})
	var p *problem.Error
	if !errors.As(err, &p) || p.ExitCode() != problem.Environment || !strings.Contains(p.At, "GOPROXY=off") {
		t.Errorf("Create = %v, want exit 3 and what the go command said", err)
	}
	only(t, cwd)
}

func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}
