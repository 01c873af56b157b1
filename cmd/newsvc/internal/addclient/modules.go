package addclient

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// module is one that go.mod requires, and the directory it is read from.
type module struct{ path, dir string }

// modules returns the required modules whose directories are known without a network: replaced by a directory, or in
// the module cache.
func (a *addition) modules(ctx context.Context) []module {
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

// required are the proto roots of the modules that go.mod requires.
func (a *addition) required(ctx context.Context) []string {
	var out []string
	for _, m := range a.modules(ctx) {
		out = append(out, filepath.Join(m.dir, "proto"))
	}
	return out
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
