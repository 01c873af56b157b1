package scaffold

import (
	"bytes"
	"go/format"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/newsvc/newsvc/templates"
)

// onceInRepo are the files that a repository has once, at its root, and a workspace there too.
func onceInRepo(p string) bool {
	return slices.Contains([]string{
		"go.mod", ".dockerignore", ".gitattributes", ".golangci.yml", "AGENTS.md", "buf.yaml", "buf.gen.yaml",
	}, p) || strings.HasPrefix(p, ".github/")
}

// onlyInService are the files of the tree "service" that a gateway has not: it serves no gRPC.
func onlyInService(p string) bool {
	return strings.HasPrefix(p, "proto/") || strings.HasPrefix(p, "internal/")
}

// tree renders what the kind of project consists of, in layers: a file of a later one takes the place of its
// namesake. Paths are relative to the project.
func (s Spec) tree(v view) ([]File, error) {
	layers := []layer{{templates.FS, "service", func(p string) bool {
		return s.Home() != "" && onceInRepo(p) || s.Kind == Gateway && onlyInService(p)
	}}}
	if s.Kind == Gateway {
		layers = append(layers, layer{templates.FS, Gateway, func(p string) bool { return s.Home() != "" && onceInRepo(p) }})
	}
	if s.Overlay != nil {
		layers = append(layers, layer{s.Overlay, ".", func(p string) bool { return strings.HasPrefix(p, ".git/") }})
	}
	return renderLayers(layers, v)
}

// layer is a file tree; without says which of its files are left out.
type layer struct {
	fs      fs.FS
	root    string
	without func(p string) bool
}

func renderLayers(layers []layer, v view) ([]File, error) {
	content := map[string][]byte{}
	var order []string
	for _, l := range layers {
		err := fs.WalkDir(l.fs, l.root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name := strings.TrimPrefix(p, l.root+"/")
			plain := strings.TrimSuffix(name, ".tmpl")
			plain = strings.NewReplacer("DOMAIN", v.Package, "PROTO", v.Domain).Replace(plain)
			if l.without(plain) {
				return nil
			}
			text, err := fs.ReadFile(l.fs, p)
			if err == nil && strings.HasSuffix(name, ".tmpl") {
				text, err = renderFile(name, string(text), v)
			}
			if _, there := content[plain]; !there {
				order = append(order, plain)
			}
			content[plain] = text
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var files []File
	for _, name := range order {
		files = append(files, File{name, content[name]})
	}
	return files, nil
}

func renderFile(name, text string, v view) ([]byte, error) {
	t, err := template.New(name).Delims("[[", "]]").Option("missingkey=error").
		Funcs(template.FuncMap{"upper": strings.ToUpper}).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return nil, err
	}
	if path.Ext(strings.TrimSuffix(name, ".tmpl")) == ".go" { // the order of imports depends on the module's path
		return format.Source(b.Bytes())
	}
	return b.Bytes(), nil
}
