package scaffold

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
	"github.com/newsvc/newsvc/templates"
)

// Kinds of projects.
const (
	Service = "service" // serves gRPC
	Gateway = "gateway" // serves HTTP, and calls services
)

// Spec is all that decides the bytes of a project; equal specs give equal projects.
type Spec struct {
	Kind        string // [Service] or [Gateway]; empty means [Service]
	Name        names.Name
	Module      string    // the module that the project's files are in
	InRepo      bool      // an example of the framework's repository: no module of its own
	InWorkspace bool      // a service of a workspace: no module of its own, and the API beside those of others
	Framework   Framework // how go.mod refers to the framework
	Replace     string    // how go.mod writes Framework.Dir; empty with a version
	Sums        []string  // go.sum lines of the framework; empty with a checkout
	CLI         string    // version of newsvc, kept in .newsvc/template.json
	Overlay     fs.FS     // files laid over those of the template; nil for none
}

func (s Spec) kind() string {
	if s.Kind == "" {
		return Service
	}
	return s.Kind
}

// Home is the directory of the project below the root of its module, with slashes; empty when it is the root.
func (s Spec) Home() string {
	switch {
	case s.InRepo:
		return path.Join("examples", s.Name.Service)
	case s.InWorkspace:
		return path.Join("services", s.Name.Service)
	}
	return ""
}

// Import is the import path of the project's directory.
func (s Spec) Import() string { return path.Join(s.Module, s.Home()) }

// ProtoImport is the import path of the directory that its .proto files are below.
func (s Spec) ProtoImport() string {
	if s.InWorkspace {
		return path.Join(s.Module, "proto")
	}
	return path.Join(s.Import(), "proto")
}

// requirement is a line of go.mod.
type requirement struct{ Path, Version string }

// view is what templates see besides the names.
type view struct {
	names.Name
	Module, Import, Binary string
	ProtoImport            string // import path of the proto root
	ToProto                string // from the project's directory to the one that has proto/: "" or "../../"
	Home                   string // of the project below the root of its module; empty when it is the root
	Framework              string // its module
	Replace, ReplaceQuoted string
	InRepo, InWorkspace    bool
	HasUnderscore          bool // the domain; Go package names have none, and buf's managed mode would keep it
	Gateway                bool
	Go, StubsVersion       string
	TemplateVersion        int
	Direct, Indirect       []requirement
	Tools                  []string
}

// unversioned is what a replaced module is required as: any version would do, and this one claims nothing.
const unversioned = "v0.0.0-00010101000000-000000000000"

// view reads the dependencies of a new project, which are stored beside the templates.
func (s Spec) view() (view, []byte, error) {
	v := view{
		Name: s.Name, Module: s.Module, Import: s.Import(), ProtoImport: s.ProtoImport(), Binary: path.Base(s.Module), Home: s.Home(),
		Framework: buildinfo.Module, Replace: s.Replace, ReplaceQuoted: modfile.AutoQuote(s.Replace),
		InRepo: s.InRepo, InWorkspace: s.InWorkspace, Gateway: s.Kind == Gateway,
		HasUnderscore: strings.Contains(s.Name.Domain, "_"), StubsVersion: protogen.StubsVersion, TemplateVersion: templates.Version,
	}
	if s.InWorkspace {
		v.ToProto = "../../"
	}
	kind := s.kind()
	if s.InWorkspace { // one go.mod for whatever comes
		kind = Service
	}
	sum, err := v.require(kind, s.Framework.Version)
	return v, insertSums(sum, s.Sums), err
}

// require fills in what is stored for a kind of project, and returns the lines of go.sum.
func (v *view) require(kind, framework string) ([]byte, error) {
	mod, err := templates.FS.ReadFile("gomod/" + kind + ".mod")
	if err != nil {
		return nil, err
	}
	parsed, err := modfile.Parse(kind+".mod", mod, nil)
	if err != nil {
		return nil, err
	}
	v.Go = parsed.Go.Version
	if framework == "" {
		framework = unversioned
	}
	v.Direct = []requirement{{buildinfo.Module, framework}}
	for _, r := range parsed.Require {
		list := &v.Direct
		if r.Indirect {
			list = &v.Indirect
		}
		*list = append(*list, requirement{r.Mod.Path, r.Mod.Version})
	}
	for _, t := range parsed.Tool {
		v.Tools = append(v.Tools, t.Path)
	}
	slices.SortFunc(v.Direct, func(a, b requirement) int { return strings.Compare(a.Path, b.Path) })
	return templates.FS.ReadFile("gomod/" + kind + ".sum")
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
