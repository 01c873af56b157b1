package scaffold

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
)

// Tidy returns what templates/gomod has to hold for a kind of project: go.mod and go.sum of a new one that refers to the checkout at
// root, as `go mod tidy` leaves them, without the framework's lines. It needs the network or a full module cache.
// What is stored now is the starting point, so versions move only when the framework's do.
func Tidy(ctx context.Context, root, kind string) (mod, sum []byte, err error) {
	dir, err := os.MkdirTemp("", "newsvc-gomod-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name, err := names.Parse("blogger-user")
	if err != nil {
		return nil, nil, err
	}
	project := filepath.Join(dir, "project")
	files, err := Render(ctx, Spec{Kind: kind, Name: name, Module: "example.com/blogger-user", Framework: Framework{Dir: root}, Replace: filepath.ToSlash(root)})
	if err != nil {
		return nil, nil, err
	}
	if err := write(project, files); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "tidy")
	cmd.Dir = project
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "PWD="+project)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("go mod tidy in a new project: %w\n%s", err, out)
	}
	if mod, err = os.ReadFile(filepath.Join(project, "go.mod")); err != nil {
		return nil, nil, err
	}
	if mod, err = withoutFramework(mod); err != nil {
		return nil, nil, err
	}
	sum, err = os.ReadFile(filepath.Join(project, "go.sum"))
	return mod, sum, err
}

// withoutFramework drops what Render adds.
func withoutFramework(mod []byte) ([]byte, error) {
	f, err := modfile.Parse("go.mod", mod, nil)
	if err != nil {
		return nil, err
	}
	if err := f.AddModuleStmt("example.com/blogger-user"); err != nil {
		return nil, err
	}
	if err := f.DropRequire(buildinfo.Module); err != nil {
		return nil, err
	}
	f.Cleanup()
	text, err := f.Format()
	if err != nil {
		return nil, err
	}
	text, _, _ = bytes.Cut(text, []byte("\n// newsvc was built from a checkout."))
	return text, nil
}
