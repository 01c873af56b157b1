package scaffold_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

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

// TestALongBuildSaysThatItIsAtWork has a go command that works until create has said so.
func TestALongBuildSaysThatItIsAtWork(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the go command of this test is a shell script")
	}
	bin, cwd := t.TempDir(), realTemp(t)
	said := filepath.Join(bin, "said")
	script := "#!/bin/sh\nwhile [ ! -e '" + said + "' ]; do sleep 0.1; done\n"
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(script), 0o755); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	progress := writerFunc(func(p []byte) {
		if strings.HasPrefix(string(p), "  wait      go build ./... is at work") {
			if err := os.WriteFile(said, nil, 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := scaffold.Create(ctx, scaffold.Options{Name: "web", Cwd: cwd, Progress: progress}); err != nil {
		t.Errorf("Create = %v", err)
	}
}

// TestCreateOnlyBuilds has a go command that writes down what it is asked for: go.mod and go.sum are as they are written, and
// nothing is tidied, downloaded or fetched.
func TestCreateOnlyBuilds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the go command of this test is a shell script")
	}
	bin, cwd := t.TempDir(), realTemp(t)
	asked := filepath.Join(bin, "asked")
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\necho \"$*\" >>'"+asked+"'\n"), 0o755); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	for _, kind := range []string{scaffold.Service, scaffold.Gateway} {
		if _, err := scaffold.Create(t.Context(), scaffold.Options{Kind: kind, Name: "web-" + kind, Cwd: cwd}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(asked)
	if want := "build ./...\nbuild ./...\n"; err != nil || string(got) != want {
		t.Errorf("the go command was asked for\n%s%v, want\n%s", got, err, want)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// TestGoIsRaisedAsTheGoCommandCompares has a go.mod as people write it: for the go command 1.26 is older than 1.26.0, and a
// module that needs more than it says does not build.
func TestGoIsRaisedAsTheGoCommandCompares(t *testing.T) {
	t.Parallel()
	for given, raised := range map[string]bool{"1.25": true, "1.26": true, "1.26rc1": true, "1.26.0": false, "1.99": false} {
		cwd := realTemp(t)
		for name, text := range map[string]string{
			"go.mod": "module example.com/repo\n\ngo " + given + "\n", "newsvc.yaml": "kind: workspace\n",
		} {
			if err := os.WriteFile(filepath.Join(cwd, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		res, err := scaffold.Create(t.Context(), scaffold.Options{Name: "web", Cwd: cwd, NoVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(cwd, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if kept := strings.Contains(string(text), "\ngo "+given+"\n"); kept == raised {
			t.Errorf("go %s: raised is %v, want %v\n%.100s", given, !kept, raised, text)
		}
		if told := len(res.Raised) == 1 && strings.HasPrefix(res.Raised[0], "go "+given+" -> 1.26."); told != raised {
			t.Errorf("go %s: %q is said to be raised, want %v", given, res.Raised, raised)
		}
	}
}

// TestSumsOfAWorkspaceAreInOrder completes the go.sum of a repository that has lines of its own.
func TestSumsOfAWorkspaceAreInOrder(t *testing.T) {
	t.Parallel()
	cwd := realTemp(t)
	const own = "example.com/dep v1.10.0 h1:b=\nexample.com/dep v1.10.0/go.mod h1:b=\nexample.com/dep v1.9.0 h1:a=\n"
	for name, text := range map[string]string{
		"go.mod": "module example.com/repo\n\ngo 1.22\n", "go.sum": own, "newsvc.yaml": "kind: workspace\n",
	} {
		if err := os.WriteFile(filepath.Join(cwd, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := scaffold.Create(t.Context(), scaffold.Options{Name: "web", Cwd: cwd, NoVerify: true})
	if err != nil || strings.Join(res.Updated, " ") != "go.mod go.sum" {
		t.Fatalf("Create = %+v, %v; want go.mod and go.sum to be updated", res, err)
	}
	text, err := os.ReadFile(filepath.Join(cwd, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "example.com/dep v1.9.0 h1:a=\nexample.com/dep v1.10.0 h1:b=\nexample.com/dep v1.10.0/go.mod h1:b=\n"
	if !strings.Contains(string(text), want) || strings.Count(string(text), "\n") < 100 {
		t.Errorf("go.sum does not have its lines in the go command's order:\n%.300s", text)
	}
	// A second service finds all of it there.
	res, err = scaffold.Create(t.Context(), scaffold.Options{Name: "api", Cwd: cwd, NoVerify: true})
	if err != nil || len(res.Updated) != 0 {
		t.Errorf("the second Create = %q, %v; want nothing to be updated", res.Updated, err)
	}
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
