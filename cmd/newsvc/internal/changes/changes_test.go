package changes_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree is all that is below dir: directories with a trailing slash, files with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			all[name+"/"] = ""
			return nil
		}
		text, err := os.ReadFile(name)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, s *changes.Set, name, text string) {
	t.Helper()
	if err := s.Write(name, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestWritesAllAndKeepsModesAndLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, link, fresh, same := filepath.Join(dir, "old"), filepath.Join(dir, "link"), filepath.Join(dir, "a/b/new"), filepath.Join(dir, "same")
	put(t, old, "1")
	put(t, same, "s")
	if err := os.Symlink("old", link); err != nil {
		t.Fatal(err)
	}
	var s changes.Set
	write(t, &s, link, "2")
	write(t, &s, fresh, "n")
	write(t, &s, same, "s")
	want := []changes.Change{{Action: changes.Update, Path: link}, {Action: changes.Create, Path: fresh}, {Action: changes.Same, Path: same}}
	for i, c := range s.Plan() {
		if c != want[i] {
			t.Errorf("plan %d is %v, want %v", i, c, want[i])
		}
	}
	if err := s.Apply(); err != nil {
		t.Fatal(err)
	}
	got := tree(t, dir)
	if got[old] != "2" || got[fresh] != "n" || got[same] != "s" || len(got) != 7 {
		t.Errorf("the tree is %q", got)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is no link any more: %v, %v", info, err)
	}
	if info, err := os.Stat(old); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v; want 0600 as before", info.Mode(), err)
	}
}

func TestAFailureLeavesTheTreeAsItWas(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"the last file becomes a directory": func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "z", "in it"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"its directory becomes a file":     func(t *testing.T, dir string) { put(t, filepath.Join(dir, "deep"), "x") },
		"somebody writes a file meanwhile": func(t *testing.T, dir string) { put(t, filepath.Join(dir, "b"), "theirs") },
		"somebody removes a file":          func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "b")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, filepath.Join(dir, "a"), "1")
			put(t, filepath.Join(dir, "b"), "1")
			var s changes.Set
			for _, f := range []string{"a", "new", "b", "deep/er/file", "z"} {
				write(t, &s, filepath.Join(dir, f), "2")
			}
			spoil(t, dir)
			before := tree(t, dir)
			if err := s.Apply(); err == nil {
				t.Fatal("Apply returned no error")
			}
			if after := tree(t, dir); !maps.Equal(before, after) {
				t.Errorf("the tree was %q and is %q", before, after)
			}
		})
	}
}

func TestReadSeesWhatIsPending(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x")
	var s changes.Set
	if _, err := s.Read(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read = %v, want ErrNotExist", err)
	}
	write(t, &s, name, "1")
	write(t, &s, name, "2")
	if got, err := s.Read(name); err != nil || string(got) != "2" {
		t.Errorf("Read = %q, %v", got, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Write touched the disk")
	}
}

func TestWhatIsNoFileIsNotReplaced(t *testing.T) {
	t.Parallel()
	var s changes.Set
	if err := s.Write(t.TempDir(), []byte("x")); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("Write = %v, want a refusal", err)
	}
}
