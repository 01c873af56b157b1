package generate

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// Workspace is a go.work that the go command reads for a module: its modules are in the graph of each other's builds.
type Workspace struct {
	File    string   // absolute
	Modules []Module // all others
}

// Module is a Go module and its directory.
type Module struct{ Path, Dir string }

// GoWork returns the go.work that is in force for the module in a directory; ok is false when there is none, or
// when it does not use that module.
func GoWork(moduleDir string) (w Workspace, ok bool) {
	name := workFile(moduleDir)
	text, err := os.ReadFile(name)
	if name == "" || err != nil {
		return Workspace{}, false
	}
	file, err := modfile.ParseWork(name, text, nil)
	if err != nil {
		return Workspace{}, false // the build says what is wrong with it
	}
	w.File = name
	for _, u := range file.Use {
		dir := filepath.FromSlash(u.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(name), dir)
		}
		if sameDir(dir, moduleDir) {
			ok = true
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			w.Modules = append(w.Modules, Module{modfile.ModulePath(text), dir})
		}
	}
	return w, ok
}

// workFile finds go.work the way the go command does.
func workFile(dir string) string {
	switch set := os.Getenv("GOWORK"); set {
	case "off":
		return ""
	case "":
	default:
		return set
	}
	for at := dir; ; at = filepath.Dir(at) {
		name := filepath.Join(at, "go.work")
		if info, err := os.Stat(name); err == nil && !info.IsDir() {
			return name
		}
		if filepath.Dir(at) == at {
			return ""
		}
	}
}

func sameDir(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// builtVersion is the release that go tool would build: the one of go.mod, or in a workspace the highest one that any of
// its modules wants. It is empty when that cannot be told.
func (p *Project) builtVersion(ctx context.Context, mod *modfile.File, pkg string) string {
	pinned := versionOf(mod, pkg)
	if _, ok := GoWork(p.ModuleDir); !ok || mod != p.gomod || pinned == "" {
		return pinned
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{if not .Replace}}{{.Version}}{{end}}", holderOf(mod, pkg))
	cmd.Dir, cmd.Env = p.ModuleDir, append(os.Environ(), "PWD="+p.ModuleDir)
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
