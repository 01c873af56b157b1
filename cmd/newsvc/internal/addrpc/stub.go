package addrpc

import (
	"bytes"
	_ "embed"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"text/template"

	"google.golang.org/protobuf/compiler/protogen"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

//go:embed stub.go.tmpl
var stubText string

//go:embed stub_test.go.tmpl
var testText string

// view is what the two templates see.
type view struct {
	Package, TestPackage string
	Own                  string // import path of Package; empty for a test inside it
	Qualifier            string // "user." in a test outside the package
	Type, Receiver       string
	Name, File, Base     string
	Test                 string // name of the test function
	FromClient           bool
	FromServer           bool

	in, out protogen.GoIdent
	stub    scope // names of packages in the stub
	test    scope // and in its test
}

// Unary reports whether neither side streams.
func (v view) Unary() bool { return !v.FromClient && !v.FromServer }

// addStub plans the stub and its test, unless the method is written already.
func (a *addition) addStub(c *generate.Compiled, t target) error {
	r, err := resolve(c, t, a.Name)
	if err != nil {
		return err
	}
	method := r.method
	im, err := a.implementation(r)
	if err != nil {
		return err
	}
	if im.methods[method.GoName] {
		return nil
	}
	if err := a.free(im, method.GoName); err != nil {
		return err
	}
	v := newView(a, im, r)
	for _, f := range []struct{ name, text string }{{v.Base + ".go", stubText}, {v.Base + "_test.go", testText}} {
		text, err := v.render(f.name, f.text)
		if err != nil {
			return err
		}
		name := filepath.Join(im.dir, f.name)
		if _, err := os.Lstat(name); err == nil {
			return &problem.Error{
				Exit: problem.Conflict,
				What: generate.Shown(a.Dir, name) + " is in the way: it exists, without a method " + method.GoName,
				Fix:  "move it to another name, then: newsvc add rpc " + a.Name + a.streamFlag(),
			}
		}
		if err := a.set.Write(name, text); err != nil {
			return generate.Unwritable(a.Dir, name, err)
		}
	}
	a.notes[filepath.Join(im.dir, v.Base+".go")] = "write the method here"
	a.notes[filepath.Join(im.dir, v.Base+"_test.go")] = "skips once that is written: test it here"
	return nil
}

// resolved is the method as the generated Go code calls it and its messages.
type resolved struct {
	service  *protogen.Service
	method   *protogen.Method
	stubs    string            // import path of the code of the service
	packages map[string]string // names of packages by their import paths
}

func resolve(c *generate.Compiled, t target, name string) (resolved, error) {
	plugin, err := protogen.Options{}.New(c.Request)
	if err != nil {
		return resolved{}, fmt.Errorf("read the compiled files: %w", err)
	}
	r := resolved{packages: map[string]string{}}
	for _, f := range plugin.Files {
		r.packages[string(f.GoImportPath)] = string(f.GoPackageName)
		for _, s := range f.Services {
			if string(s.Desc.FullName()) != t.fullName() {
				continue
			}
			for _, m := range s.Methods {
				if string(m.Desc.Name()) == name {
					r.service, r.method, r.stubs = s, m, string(f.GoImportPath)
				}
			}
		}
	}
	if r.method == nil {
		return resolved{}, fmt.Errorf("%s has no method %s after it was added", t.fullName(), name)
	}
	return r, nil
}

func newView(a *addition, im implementation, r resolved) view {
	m := r.method
	v := view{
		Package: im.pkg, TestPackage: im.pkg + "_test", Own: im.importPath, Qualifier: im.pkg + ".",
		Type: im.typeName, Receiver: im.receiver,
		Name: m.GoName, Base: snake(m.GoName) + "_rpc", Test: free("Test"+m.GoName, im.inTests),
		FromClient: m.Desc.IsStreamingClient(), FromServer: m.Desc.IsStreamingServer(),
		in: m.Input.GoIdent, out: m.Output.GoIdent,
	}
	if !im.outsideTests() {
		v.TestPackage, v.Own, v.Qualifier = im.pkg, "", ""
	}
	if otherHas(filepath.Join(im.dir, v.Base+".go"), m.GoName, im.typeName) {
		v.Base = snake(r.service.GoName) + "_" + v.Base
	}
	v.File = a.shownInService(filepath.Join(im.dir, v.Base+".go"))
	v.stub, v.test = newScope(im.inPackage), newScope(im.inTests)
	if v.Own != "" {
		v.test.used[im.pkg] = true
	}
	for _, std := range []string{"context", "os", "strings", "testing", "google.golang.org/grpc", "google.golang.org/grpc/codes", "google.golang.org/grpc/status"} {
		v.stub.add(std, path.Base(std))
		v.test.add(std, path.Base(std))
	}
	for _, id := range []protogen.GoIdent{v.in, v.out} {
		name := r.packages[string(id.GoImportPath)]
		if string(id.GoImportPath) == r.stubs { // the name that the file of the type gives it
			name = im.stubsName
		}
		v.stub.add(string(id.GoImportPath), name)
		v.test.add(string(id.GoImportPath), name)
	}
	return v
}

// otherHas says whether a file has a method of that name on another type: that of another service with a method so called.
func otherHas(name, method, typeName string) bool {
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return ok && fn.Recv != nil && fn.Name.Name == method && receiverType(fn) != typeName
	})
}

// scope gives the packages that a file imports names that it may use: none that the package declares, none twice.
type scope struct {
	used  map[string]bool
	names map[string]string // by import path
}

func newScope(declared map[string]bool) scope {
	return scope{maps.Clone(declared), map[string]string{}}
}

func (s scope) add(importPath, name string) {
	if s.names[importPath] == "" {
		s.names[importPath] = free(name, s.used)
		s.used[s.names[importPath]] = true
	}
}

// free is the name, or one like it that is not used.
func free(name string, used map[string]bool) string {
	for n, first := 2, name; used[name]; n++ {
		name = fmt.Sprintf("%s%d", first, n)
	}
	return name
}

func (s scope) line(importPath string) string {
	if name := s.names[importPath]; name != path.Base(importPath) {
		return fmt.Sprintf("%s %q", name, importPath)
	}
	return fmt.Sprintf("%q", importPath)
}

// Import is the line that imports a package, in the stub or in its test.
func (v view) Import(test bool, importPath string) string { return v.scope(test).line(importPath) }

// Pkg is what the stub or its test calls a package.
func (v view) Pkg(test bool, importPath string) string { return v.scope(test).names[importPath] }

// In and Out are the messages as the stub or its test writes them.
func (v view) In(test bool) string { return v.ident(test, v.in) }

// Out is the answer, see In.
func (v view) Out(test bool) string { return v.ident(test, v.out) }

func (v view) scope(test bool) scope {
	if test {
		return v.test
	}
	return v.stub
}

func (v view) ident(test bool, id protogen.GoIdent) string {
	return v.scope(test).names[string(id.GoImportPath)] + "." + id.GoName
}

// Imports are the lines for the messages: of both in the stub, of requests only in a test of a method that takes one.
func (v view) Imports(test bool) []string {
	paths := []string{string(v.in.GoImportPath), string(v.out.GoImportPath)}
	switch {
	case test && v.FromClient:
		return nil
	case test:
		paths = paths[:1]
	}
	slices.Sort(paths)
	var lines []string
	for _, p := range slices.Compact(paths) {
		lines = append(lines, v.Import(test, p))
	}
	return lines
}

func (v view) render(name, text string) ([]byte, error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return nil, err
	}
	out, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return out, nil
}
