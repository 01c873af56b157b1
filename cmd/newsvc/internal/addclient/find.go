package addclient

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// found is a service in a .proto file.
type found struct {
	root string // the proto root, absolute
	file string // below root, with slashes
	pkg  string
	name string // of the service
	text []byte
}

func (f found) path() string { return filepath.Join(f.root, filepath.FromSlash(f.file)) }

// find looks for the callee's proto: where --proto says, in this module, in the neighbours of it, in what it requires.
func (a *addition) find(ctx context.Context) (callee, error) {
	if a.Proto != "" {
		f, err := a.inProtoFlag()
		if err != nil {
			return callee{}, err
		}
		return a.reach(ctx, f)
	}
	roots, err := a.ownRoots()
	if err != nil {
		return callee{}, err
	}
	for _, more := range []func() []string{func() []string { return roots }, a.neighbours, func() []string { return a.required(ctx) }} {
		for _, root := range more() {
			f, err := a.search(root, a.name.Domain)
			if err != nil {
				return callee{}, err
			}
			if f != nil {
				return a.reach(ctx, *f)
			}
		}
	}
	return callee{}, a.notFound(roots)
}

func (a *addition) allShown(dirs []string) []string {
	var out []string
	for _, d := range dirs {
		out = append(out, a.shown(d))
	}
	return out
}

func (a *addition) inProtoFlag() (found, error) {
	dir := a.Proto
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.Dir, filepath.FromSlash(dir))
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return found{}, &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("--proto %q is no directory", a.Proto), Fix: fmt.Sprintf("newsvc add client %s --proto ../%s/proto", a.Name, a.Name)}
	}
	if info, err := os.Stat(filepath.Join(dir, "proto")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, "proto")
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return found{}, err
	}
	for _, domain := range []string{a.name.Domain, "."} {
		f, err := a.search(dir, domain)
		if err != nil || f != nil {
			return orZero(f), err
		}
	}
	return found{}, &problem.Error{
		Exit: problem.NotFound, What: fmt.Sprintf("no proto found for %s in --proto %q", a.Name, a.Proto), At: "no .proto file there declares a service",
		Fix: "name the directory that import paths begin in, such as ../" + a.Name + "/proto",
	}
}

func orZero(f *found) found {
	if f == nil {
		return found{}
	}
	return *f
}

// ownRoots are the proto roots of this module: of the service itself, of the others.
func (a *addition) ownRoots() ([]string, error) {
	roots := []string{a.place.ProtoDir(a.place.ServiceDir), a.place.ProtoDir("")}
	services, err := workspace.Services(a.place.Root)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		if p, err := workspace.Find(s.Dir); err == nil && p.Root == a.place.Root {
			roots = append(roots, p.ProtoDir(s.Dir))
		}
	}
	var out []string
	for _, r := range roots {
		if _, err := os.Stat(r); err == nil && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		out = roots[:1]
	}
	return out, nil
}

// neighbours are the proto roots of services of that name beside this module.
func (a *addition) neighbours() []string {
	entries, err := os.ReadDir(filepath.Dir(a.place.Root))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		dir := filepath.Join(filepath.Dir(a.place.Root), e.Name())
		if m, ok, err := workspace.ReadMarker(dir); err == nil && ok && m.Name == a.Name && dir != a.place.Root {
			out = append(out, filepath.Join(dir, "proto"))
		}
	}
	return out
}

// search returns the service in one proto root, of the latest version that there is; nil for none.
func (a *addition) search(root, domain string) (*found, error) {
	var all []found
	top := filepath.Join(root, domain)
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, servicesIn(found{root: root, file: filepath.ToSlash(rel), text: text})...)
		return nil
	})
	if _, missing := os.Stat(top); missing != nil {
		return nil, nil //nolint:nilerr // nothing is there
	}
	if err != nil {
		return nil, err
	}
	byName := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return f.name != a.name.ProtoService })
	switch {
	case len(byName) > 0:
		slices.SortStableFunc(byName, func(x, y found) int { return strings.Compare(x.pkg, y.pkg) })
		return &byName[len(byName)-1], nil
	case len(all) == 0:
		return nil, nil
	case len(all) == 1:
		return &all[0], nil
	}
	var list []string
	for _, f := range all {
		list = append(list, f.pkg+"."+f.name)
	}
	return nil, &problem.Error{
		Exit: problem.Conflict, What: fmt.Sprintf("%s has %d services, and none is called %s", a.Name, len(all), a.name.ProtoService),
		At: strings.Join(list, ", "), Fix: "write the line of main.go by hand: app.Client(\"" + a.Name + "\", ...)",
	}
}

