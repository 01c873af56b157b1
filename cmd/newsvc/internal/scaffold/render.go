package scaffold

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/format"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/mod/modfile"
	"golang.org/x/tools/txtar"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
	"github.com/newsvc/newsvc/templates"
)

// Spec is all that decides the bytes of a project; equal specs give equal projects.
type Spec struct {
	Name      names.Name
	Module    string    // the module that the project's files are in
	InRepo    bool      // an example of the framework's repository: no module of its own
	Framework Framework // how go.mod refers to the framework
	Replace   string    // how go.mod writes Framework.Dir; empty with a version
	Sums      []string  // go.sum lines of the framework; empty with a checkout
	CLI       string    // version of newsvc, kept in .newsvc/template.json
}

// File is one file of a project; Path has slashes and is relative to its root.
type File struct {
	Path    string
	Content []byte
}

// requirement is a line of go.mod.
type requirement struct{ Path, Version string }

// view is what templates see besides the names.
type view struct {
	names.Name
	Module, Import, Binary string
	Framework              string // its module
	Replace, ReplaceQuoted string
	InRepo                 bool
	Go, StubsVersion       string
	TemplateVersion        int
	Direct, Indirect       []requirement
}

// unversioned is what a replaced module is required as: any version would do, and this one claims nothing.
const unversioned = "v0.0.0-00010101000000-000000000000"

// Render returns the files of a new service, sorted by path.
func Render(ctx context.Context, s Spec) ([]File, error) {
	v, sum, err := s.view()
	if err != nil {
		return nil, err
	}
	files, err := renderTree(v)
	if err != nil {
		return nil, err
	}
	generated, err := generate(ctx, files, s.Import()+"/proto")
	if err != nil {
		return nil, err
	}
	base, err := pristine(files)
	if err != nil {
		return nil, err
	}
	files = append(append(files, generated...), base)
	if !s.InRepo {
		files = append(files, File{"go.sum", sum})
	}
	about, err := s.about(files)
	if err != nil {
		return nil, err
	}
	files = append(files, about)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// view reads the dependencies of a new project, which are stored beside the templates.
func (s Spec) view() (view, []byte, error) {
	v := view{
		Name: s.Name, Module: s.Module, Import: s.Import(), Binary: path.Base(s.Module),
		Framework: buildinfo.Module, Replace: s.Replace, ReplaceQuoted: modfile.AutoQuote(s.Replace), InRepo: s.InRepo,
		StubsVersion: protogen.StubsVersion, TemplateVersion: templates.Version,
	}
	mod, err := templates.FS.ReadFile("gomod/service.mod")
	if err != nil {
		return view{}, nil, err
	}
	parsed, err := modfile.Parse("service.mod", mod, nil)
	if err != nil {
		return view{}, nil, err
	}
	v.Go = parsed.Go.Version
	v.Direct = []requirement{{buildinfo.Module, s.Framework.Version}}
	if s.Framework.Version == "" {
		v.Direct[0].Version = unversioned
	}
	for _, r := range parsed.Require {
		list := &v.Direct
		if r.Indirect {
			list = &v.Indirect
		}
		*list = append(*list, requirement{r.Mod.Path, r.Mod.Version})
	}
	slices.SortFunc(v.Direct, func(a, b requirement) int { return strings.Compare(a.Path, b.Path) })
	sum, err := templates.FS.ReadFile("gomod/service.sum")
	if err != nil {
		return view{}, nil, err
	}
	return v, insertSums(sum, s.Sums), nil
}

// insertSums adds lines of the framework where the go command would: sorted by module.
func insertSums(sum []byte, lines []string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(sum)) {
		if p, _, _ := strings.Cut(line, " "); p > buildinfo.Module {
			for _, l := range lines {
				b.WriteString(l + "\n")
			}
			lines = nil
		}
		b.WriteString(line)
	}
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	return b.Bytes()
}

// notInRepo are the files that a repository has once, at its root.
func notInRepo(p string) bool {
	return slices.Contains([]string{
		"go.mod", ".dockerignore", ".gitattributes", ".golangci.yml", "AGENTS.md", "buf.yaml", "buf.gen.yaml",
	}, p) || strings.HasPrefix(p, ".github/")
}

func renderTree(v view) ([]File, error) {
	var files []File
	err := fs.WalkDir(templates.FS, "service", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(p, "service/"), ".tmpl")
		name = strings.NewReplacer("DOMAIN", v.Package, "PROTO", v.Domain).Replace(name)
		if v.InRepo && notInRepo(name) {
			return nil
		}
		text, err := fs.ReadFile(templates.FS, p)
		if err != nil {
			return err
		}
		content, err := renderFile(p, string(text), v)
		files = append(files, File{name, content})
		return err
	})
	return files, err
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
	if strings.HasSuffix(name, ".go.tmpl") { // the order of imports depends on the module's path
		return format.Source(b.Bytes())
	}
	return b.Bytes(), nil
}

// generate returns the Go code of all .proto files.
func generate(ctx context.Context, files []File, goRoot string) ([]File, error) {
	in := protogen.Input{Files: map[string][]byte{}, GoRoot: goRoot}
	for _, f := range files {
		if p, ok := strings.CutPrefix(f.Path, "proto/"); ok && strings.HasSuffix(p, ".proto") {
			in.Files[p] = f.Content
		}
	}
	code, err := protogen.Generate(ctx, in)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, f := range code {
		out = append(out, File{"proto/" + f.Name, f.Content})
	}
	return out, nil
}

// pristine keeps the files as they were rendered, so that a later newsvc can tell the author's changes from its own.
func pristine(files []File) (File, error) {
	a := &txtar.Archive{Comment: []byte("What newsvc create wrote. It is the base for merging later templates; do not edit.\n")}
	for _, f := range files {
		if strings.HasPrefix(f.Path, ".newsvc/") {
			continue
		}
		a.Files = append(a.Files, txtar.File{Name: f.Path, Data: f.Content})
	}
	slices.SortFunc(a.Files, func(x, y txtar.File) int { return strings.Compare(x.Name, y.Name) })
	text := txtar.Format(a)
	for i, back := range txtar.Parse(text).Files {
		if i >= len(a.Files) || back.Name != a.Files[i].Name || !bytes.Equal(back.Data, a.Files[i].Data) {
			return File{}, fmt.Errorf("the archive of templates cannot hold %q", back.Name)
		}
	}
	return File{".newsvc/base.txtar", text}, nil
}

// about records what wrote the project, and the checksum of each file as it was written.
func (s Spec) about(files []File) (File, error) {
	sums := map[string]string{}
	for _, f := range files {
		sum := sha256.Sum256(f.Content)
		sums[f.Path] = hex.EncodeToString(sum[:])
	}
	text, err := json.MarshalIndent(struct {
		Template string            `json:"template"`
		Version  int               `json:"version"`
		Newsvc   string            `json:"newsvc"`
		Name     string            `json:"name"`
		Module   string            `json:"module"`
		InRepo   bool              `json:"in_repo,omitempty"`
		Files    map[string]string `json:"sha256"`
	}{"service", templates.Version, s.CLI, s.Name.Service, s.Module, s.InRepo, sums}, "", "  ")
	return File{".newsvc/template.json", append(text, '\n')}, err
}
