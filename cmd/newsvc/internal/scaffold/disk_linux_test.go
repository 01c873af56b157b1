package scaffold_test

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

// TestAFullDiskIsLeftAsItWas creates projects of each form where there is room for some of their files.
func TestAFullDiskIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	dir := realTemp(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=60k"); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	o := scaffold.Options{Name: "web", Cwd: dir, NoVerify: true}
	_, created := scaffold.Create(t.Context(), o)
	_, inited := scaffold.Init(t.Context(), o, "acme")
	for what, err := range map[string]error{"create": created, "init": inited} {
		var p *problem.Error
		if !errors.As(err, &p) || p.ExitCode() != problem.Failed || !strings.HasSuffix(p.What, ": no space left on device") ||
			!strings.Contains(p.At, dir+string(filepath.Separator)) || !strings.HasPrefix(p.Fix, "make room on the disk") {
			t.Errorf("%s = %#v, want exit 1, the reason, the file and what to do", what, err)
		}
	}
	only(t, dir)
}
