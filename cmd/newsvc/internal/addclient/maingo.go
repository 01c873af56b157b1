package addclient

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// The marks of the list that newsvc adds to. Lines between them are the author's as well.
const (
	listBegin = "// newsvc:clients"
	listEnd   = "// newsvc:end"
)

const appPackage = buildinfo.Module + "/framework/app"

// source is one file of package main, read.
type source struct {
	name string
	text []byte
	fset *token.FileSet
	file *ast.File
}

// editMain adds the line and its import, unless a line for the callee is there.
func (a *addition) editMain(c *callee) error {
	sources, err := a.mainSources()
	if err != nil {
		return err
	}
	for _, s := range sources {
		if s.calls(a.Name) {
			return nil
		}
	}
	for _, s := range sources {
		at, indent, ok := s.list()
		if !ok {
			continue
		}
		if have := s.importName(c.importPath, path.Base(c.importPath)); have != "" {
			c.alias = have
		} else {
			c.alias = s.free(c.alias, sources)
		}
		app := s.importName(appPackage, "app")
		line := fmt.Sprintf("%s.Client(%q, %s),", orElse(app, "app"), a.Name, c.constructor())
		text := s.edited(at, indent+line, map[string]string{c.importPath: c.alias, appPackage: orElse(app, "app")})
		if _, err := parser.ParseFile(token.NewFileSet(), s.name, text, parser.SkipObjectResolution); err != nil {
			break // the marks are where no list is
		}
		return a.write(s.name, text, line)
	}
	a.paste = []string{fmt.Sprintf("%s %q", c.alias, c.importPath), fmt.Sprintf("app.Client(%q, %s),", a.Name, c.constructor())}
	return &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("main.go has no list between %q and %q to put the client into; nothing is written", listBegin, listEnd),
		At:   a.shown(filepath.Join(a.place.ServiceDir, "main.go")),
		Fix:  "paste the import and the line that stdout shows, then again: newsvc add client " + a.Name,
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// mainSources reads the Go files beside newsvc.yaml, main.go first.
func (a *addition) mainSources() ([]source, error) {
	entries, err := filepath.Glob(filepath.Join(escape(a.place.ServiceDir), "*.go"))
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(entries, func(x, y string) int { return mainFirst(x) - mainFirst(y) })
	var out []source
	for _, name := range entries {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		s := source{name: name, fset: token.NewFileSet()}
		if s.text, err = a.set.Read(name); err != nil {
			return nil, err
		}
		if s.file, err = parser.ParseFile(s.fset, name, s.text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			line, _, _ := strings.Cut(err.Error(), "\n")
			return nil, &problem.Error{What: a.shown(name) + " is no Go code", At: line, Fix: "mend it, then: newsvc add client " + a.Name, Err: err}
		}
		out = append(out, s)
	}
	return out, nil
}

func mainFirst(name string) int {
	if filepath.Base(name) == "main.go" {
		return 0
	}
	return 1
}

// escape protects a directory's name from being read as a pattern.
func escape(dir string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(dir)
}

// calls says whether the file has an app.Client line for the callee.
func (s source) calls(callee string) bool {
	app := s.importName(appPackage, "app")
	yes := false
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		fun := call.Fun
		if generic, ok := fun.(*ast.IndexExpr); ok {
			fun = generic.X
		}
		sel, ok := fun.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "Client" {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		arg, isLit := call.Args[0].(*ast.BasicLit)
		if ok && isLit && app != "" && x.Name == app {
			if name, err := strconv.Unquote(arg.Value); err == nil && name == callee {
				yes = true
			}
		}
		return true
	})
	return yes
}

// list returns where the line goes, in front of the end mark, and the blanks before it. Marks count only as comments on
// lines of their own.
func (s source) list() (at int, indent string, ok bool) {
	begun := false
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			at, indent, alone := s.line(c.Pos())
			switch strings.TrimRight(c.Text, " \t\r") {
			case listBegin:
				begun = alone
			case listEnd:
				if begun && alone {
					return at, indent, true
				}
			}
		}
	}
	return 0, "", false
}

