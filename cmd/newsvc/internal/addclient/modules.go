package addclient

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
)

// module is one that go.mod requires, and the directory it is read from.
type module struct{ path, dir string }

// modules returns the modules in the graph of this module's builds whose directories are known without a network: of a
// go.work; required, and replaced by a directory or in the module cache. The first one of a path is the one that is built.
func (a *addition) modules(ctx context.Context) []module {
	_, out := a.inWork()
	return append(out, a.requiredModules(ctx)...)
}

func (a *addition) requiredModules(ctx context.Context) []module {
	name := filepath.Join(a.place.Root, "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	f, err := modfile.Parse(name, text, nil)
	if err != nil {
		return nil
	}
	local := map[string]string{}
	for _, r := range f.Replace {
		if modfile.IsDirectoryPath(r.New.Path) {
			local[r.Old.Path] = r.New.Path
		}
	}
	var out []module
	var cached []string
	for _, r := range f.Require {
		dir, replaced := local[r.Mod.Path]
		switch {
		case replaced && filepath.IsAbs(dir):
			out = append(out, module{r.Mod.Path, filepath.Clean(dir)})
		case replaced:
			out = append(out, module{r.Mod.Path, filepath.Join(a.place.Root, filepath.FromSlash(dir))})
		case !r.Indirect:
			cached = append(cached, r.Mod.Path)
		}
	}
	return append(out, a.inCache(ctx, cached)...)
}

// inWork are the other modules of the go.work that is in force here: builds take them from their directories, whether
// go.mod requires them or not.
func (a *addition) inWork() (file string, modules []module) {
	w, ok := generate.GoWork(a.place.Root)
	if !ok {
		return "", nil
	}
	for _, m := range w.Modules {
		modules = append(modules, module{m.Path, m.Dir})
	}
	return w.File, modules
}

// inCache asks the go command where modules are.
func (a *addition) inCache(ctx context.Context, paths []string) []module {
	if len(paths) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-m", "-e", "-f", "{{.Path}}\t{{.Dir}}"}, paths...)...)
	cmd.Dir, cmd.Env = a.place.Root, append(os.Environ(), "PWD="+a.place.Root)
	text, err := cmd.Output()
	if err != nil {
		return nil // a module that cannot be found has no proto to offer; the build says what is wrong
	}
	var out []module
	for line := range strings.Lines(string(text)) {
		if p, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && dir != "" {
			out = append(out, module{p, dir})
		}
	}
	return out
}

// required are the proto roots of the modules in the graph. The framework is in all of them, and its APIs are examples:
// a slip of a name must not lead to one, so they are taken for --proto only.
func (a *addition) required(ctx context.Context) []string {
	var out []string
	for _, m := range a.modules(ctx) {
		if m.path == buildinfo.Module {
			continue
		}
		out = append(out, filepath.Join(m.dir, "proto"))
	}
	return out
}

// byWorkOnly returns the go.work without which no build would find the module; empty when go.mod requires it too.
func (a *addition) byWorkOnly(ctx context.Context, path string) string {
	has := func(list []module) bool {
		return slices.ContainsFunc(list, func(m module) bool { return m.path == path })
	}
	if file, modules := a.inWork(); has(modules) && !has(a.requiredModules(ctx)) {
		return file
	}
	return ""
}

// requires says whether the module is in the graph, and where it is read from.
func (a *addition) requires(ctx context.Context, path, dir string) (string, bool) {
	if path == "" {
		return "", false
	}
	for _, m := range a.modules(ctx) {
		if m.path == path || same(m.dir, dir) {
			return m.dir, true
		}
	}
	return "", false
}

// same says whether two paths lead to one directory.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
