package addrpc

import (
	"bytes"
	_ "embed"
	"fmt"
	"go/format"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
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
	FromClient           bool
	FromServer           bool
	In, Out              string
	imports              map[string]string // local name by path; empty: its own
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
			return &problem.Error{What: "cannot write " + generate.Shown(a.Dir, name), Fix: "make the directory writable", Err: err}
		}
	}
	a.notes[filepath.Join(im.dir, v.Base+".go")] = "write the method here"
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
		Name: m.GoName, Base: snake(m.GoName) + "_rpc",
		FromClient: m.Desc.IsStreamingClient(), FromServer: m.Desc.IsStreamingServer(),
		imports: map[string]string{},
	}
	if im.pkg == "main" || !im.exported() { // nobody outside can name the type
		v.TestPackage, v.Own, v.Qualifier = im.pkg, "", ""
	}
	v.File = a.shownInService(filepath.Join(im.dir, v.Base+".go"))
	v.In = v.ident(im, r, m.Input.GoIdent)
	v.Out = v.ident(im, r, m.Output.GoIdent)
	return v
}

// ident writes a message's type, and notes its import. The stubs keep the name that the file of the type gives them.
func (v view) ident(im implementation, r resolved, id protogen.GoIdent) string {
	p := string(id.GoImportPath)
	local := im.stubsName
	if p != r.stubs {
		local = r.packages[p]
	}
	v.imports[p] = local
	return local + "." + id.GoName
}

// Imports are the lines for the messages: of both in the stub, of requests only in a test of a method that takes one.
func (v view) Imports(test bool) []string {
	var lines []string
	for _, p := range slices.Sorted(maps.Keys(v.imports)) {
		local := v.imports[p]
		used := strings.HasPrefix(v.In, local+".")
		if test && (v.FromClient || !used) {
			continue
		}
		line := fmt.Sprintf("%q", p)
		if local != path.Base(p) {
			line = local + " " + line
		}
		lines = append(lines, line)
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
