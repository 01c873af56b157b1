package addclient

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
)

// prefixRule is the entry of a created buf.gen.yaml that names Go packages by their directories.
var prefixRule = regexp.MustCompile(`(?m)^([ \t]*)- file_option: go_package_prefix\r?\n[ \t]+value: (\S+)[ \t]*(\r?\n|\z)`)

// versionedPackage matches a proto package that ends in a version, where buf names Go packages by the last two parts.
var versionedPackage = regexp.MustCompile(`(?:^|\.)([a-z0-9_]+)\.(v[0-9]+(?:(?:alpha|beta)[0-9]+)?)$`)

// namePackages adds a rule to buf.gen.yaml for each directory of copies whose Go package would have an underscore: it
// gets the name that the callee itself gives it. A file without our prefix is its author's business.
func (a *addition) namePackages(p *generate.Project, copies map[string][]byte) error {
	text, err := a.set.Read(p.ConfigFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	out, names := text, []string{}
	for _, name := range slices.Sorted(maps.Keys(copies)) {
		rel, err := filepath.Rel(p.Proto, name)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(rel))
		m := versionedPackage.FindStringSubmatch(protoPackage(name, copies[name]))
		if m == nil || !strings.Contains(m[1], "_") || regexp.MustCompile(`(?m)\bpath: *"?`+regexp.QuoteMeta(dir)+`"?\s*(#.*)?$`).Match(out) {
			continue
		}
		goName := strings.ReplaceAll(m[1], "_", "") + m[2]
		if next, ok := withPackage(out, p.ImportRoot(), dir, goName); ok {
			out, names = next, append(names, goName)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := p.Configure(out); err != nil {
		return err
	}
	return a.write(p.ConfigFile(), out, "the Go package "+strings.Join(names, ", "))
}

// withPackage adds the rule behind the prefix, so that it wins.
func withPackage(text []byte, root, dir, goName string) ([]byte, bool) {
	m := prefixRule.FindSubmatchIndex(text)
	if m == nil || string(text[m[4]:m[5]]) != root {
		return nil, false
	}
	indent, eol := string(text[m[2]:m[3]]), string(text[m[6]:m[7]])
	before := ""
	if eol == "" { // the file ends without one
		before, eol = "\n", "\n"
	}
	return insertAt(text, m[1], fmt.Sprintf("%[6]s%[1]s- file_option: go_package%[2]s%[1]s  path: %[3]s%[2]s%[1]s  value: %[4]s/%[3]s;%[5]s%[2]s",
		indent, eol, dir, root, goName, before)), true
}

// protoPackage is what a .proto file declares; empty when it declares none or cannot be parsed.
func protoPackage(name string, text []byte) string {
	for _, f := range servicesIn(found{file: name, text: append(slices.Clip(text), "\nservice Any_ {}\n"...)}) {
		return f.pkg
	}
	return ""
}
