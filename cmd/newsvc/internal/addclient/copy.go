package addclient

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// copyAll plans copies of the callee's .proto and of what it imports from the same tree, and the Go code of all.
func (a *addition) copyAll(ctx context.Context, f found) error {
	own := a.place.ProtoDir(a.place.ServiceDir)
	overlay := map[string][]byte{}
	queue := []string{f.file}
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		to := filepath.Join(own, filepath.FromSlash(file))
		from := filepath.Join(f.root, filepath.FromSlash(file))
		original, err := os.ReadFile(from)
		if err != nil || overlay[to] != nil {
			continue // linked into this binary, or done
		}
		text, err := a.copyOf(from, to, f.root, original)
		if err != nil {
			return err
		}
		overlay[to] = text
		if err := a.write(to, text, "copied from "+a.shown(from)); err != nil {
			return err
		}
		queue = append(queue, imports(file, original)...)
	}
	return a.generateHere(ctx, overlay)
}

// copyOf is what the file is to hold. A file that is there and no copy, or one that somebody edited, is refused.
func (a *addition) copyOf(from, to, root string, original []byte) ([]byte, error) {
	again := fmt.Sprintf("newsvc add client %s --proto %s", a.Name, generate.Shown(a.place.ServiceDir, root))
	text := generate.NewCopy(generate.Shown(a.place.ServiceDir, from), again, original)
	there, err := os.ReadFile(to)
	if err != nil || bytes.Equal(there, text) {
		return text, nil //nolint:nilerr // not there
	}
	if bytes.Equal(there, original) {
		return there, nil
	}
	c, copied := generate.ReadCopy(there)
	if copied && !c.Edited {
		return text, nil
	}
	what := a.shown(to) + " is in the way: it is no copy of " + a.shown(from)
	if copied {
		what = a.shown(to) + " is a copy of " + c.Source + " that was edited here; nothing is written"
	}
	return nil, &problem.Error{Exit: problem.Conflict, What: what, At: a.shown(to), Fix: "move it away, then: " + again}
}

// refresh brings a copy up to date whose source can still be read, and refuses one whose source is imported as well.
func (a *addition) refresh(ctx context.Context, f found, c generate.Copy) error {
	for _, m := range a.modules(ctx) {
		if _, err := os.Stat(filepath.Join(m.dir, "proto", filepath.FromSlash(f.file))); err == nil {
			return both(a.shown(f.path()), m.path, a.shown(filepath.Dir(f.path())), a.Name)
		}
	}
	source := filepath.FromSlash(c.Source)
	if !filepath.IsAbs(source) {
		source = filepath.Join(a.place.ServiceDir, source)
	}
	original, err := os.ReadFile(source)
	root := filepath.Clean(source[:max(0, len(source)-len(filepath.FromSlash(f.file)))])
	if err != nil || filepath.Join(root, filepath.FromSlash(f.file)) != source {
		if f.generated() {
			return nil
		}
		return a.generateHere(ctx, nil)
	}
	return a.copyAll(ctx, found{root: root, file: f.file, pkg: f.pkg, name: f.name, text: original})
}

// generateHere plans the Go code of this project. An edge has no API of its own: its first callee brings the directory
// proto.
func (a *addition) generateHere(ctx context.Context, overlay map[string][]byte) error {
	p, err := generate.At(filepath.Dir(a.place.ProtoDir(a.place.ServiceDir)))
	if err != nil {
		return err
	}
	if err := a.namePackages(p, overlay); err != nil {
		return err
	}
	c, err := p.Compile(ctx, a.Dir, overlay)
	if err != nil {
		return err
	}
	outputs, err := c.Outputs(ctx)
	if err != nil {
		return err
	}
	return generate.Stage(&a.set, outputs, a.Dir)
}

// imports are the files that a .proto names.
func imports(file string, text []byte) []string {
	node, err := parser.Parse(file, bytes.NewReader(text), reporter.NewHandler(nil))
	if err != nil {
		return nil
	}
	var out []string
	for _, d := range node.Decls {
		if i, ok := d.(*ast.ImportNode); ok {
			out = append(out, path.Clean(i.Name.AsString()))
		}
	}
	return out
}
