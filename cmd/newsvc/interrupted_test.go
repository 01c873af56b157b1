//go:build unix

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestASignalLeavesNothingHalfWritten ends newsvc create while it writes: afterwards the project is there with all its
// files, or nothing is.
func TestASignalLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	caught := 0
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGHUP, syscall.SIGHUP} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "newsvc"), "create", "blogger-user", "--no-verify", "-q")
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		if writing(dir, done) {
			caught++
			_ = cmd.Process.Signal(sig) // it may have ended just now
		}
		<-done
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if files := countFiles(t, filepath.Join(dir, e.Name())); e.Name() != "blogger-user" || files != 29 {
				t.Errorf("%v leaves %s with %d files", sig, e.Name(), files)
			}
		}
	}
	if caught == 0 {
		t.Error("newsvc create was never seen while it writes, so nothing was tested")
	}
}

// writing returns when the directory that becomes the project is there; false when newsvc has ended before.
func writing(dir string, done chan error) bool {
	for {
		select {
		case err := <-done:
			done <- err
			return false
		default:
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".newsvc-create-") {
				return true
			}
		}
	}
}

func countFiles(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