// line returns the offset where the line of pos begins, the blanks there, and whether nothing else is before pos.
func (s source) line(pos token.Pos) (begin int, indent string, alone bool) {
	offset := s.fset.Position(pos).Offset
	begin = bytes.LastIndexByte(s.text[:offset], '\n') + 1
	before := string(s.text[begin:offset])
	return begin, before, strings.TrimLeft(before, " \t") == ""
}

// importName is what the file calls an import; empty when it does not import it.
func (s source) importName(importPath, name string) string {
	for _, i := range s.file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err != nil || p != importPath {
			continue
		}
		if i.Name != nil && i.Name.Name != "_" && i.Name.Name != "." {
			return i.Name.Name
		}
		if i.Name == nil {
			return name
		}
	}
	return ""
}

// free returns the name, or one like it that the file does not use yet, and the package does not declare.
func (s source) free(name string, all []source) string {
	used := map[string]bool{}
	for _, other := range all {
		for _, d := range other.file.Decls {
			for _, id := range declared(d) {
				used[id.Name] = true
			}
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			used[id.Name] = true
		}
		return true
	})
	for _, i := range s.file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil && i.Name == nil {
			used[path.Base(p)] = true
		}
	}
	for n := 2; used[name]; n++ {
		name = fmt.Sprintf("%s_%d", strings.SplitN(name, "_", 2)[0], n)
	}
	return name
}

// declared are the names of a declaration at the top of a file.
func declared(d ast.Decl) []*ast.Ident {
	var out []*ast.Ident
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			out = append(out, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				out = append(out, spec.Name)
			case *ast.ValueSpec:
				out = append(out, spec.Names...)
			}
		}
	}
	return out
}

// edited returns the text with a line more, and with the imports that it lacks. What else is in the file stays, byte for
// byte; only where gofmt would now align comments anew does it do so, and only in a file that was as gofmt leaves it.
func (s source) edited(at int, line string, imports map[string]string) []byte {
	eol := "\n"
	if bytes.Contains(s.text, []byte("\r\n")) {
		eol = "\r\n"
	}
	out := slices.Concat(s.text[:at], []byte(line+eol), s.text[at:]) // imports are above, so their offsets stay
	for _, p := range slices.Backward(slices.Sorted(keys(imports))) {
		if s.importName(p, "x") == "" {
			spec := fmt.Sprintf("%q", p)
			if imports[p] != path.Base(p) {
				spec = imports[p] + " " + spec
			}
			out = s.withImport(out, p, spec, eol)
		}
	}
	if was, err := format.Source(s.text); err == nil && bytes.Equal(was, s.text) {
		if now, err := format.Source(out); err == nil {
			return now
		}
	}
	return out
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// withImport adds one import to the text: in the group of the import that is most like it, in the order of paths.
func (s source) withImport(text []byte, importPath, spec, eol string) []byte {
	like, length := -1, -1
	for i, other := range s.file.Imports {
		p, err := strconv.Unquote(other.Path.Value)
		if n := commonParts(p, importPath); err == nil && n >= length {
			if n > length || p < importPath {
				like, length = i, n
			}
		}
	}
	if like < 0 || !s.inParentheses(s.file.Imports[like]) {
		end := s.fset.Position(s.file.Name.End()).Offset
		if like >= 0 {
			end = s.fset.Position(s.file.Imports[like].End()).Offset
		}
		end += len(text[end:]) - len(bytes.TrimLeft(text[end:], " \t;"))
		if nl := bytes.IndexByte(text[end:], '\n'); nl >= 0 {
			end += nl + 1
		}
		return slices.Concat(text[:end], []byte(eol+"import "+spec+eol), text[end:])
	}
	begin, indent, _ := s.line(s.file.Imports[like].Pos())
	p, _ := strconv.Unquote(s.file.Imports[like].Path.Value)
	if p < importPath { // after it, and after the comment that may follow on its line
		begin += bytes.IndexByte(text[begin:], '\n') + 1
	}
	return slices.Concat(text[:begin], []byte(indent+spec+eol), text[begin:])
}

func (s source) inParentheses(spec *ast.ImportSpec) bool {
	for _, d := range s.file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT && g.Pos() <= spec.Pos() && spec.End() <= g.End() {
			_, _, alone := s.line(spec.Pos())
			return g.Lparen.IsValid() && alone
		}
	}
	return false
}

// commonParts counts the leading elements that two import paths share.
func commonParts(a, b string) int {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	return n
}
