package addrpc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
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
	written              map[string]string // the files of the exported methods
	embedsMore           bool              // than the generated type: it may have methods from there
	inPackage            map[string]bool   // identifiers that the package declares
	inTests              map[string]bool   // and those of its tests from outside, or from inside for a type that nobody else can name
	at                   string            // file:line of the type
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
		case d.IsDir() && name != root && foreign(name):
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

// foreign says whether Go code in a directory is no part of the module around it.
func foreign(dir string) bool {
	base := filepath.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || slices.Contains([]string{"testdata", "vendor", "node_modules"}, base) {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// inDir looks at the package in one directory.
func (a *addition) inDir(dir string, r resolved, embedded string) ([]implementation, error) {
	names, err := filepath.Glob(filepath.Join(escape(dir), "*.go"))
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files, tests []*ast.File
	for _, name := range names {
		if info, err := os.Stat(name); strings.HasSuffix(name, ".pb.go") || err == nil && info.IsDir() {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		test := strings.HasSuffix(name, "_test.go")
		if err != nil && (!test || f == nil) { // a broken test keeps nobody from adding a method
			return nil, &problem.Error{What: generate.Shown(a.Dir, name) + " is no Go code", At: firstLine(err), Fix: "mend it, then: newsvc add rpc " + a.Name, Err: err}
		}
		if test {
			tests = append(tests, f)
		} else {
			files = append(files, f)
		}
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
				methods: map[string]bool{}, fields: map[string]bool{}, written: map[string]string{},
				at: strings.Replace(fset.Position(s.Pos()).String(), ":"+strconv.Itoa(fset.Position(s.Pos()).Column), "", 1),
			}
			if im.readFields(s, local+"."+embedded) {
				im.readMethods(fset, files)
				im.readNames(files, tests)
				found = append(found, im)
			}
		}
	}
	return oncePerType(found), nil
}

// oncePerType leaves one of several types of a name: only one of them is built, as build constraints decide.
func oncePerType(all []implementation) []implementation {
	var out []implementation
	for _, im := range all {
		if !slices.ContainsFunc(out, func(o implementation) bool { return o.pkg == im.pkg && o.typeName == im.typeName }) {
			out = append(out, im)
		}
	}
	return out
}

// readNames notes what the package and its tests declare: imports and tests need other names.
func (im *implementation) readNames(files, tests []*ast.File) {
	im.inPackage, im.inTests = map[string]bool{}, map[string]bool{}
	for _, f := range slices.Concat(files, tests) {
		if f.Name.Name == im.pkg {
			declare(f, im.inPackage)
		}
		if (im.outsideTests() && f.Name.Name == im.pkg+"_test") || (!im.outsideTests() && f.Name.Name == im.pkg) {
			declare(f, im.inTests)
		}
	}
}

// outsideTests says whether tests may lie in a package of their own: there they can name the type.
func (im implementation) outsideTests() bool { return im.pkg != "main" && im.exported() }

func declare(f *ast.File, into map[string]bool) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				into[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					into[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						into[n.Name] = true
					}
				}
			}
		}
	}
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
				continue
			}
		}
		im.embedsMore = true
	}
	return embeds
}

// readMethods notes the methods of the type, and how they call their receiver.
func (im *implementation) readMethods(fset *token.FileSet, files []*ast.File) {
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || len(fn.Recv.List) != 1 {
				continue
			}
			if receiverType(fn) != im.typeName {
				continue
			}
			im.methods[fn.Name.Name] = true
			if fn.Name.IsExported() {
				im.written[fn.Name.Name] = fset.Position(fn.Pos()).Filename
			}
			if n := fn.Recv.List[0].Names; len(n) == 1 && n[0].Name != "_" {
				im.receiver = n[0].Name
			}
		}
	}
}

// receiverType is the name of the type that a method belongs to; empty for a generic one.
func receiverType(fn *ast.FuncDecl) string {
	if len(fn.Recv.List) != 1 {
		return ""
	}
	t := fn.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name
	}
	return ""
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