// servicesIn reads the services of one file. One that cannot be parsed has none: its owner will hear of it elsewhere.
func servicesIn(f found) []found {
	node, err := parser.Parse(f.file, bytes.NewReader(f.text), reporter.NewHandler(nil))
	if err != nil {
		return nil
	}
	var out []found
	for _, d := range node.Decls {
		switch d := d.(type) {
		case *ast.PackageNode:
			f.pkg = string(d.Name.AsIdentifier())
		case *ast.ServiceNode:
			s := f
			s.name = d.Name.Val
			out = append(out, s)
		}
	}
	for i := range out {
		out[i].pkg = f.pkg
	}
	return out
}

// goName is what protoc-gen-go makes of a name in UpperCamelCase or snake_case.
func goName(name string) string {
	var b strings.Builder
	up := true
	for _, r := range name {
		if r == '_' {
			up = true
			continue
		}
		if up {
			r = unicode.ToUpper(r)
		}
		b.WriteRune(r)
		up = unicode.IsDigit(r)
	}
	return b.String()
}

func identifier(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, s)
}

// generated says whether the Go code of the stubs lies beside the .proto.
func (f found) generated() bool {
	_, err := os.Stat(strings.TrimSuffix(f.path(), ".proto") + "_grpc.pb.go")
	return err == nil
}

// reach decides how the service found is imported: as Go code of this module or of one that it requires, or else from
// a copy. Never both: a program that links the same .proto twice does not start.
func (a *addition) reach(ctx context.Context, f found) (callee, error) {
	c := callee{service: goName(f.name), dir: filepath.Dir(f.path())}
	m, err := workspace.Find(f.root)
	if err != nil {
		return callee{}, err
	}
	if m.Root == a.place.Root {
		c.importPath = a.place.Import(c.dir)
		if copied, ok := generate.ReadCopy(f.text); ok {
			return c, a.refresh(ctx, f, copied)
		}
		if !f.generated() {
			return c, a.generateHere(ctx, nil)
		}
		return c, nil
	}
	dir, required := a.requires(ctx, m.Module, m.Root)
	if !required {
		own := a.place.ProtoDir(a.place.ServiceDir)
		c.dir = filepath.Join(own, filepath.FromSlash(path.Dir(f.file)))
		c.importPath = a.place.Import(c.dir)
		return c, a.copyAll(ctx, f)
	}
	rel, err := filepath.Rel(m.Root, c.dir)
	if err != nil {
		return callee{}, err
	}
	c.importPath = path.Join(m.Module, filepath.ToSlash(rel))
	there := found{root: filepath.Join(dir, mustRel(m.Root, f.root)), file: f.file}
	if !there.generated() {
		return callee{}, &problem.Error{
			Exit: problem.Conflict, What: fmt.Sprintf("the module %s, as go.mod requires it, has no generated code for %s", m.Module, f.file),
			At: there.path(), Fix: "go get " + m.Module + "@latest      (or, in its own directory: newsvc generate)",
		}
	}
	c.work = a.byWorkOnly(ctx, m.Module)
	c.module, c.root = m.Module, dir
	return c, a.notCopiedToo(f.file, m.Module)
}

func mustRel(base, name string) string {
	rel, err := filepath.Rel(base, name)
	if err != nil {
		return name
	}
	return rel
}

// notCopiedToo refuses an import beside a copy.
func (a *addition) notCopiedToo(file, module string) error {
	name := filepath.Join(a.place.ProtoDir(a.place.ServiceDir), filepath.FromSlash(file))
	text, err := os.ReadFile(name)
	if err != nil {
		return nil //nolint:nilerr // no copy
	}
	if _, copied := generate.ReadCopy(text); !copied {
		return nil
	}
	return both(a.shown(name), module, filepath.ToSlash(a.shown(filepath.Dir(name))), a.Name)
}

func both(shown, module, dir, name string) error {
	return &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("%s is a copy of what the module %s provides; a program that links both does not start", shown, module),
		At:   shown,
		Fix:  fmt.Sprintf("keep one. The import: rm -r %s && newsvc add client %s      the copy: take %s out of go.mod", dir, name, module),
	}
}
