package addrpc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// implementation is the Go type that implements a proto service: the one that embeds its Unimplemented...Server.
type implementation struct {
	dir, pkg, importPath string
	typeName, receiver   string
	stubsName            string // what the file of the type calls the generated code
	methods, fields      map[string]bool
	at                   string // file:line of the type
}

func (im implementation) exported() bool { return token.IsExported(im.typeName) }

// implementation searches the Go code of the service.
func (a *addition) implementation(r resolved) (implementation, error) {
	root := a.place.ServiceDir
	if root == "" {
		root = a.project.ModuleDir
	}
	embedded := "Unimplemented" + r.service.GoName + "Server"
	var found []implementation
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "vendor", "node_modules"}, d.Name())):
			return fs.SkipDir
		case d.IsDir():
			more, err := a.inDir(name, r, embedded)
			found = append(found, more...)
			return err
		}
		return nil
	})
	if err != nil {
		return implementation{}, err
	}
	if len(found) == 1 {
		return found[0], nil
	}
	p := &problem.Error{Exit: problem.Conflict, Fix: "embed " + embedded + " by value in the one type that implements " + r.service.GoName}
	if len(found) == 0 {
		p.What = fmt.Sprintf("no type of this service embeds %s, so there is nothing to write the method for", embedded)
		p.At = "looked in " + root
		return implementation{}, p
	}
	p.What = fmt.Sprintf("%d types embed %s", len(found), embedded)
	var at []string
	for _, im := range found {
		at = append(at, generate.Shown(a.Dir, im.at))
	}
	p.At = strings.Join(at, ", ")
	return implementation{}, p
}

// inDir looks at the package in one directory.
func (a *addition) inDir(dir string, r resolved, embedded string) ([]implementation, error) {
	names, err := filepath.Glob(filepath.Join(escape(dir), "*.go"))
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, &problem.Error{What: generate.Shown(a.Dir, name) + " is no Go code", At: firstLine(err), Fix: "mend it, then: newsvc add rpc " + a.Name, Err: err}
		}
		files = append(files, f)
	}
	rel, err := filepath.Rel(a.project.ModuleDir, dir)
	if err != nil {
		return nil, err
	}
	var found []implementation
	for _, f := range files {
		local := localName(f, r.stubs, r.packages[r.stubs])
		if local == "" {
			continue
		}
		for typeName, s := range structs(f) {
			im := implementation{
				dir: dir, pkg: f.Name.Name, importPath: path.Join(a.project.Module, filepath.ToSlash(rel)),
				typeName: typeName, receiver: "s", stubsName: local,
				methods: map[string]bool{}, fields: map[string]bool{},
				at: strings.Replace(fset.Position(s.Pos()).String(), ":"+strconv.Itoa(fset.Position(s.Pos()).Column), "", 1),
			}
			if im.readFields(s, local+"."+embedded) {
				im.readMethods(files)
				found = append(found, im)
			}
		}
	}
	return found, nil
}

// readFields notes the fields and reports whether one of them is the embedded type.
func (im *implementation) readFields(s *ast.StructType, embedded string) (embeds bool) {
	for _, field := range s.Fields.List {
		for _, n := range field.Names {
			im.fields[n.Name] = true
		}
		if len(field.Names) > 0 {
			continue
		}
		t := field.Type
		if star, ok := t.(*ast.StarExpr); ok {
			t = star.X
		}
		switch t := t.(type) {
		case *ast.Ident:
			im.fields[t.Name] = true
		case *ast.SelectorExpr:
			im.fields[t.Sel.Name] = true
			if x, ok := t.X.(*ast.Ident); ok && x.Name+"."+t.Sel.Name == embedded {
				embeds = true
			}
		}
	}
	return embeds
}

// readMethods notes the methods of the type, and how they call their receiver.
func (im *implementation) readMethods(files []*ast.File) {
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || len(fn.Recv.List) != 1 {
				continue
			}
			t := fn.Recv.List[0].Type
			if star, ok := t.(*ast.StarExpr); ok {
				t = star.X
			}
			if id, ok := t.(*ast.Ident); !ok || id.Name != im.typeName {
				continue
			}
			im.methods[fn.Name.Name] = true
			if n := fn.Recv.List[0].Names; len(n) == 1 && n[0].Name != "_" {
				im.receiver = n[0].Name
			}
		}
	}
}

// free refuses a method that could not be written in Go.
func (a *addition) free(im implementation, method string) error {
	if !im.fields[method] {
		return nil
	}
	return &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("%s has a field %s, so Go allows no method of that name", im.typeName, method),
		At:   generate.Shown(a.Dir, im.at),
		Fix:  "rename the field, or choose another name for the method",
	}
}

// localName is what a file calls an import; empty when it does not import it.
func localName(f *ast.File, importPath, name string) string {
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil || p != importPath {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return name
	}
	return ""
}

func structs(f *ast.File) map[string]*ast.StructType {
	all := map[string]*ast.StructType{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			if t, ok := spec.(*ast.TypeSpec); ok && t.TypeParams == nil {
				if s, ok := t.Type.(*ast.StructType); ok {
					all[t.Name.Name] = s
				}
			}
		}
	}
	return all
}

// escape protects a directory's name from being read as a pattern.
func escape(dir string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(dir)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
