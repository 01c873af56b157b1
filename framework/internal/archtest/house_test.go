// Package archtest holds the house rules as tests: who may import whom, and what code must not do.
//
// It has no code of its own and is imported by nobody. It reads the files of the repository itself; a test that
// asked `go list` would be answered from the test cache after somebody broke a rule, while files that a test opens are
// part of its cache key. A rule that is in the way is changed here, in the same commit and with its reason.
package archtest

import (
	"bytes"
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
	"testing"
)

const module = "github.com/newsvc/newsvc"

// file is one text file of the repository. Go files that parse have a syntax tree.
type file struct {
	path string // relative to the root, with slashes
	text []byte
	ast  *ast.File
	fset *token.FileSet
}

// finding is one broken rule at one place.
type finding struct {
	path string
	line int
	text string
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.text) }

// rule is one sentence of the house with the code that holds it.
type rule struct {
	name  string
	check func(files []*file) []finding
}

func rules() []rule {
	return slices.Concat(importRules(), codeRules(), docRules(), textRules())
}

func TestHouseRules(t *testing.T) {
	t.Parallel()
	files := load(t, root(t))
	for _, r := range rules() {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			for _, f := range r.check(files) {
				t.Error(f)
			}
		})
	}
}

// root is the directory of go.mod above this package.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module "+module+"\n")) {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatalf("no go.mod of %q above the working directory: run this test inside the repository", module)
		}
		dir = up
	}
}

// load reads every text file that belongs to the repository; scratch and what git keeps for itself do not.
func load(t *testing.T, dir string) []*file {
	t.Helper()
	var files []*file
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case d.IsDir() && skipped(rel):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.ContainsRune(text, 0) {
			files = append(files, newFile(t, rel, text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func skipped(dir string) bool {
	base := path.Base(dir)
	switch base {
	case ".", ".ci", ".github":
		return false
	case "node_modules", "testdata":
		return true
	}
	return strings.HasPrefix(base, ".")
}

func newFile(t *testing.T, name string, text []byte) *file {
	t.Helper()
	f := &file{path: name, text: text}
	if !strings.HasSuffix(name, ".go") {
		return f
	}
	f.fset = token.NewFileSet()
	syntax, err := parser.ParseFile(f.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("this file does not parse: %v", err)
		return f
	}
	f.ast = syntax
	return f
}

// goFiles are the hand-written Go files of the product's module: tools and bench are modules of their own.
func goFiles(files []*file) []*file {
	var own []*file
	for _, f := range files {
		if f.ast != nil && !f.within("tools", "bench") && !ast.IsGenerated(f.ast) {
			own = append(own, f)
		}
	}
	return own
}

func (f *file) dir() string  { return path.Dir(f.path) }
func (f *file) test() bool   { return strings.HasSuffix(f.path, "_test.go") }
func (f *file) isMain() bool { return f.ast.Name.Name == "main" }

// within tells whether the file lies in one of the directories or below.
func (f *file) within(dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(f.path, dir+"/") })
}

func (f *file) at(pos token.Pos, format string, args ...any) finding {
	return finding{f.path, f.fset.Position(pos).Line, fmt.Sprintf(format, args...)}
}

// imports calls see with the path of each import.
func (f *file) imports(see func(spec *ast.ImportSpec, target string)) {
	for _, spec := range f.ast.Imports {
		if target, err := strconv.Unquote(spec.Path.Value); err == nil {
			see(spec, target)
		}
	}
}

// localName is the name under which the file knows a package, empty when it does not import it.
func (f *file) localName(target string) string {
	name := ""
	f.imports(func(spec *ast.ImportSpec, have string) {
		switch {
		case have != target:
		case spec.Name != nil:
			name = spec.Name.Name
		default:
			name = path.Base(target)
		}
	})
	return name
}
