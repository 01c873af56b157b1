package archtest

import (
	"go/ast"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

func docRules() []rule {
	return []rule{
		{"every package says what it is", checkPackageComments},
		{"exported names are documented", checkExportedDocs},
		{"settings are documented", checkSettingDocs},
	}
}

func checkPackageComments(files []*file) (found []finding) {
	first := map[string]*file{}
	documented := map[string]bool{}
	for _, f := range goFiles(files) {
		if f.test() {
			continue
		}
		if first[f.dir()] == nil {
			first[f.dir()] = f
		}
		documented[f.dir()] = documented[f.dir()] || f.ast.Doc != nil
	}
	for _, dir := range slices.Sorted(maps.Keys(first)) {
		if f := first[dir]; !documented[dir] {
			found = append(found, f.at(f.ast.Package, "package %q has no comment: say what it is, what it is not, and how it starts", dir))
		}
	}
	return found
}

// selfExplaining are methods whose contract the standard library has written down.
var selfExplaining = []string{"Error", "String", "Unwrap", "Is", "As", "GRPCStatus", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON", "ServeHTTP", "Len", "Less", "Swap"}

func checkExportedDocs(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		if f.test() || f.isMain() {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && visible(d) {
					found = append(found, f.at(d.Pos(), "exported %q has no comment: say what the caller may rely on", d.Name.Name))
				}
			case *ast.GenDecl:
				found = append(found, f.undocumented(d)...)
			}
		}
	}
	return found
}

// visible tells whether a function, or a method on an exported type, shows in the documentation.
func visible(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	if slices.Contains(selfExplaining, fn.Name.Name) {
		return false
	}
	recv := fn.Recv.List[0].Type
	for {
		switch t := recv.(type) {
		case *ast.StarExpr:
			recv = t.X
		case *ast.IndexExpr:
			recv = t.X
		case *ast.IndexListExpr:
			recv = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

// undocumented finds names of a type, const or var declaration; a comment on a group of constants is one for each.
func (f *file) undocumented(d *ast.GenDecl) (found []finding) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
				found = append(found, f.at(s.Pos(), "exported type %q has no comment: say what it is and who may use it when", s.Name.Name))
			}
		case *ast.ValueSpec:
			if s.Doc != nil || s.Comment != nil || d.Doc != nil {
				continue
			}
			for _, name := range s.Names {
				if name.IsExported() {
					found = append(found, f.at(name.Pos(), "exported %s %q has no comment: say what it means", d.Tok, name.Name))
				}
			}
		}
	}
	return found
}

func checkSettingDocs(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		if f.test() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.StructType); ok {
				found = append(found, f.bareSettings(s)...)
			}
			return true
		})
	}
	return found
}

// bareSettings finds fields with a config key and without a comment; one comment may speak of several fields by name.
func (f *file) bareSettings(s *ast.StructType) (found []finding) {
	said := ""
	for _, field := range s.Fields.List {
		said += field.Doc.Text() + field.Comment.Text()
		if field.Tag == nil || field.Doc != nil || field.Comment != nil {
			continue
		}
		key := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("config")
		if key == "" || key == "-" {
			continue
		}
		for _, name := range field.Names {
			if !slices.Contains(strings.FieldsFunc(said, notInName), name.Name) {
				found = append(found, f.at(field.Pos(), "setting %q has no comment: say its meaning, unit, default and what more and less of it cost", key))
			}
		}
	}
	return found
}

func notInName(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }
