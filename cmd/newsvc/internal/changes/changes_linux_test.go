package changes_test

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
)

// TestAFullDiskLeavesTheTreeAsItWas has a file system with room for some of the files.
func TestAFullDiskLeavesTheTreeAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	put(t, filepath.Join(dir, "a"), "1")
	put(t, filepath.Join(dir, "b"), strings.Repeat("old", 10_000))
	var s changes.Set
	for _, name := range []string{"a", "new/one", "b", "new/two"} {
		write(t, &s, filepath.Join(dir, name), strings.Repeat("x", 80_000))
	}
	before := tree(t, dir)
	if err := s.Apply(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Apply = %v, want a full disk", err)
	}
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Errorf("the tree has %d entries, want the %d as before", len(after), len(before))
	}
}
