package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
)

// warnOfPath tells, below the next steps of create and init, that a shell would not find the command they begin with: newsvc
// was called by its full path, and the directory where go install put it is not in PATH.
func warnOfPath(ctx context.Context, to io.Writer) {
	if _, err := exec.LookPath("newsvc"); err == nil {
		return
	}
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	bin, inPath := doctor.GoBin(ctx, os.Environ())
	switch own := filepath.Dir(self); {
	case own != "." && own != bin && strings.TrimSuffix(filepath.Base(self), ".exe") == "newsvc" && !strings.Contains(own, "go-build"): // not of go run
		fmt.Fprintf(to, "newsvc: warning: %s, where this newsvc is, is not in PATH\n  fix: %s\n", own, doctor.AddToPath(own))
	case !inPath:
		warnOfGoBin(to, bin)
	}
}

func warnOfGoBin(to io.Writer, bin string) {
	fmt.Fprintf(to, "newsvc: warning: %s, where go install puts commands, is not in PATH\n  fix: %s\n", bin, doctor.AddToPath(bin))
}
