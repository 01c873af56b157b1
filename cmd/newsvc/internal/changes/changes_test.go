package changes_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(foreverIn); dir != "" {
		os.Exit(writeForever(dir))
	}
	goleak.VerifyTestMain(m)
}

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

func TestReadOnlyFilesAreNotReplaced(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x")
	put(t, name, "1")
	if err := os.Chmod(name, 0o400); err != nil {
		t.Fatal(err)
	}
	var s changes.Set
	if err := s.Write(name, []byte("2")); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Write = %v, want a refusal", err)
	}
	if err := s.Write(name, []byte("1")); err != nil {
		t.Errorf("Write of what is there = %v", err)
	}
}

// TestAFailureBringsTheSameFilesBack looks at what a listing shows of files that had been replaced already, and of others.
func TestAFailureBringsTheSameFilesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	before := map[string]fs.FileInfo{}
	for name, mode := range map[string]fs.FileMode{"a": 0o640, "b": 0o755, "untouched": 0o600} {
		name = filepath.Join(dir, name)
		put(t, name, "1")
		info, err := os.Stat(name)
		if err = errors.Join(err, os.Chmod(name, mode), os.Chtimes(name, old, old)); err != nil {
			t.Fatal(err)
		}
		before[name] = info
	}
	var s changes.Set
	for _, name := range []string{"a", "b", "z"} {
		write(t, &s, filepath.Join(dir, name), "2")
	}
	put(t, filepath.Join(dir, "z"), "theirs") // found last
	if err := s.Apply(); err == nil {
		t.Fatal("Apply returned no error")
	}
	for name, was := range before {
		is, err := os.Stat(name)
		if err != nil || !os.SameFile(was, is) || !is.ModTime().Equal(old) {
			t.Errorf("%s is another file or has another time: %v, %v", name, is.ModTime(), err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"a": 0o640, "b": 0o755, "untouched": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
}

// foreverIn is the directory of a process that this test program becomes, see [writeForever].
const foreverIn = "NEWSVC_CHANGES_FOREVER"

// writeForever replaces files, all by the same content, until a signal ends the process.
func writeForever(dir string) int {
	for n := 0; ; n++ {
		var s changes.Set
		for i := range 20 {
			if err := s.Write(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, n)); err != nil {
				return 3
			}
		}
		if err := s.Apply(); err != nil {
			return 4
		}
		if n == 0 {
			fmt.Println("first")
		}
	}
}

// TestSignalsWaitForTheLastFile ends a process that writes all the time: never between two files of one step.
func TestSignalsWaitForTheLastFile(t *testing.T) {
	t.Parallel()
	for round := range 10 {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), foreverIn+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		tick := time.NewTicker(time.Duration(100+round*37) * time.Microsecond)
		for err = nil; err == nil; { // a signal that arrives inside a step is swallowed: this program has no other handler
			select {
			case err = <-ended:
			case <-tick.C:
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
		}
		tick.Stop()
		if state := cmd.ProcessState.Sys().(syscall.WaitStatus); state.Signal() != syscall.SIGTERM {
			t.Fatalf("the process ended with %v", err)
		}
		contents := map[string]int{}
		for name, text := range tree(t, dir) {
			if !strings.HasSuffix(name, "/") {
				contents[text]++
			}
		}
		if len(contents) != 1 || slices.Max(slices.Collect(maps.Values(contents))) != 20 {
			t.Fatalf("round %d: files by content: %v, want 20 of one", round, contents)
		}
	}
}
