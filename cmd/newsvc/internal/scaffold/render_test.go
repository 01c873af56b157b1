package scaffold_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kinds are the specs that have a golden file: every way in which projects differ, other than by name.
func kinds(t *testing.T) map[string]scaffold.Spec {
	t.Helper()
	name := parse(t, "blogger-user")
	return map[string]scaffold.Spec{
		"checkout": {Name: name, Module: "example.com/blogger-user", Framework: scaffold.Framework{Dir: "/src/newsvc"}, Replace: "../newsvc", CLI: "(devel)"},
		"release": {
			Name: name, Module: "github.com/acme/blogger-user", Framework: scaffold.Framework{Version: "v0.4.0"}, CLI: "v0.4.0",
			Sums: []string{"github.com/newsvc/newsvc v0.4.0 h1:zip=", "github.com/newsvc/newsvc v0.4.0/go.mod h1:mod="},
		},
		"example": {Name: name, Module: "github.com/newsvc/newsvc", Framework: scaffold.Framework{Dir: "/src/newsvc"}, InRepo: true, CLI: "(devel)"},
		"member": {
			Name: name, Module: "example.com/acme", Framework: scaffold.Framework{Dir: "/src/newsvc"}, Replace: "../newsvc", InWorkspace: true, CLI: "(devel)",
		},
		"gateway": {
			Kind: scaffold.Gateway, Name: parse(t, "web"), Module: "example.com/web", Framework: scaffold.Framework{Dir: "/src/newsvc"}, Replace: "../newsvc", CLI: "(devel)",
		},
		"gateway-member": {
			Kind: scaffold.Gateway, Name: parse(t, "web"), Module: "example.com/acme", Framework: scaffold.Framework{Version: "v0.4.0"}, InWorkspace: true, CLI: "v0.4.0",
			Sums: []string{"github.com/newsvc/newsvc v0.4.0 h1:zip=", "github.com/newsvc/newsvc v0.4.0/go.mod h1:mod="},
		},
		"gateway-example": {
			Kind: scaffold.Gateway, Name: parse(t, "web"), Module: "github.com/newsvc/newsvc", Framework: scaffold.Framework{Dir: "/src/newsvc"}, InRepo: true, CLI: "(devel)",
		},
		"workspace": {Module: "example.com/acme", Framework: scaffold.Framework{Dir: "/src/newsvc"}, Replace: "../newsvc", CLI: "(devel)"},
	}
}

// isWorkspace tells the one kind that is rendered by another function.
func isWorkspace(s scaffold.Spec) bool { return s.Name.Service == "" }

func parse(t testing.TB, service string) names.Name {
	t.Helper()
	n, err := names.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func render(t testing.TB, s scaffold.Spec) []scaffold.File {
	t.Helper()
	if isWorkspace(s) {
		files, err := scaffold.RenderWorkspace(s)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	files, err := scaffold.Render(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestGolden compares everything a person reads. Generated code, go.sum and the two files of .newsvc that repeat the
// rest are checked by other tests.
func TestGolden(t *testing.T) {
	t.Parallel()
	all := kinds(t)
	stored, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || !*update && len(stored) != len(all) {
		t.Errorf("%d golden files for %d kinds of projects: %q", len(stored), len(all), stored)
	}
	for kind, spec := range all {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			got := &txtar.Archive{}
			for _, f := range render(t, spec) {
				switch {
				case strings.HasSuffix(f.Path, ".pb.go"), f.Path == "go.sum", written(f.Path):
					f.Content = nil
				case f.Path == "go.mod":
					f.Content = withoutVersions(f.Content)
				}
				got.Files = append(got.Files, txtar.File{Name: f.Path, Data: f.Content})
			}
			golden := "testdata/golden/" + kind + ".txtar"
			if *update {
				if err := os.WriteFile(golden, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(txtar.Format(got))); diff != "" {
				t.Errorf("%s differs (-golden +rendered); after a change that is meant: go test ./cmd/newsvc/internal/scaffold -update, and raise templates.Version when projects should follow it\n%s", golden, diff)
			}
		})
	}
}

// written tells the two files of .newsvc that repeat the rest.
func written(p string) bool {
	return strings.HasSuffix(p, ".newsvc/base.txtar") || strings.HasSuffix(p, ".newsvc/template.json")
}

// withoutVersions drops the indirect requirements, which change with every update of a dependency.
func withoutVersions(mod []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "\t") && len(f) > 1 && f[0] != "github.com/newsvc/newsvc" {
			if len(f) > 2 {
				continue
			}
			line = "\t" + f[0] + " VERSION\n"
		}
		b.WriteString(line)
	}
	return b.Bytes()
}

// TestFileLists holds the lists of docs and issue: a file more or less is a decision.
func TestFileLists(t *testing.T) {
	t.Parallel()
	domain := func(dir, own string) []string {
		return []string{
			dir + "config.go", dir + "config_test.go", dir + own + ".go", dir + own + "_test.go", dir + "ping.go", dir + "ping_test.go",
		}
	}
	record := []string{".newsvc/.gitignore", ".newsvc/base.txtar", ".newsvc/template.json"}
	once := []string{".dockerignore", ".gitattributes", ".github/workflows/ci.yml", ".golangci.yml", "AGENTS.md", "buf.gen.yaml", "buf.yaml", "go.mod"}
	each := append([]string{".gitignore", "Dockerfile", "README.md", "config.yaml", "deploy/k8s.yaml", "e2e_test.go", "main.go", "newsvc.yaml"}, record...)
	api := []string{"proto/blogger_user/v1/service.pb.go", "proto/blogger_user/v1/service.proto", "proto/blogger_user/v1/service_grpc.pb.go"}
	below := func(dir string, lists ...[]string) []string {
		var all []string
		for _, p := range slices.Concat(lists...) {
			all = append(all, dir+p)
		}
		return all
	}
	service := slices.Concat(each, domain("internal/bloggeruser/", "server"))
	gateway := slices.Concat(each, domain("internal/web/", "handler"))
	alone := slices.Concat(service, api, once, []string{"go.sum"})
	for kind, tc := range map[string]struct {
		count int
		want  []string
	}{
		"checkout":        {29, alone},
		"release":         {29, alone},
		"example":         {20, slices.Concat(service, api)},
		"member":          {20, slices.Concat(below("services/blogger-user/", service), api)},
		"gateway":         {26, slices.Concat(gateway, once, []string{"go.sum"})},
		"gateway-member":  {17, below("services/web/", gateway)},
		"gateway-example": {17, gateway},
		"workspace":       {15, slices.Concat(once, record, []string{".gitignore", "README.md", "go.sum", "newsvc.yaml"})},
	} {
		slices.Sort(tc.want)
		var got []string
		for _, f := range render(t, kinds(t)[kind]) {
			got = append(got, f.Path)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || len(got) != tc.count {
			t.Errorf("%s has %d files, want %d (-want +got):\n%s", kind, len(got), tc.count, diff)
		}
	}
	if n := len(kinds(t)); n != 8 {
		t.Errorf("%d kinds of projects, and 8 lists", n)
	}
}

func TestRenderedTwiceIsTheSame(t *testing.T) {
	t.Parallel()
	for kind, spec := range kinds(t) {
		if diff := cmp.Diff(render(t, spec), render(t, spec)); diff != "" {
			t.Errorf("%s differs between two renders:\n%s", kind, diff)
		}
	}
}

func TestFilesAreClean(t *testing.T) {
	t.Parallel()
	for kind, spec := range kinds(t) {
		for _, f := range render(t, spec) {
			text := string(f.Content)
			for _, bad := range []string{"TO" + "DO", "FIX" + "ME", "[[", "]]", "<no value>", "\r"} {
				if strings.Contains(text, bad) && f.Path != "go.sum" && !written(f.Path) && !strings.HasSuffix(f.Path, ".pb.go") {
					t.Errorf("%s: %s contains %q", kind, f.Path, bad)
				}
			}
			if !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n") {
				t.Errorf("%s: %s does not end with one newline", kind, f.Path)
			}
			if strings.HasSuffix(f.Path, "AGENTS.md") && strings.Count(text, "\n") > 20 {
				t.Errorf("%s: %s has %d lines, and 20 are what a program reads at each start", kind, f.Path, strings.Count(text, "\n"))
			}
			if strings.HasSuffix(f.Path, "main.go") && strings.Count(text, "\n") > 25 {
				t.Errorf("%s: %s has %d lines, at most 25 are read at a glance", kind, f.Path, strings.Count(text, "\n"))
			}
		}
	}
}

// TestDomainIsFree holds promise 2: the domain's code compiles without the framework and without Fx.
func TestDomainIsFree(t *testing.T) {
	t.Parallel()
	for kind, spec := range kinds(t) {
		seen := 0
		for _, f := range render(t, spec) {
			if !strings.Contains("/"+f.Path, "/internal/") {
				continue
			}
			seen++
			file, err := parser.ParseFile(token.NewFileSet(), f.Path, f.Content, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range file.Imports {
				p := strings.Trim(spec.Path.Value, `"`)
				if strings.HasPrefix(p, "go.uber.org/") || strings.HasPrefix(p, "github.com/newsvc/newsvc/framework") {
					t.Errorf("%s: %s imports %s", kind, f.Path, p)
				}
			}
		}
		if seen != 6 && !isWorkspace(spec) {
			t.Errorf("%s has %d files of the domain, want 6", kind, seen)
		}
	}
}

func TestRecordOfWhatWasWritten(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{}
	for _, f := range render(t, kinds(t)["checkout"]) {
		files[f.Path] = f.Content
	}
	var about struct {
		Template, Newsvc, Name, Module string
		Version                        int
		SHA256                         map[string]string
	}
	if err := json.Unmarshal(files[".newsvc/template.json"], &about); err != nil {
		t.Fatal(err)
	}
	if about.Template != "service" || about.Version < 1 || about.Name != "blogger-user" || about.Module != "example.com/blogger-user" || about.Newsvc != "(devel)" {
		t.Errorf("template.json says %+v", about)
	}
	if len(about.SHA256) != len(files)-1 {
		t.Errorf("template.json has %d checksums for %d files", len(about.SHA256), len(files)-1)
	}
	for p, want := range about.SHA256 {
		if got := sha256.Sum256(files[p]); hex.EncodeToString(got[:]) != want {
			t.Errorf("the checksum of %s is not that of the file", p)
		}
	}
	base := txtar.Parse(files[".newsvc/base.txtar"])
	if len(base.Files) != 23 {
		t.Errorf("base.txtar has %d files, want the 23 that belong to the author", len(base.Files))
	}
	for _, f := range base.Files {
		if !bytes.Equal(f.Data, files[f.Name]) {
			t.Errorf("base.txtar has another %s than the project", f.Name)
		}
	}
}

// TestPackageHidesNothing collects what a project declares and imports in the files that import the domain's package,
// and compares it with what package names keeps clear of: in both directions, so that the list stays honest.
func TestPackageHidesNothing(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, f := range slices.Concat(render(t, kinds(t)["checkout"]), render(t, kinds(t)["gateway"])) {
		if f.Path != "main.go" && f.Path != "e2e_test.go" && !strings.HasSuffix(f.Path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Path, f.Content, 0)
		if err != nil {
			t.Fatal(err)
		}
		onlyTop := f.Path == "e2e_test.go" // it shares main.go's package, not its imports
		maps.Copy(used, declared(file, onlyTop))
	}
	delete(used, "_")
	for id := range used {
		if n, err := names.Parse(id); err == nil && n.Package == id && !strings.HasPrefix(id, "bloggeruser") && id != "web" {
			t.Errorf("a service called %q gets a Go package that hides %q in a new project", id, id)
		}
	}
	for _, id := range []string{
		"app", "conn", "done", "err", "fx", "got", "grpc", "h", "http", "httptest", "insecure", "lc", "lis", "name", "net", "rec", "req", "resp",
		"server", "service", "srv", "strings", "t", "tc", "testing",
	} {
		if !used[id] {
			t.Errorf("no file of a project uses %q any more: take it from the list in package names", id)
		}
	}
}

func declared(file *ast.File, onlyTop bool) map[string]bool {
	out := map[string]bool{}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			out[fn.Name.Name] = true
		}
	}
	if onlyTop {
		return out
	}
	for _, spec := range file.Imports {
		name := path.Base(strings.Trim(spec.Path.Value, `"`))
		if spec.Name != nil {
			name = spec.Name.Name
		}
		out[name] = true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		var ids []ast.Expr
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				ids = n.Lhs
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				ids = append(ids, id)
			}
		case *ast.RangeStmt:
			ids = []ast.Expr{n.Key, n.Value}
		case *ast.FuncType:
			for _, p := range n.Params.List {
				for _, id := range p.Names {
					ids = append(ids, id)
				}
			}
		}
		for _, e := range ids {
			if id, ok := e.(*ast.Ident); ok {
				out[id.Name] = true
			}
		}
		return true
	})
	return out
}

func FuzzEveryNameRenders(f *testing.F) {
	for _, seed := range []string{
		"blogger-user", "a", "pay-windows", "user-test", "x-amd64", "go-service", "type", "buf", "google", "message", "string", "main", "fx", "app", "log",
		"service", "validate", "rpc-service", "testing", "context", "x-linux-test", "c-on", "v-2", strings.Repeat("ab-", 16) + "ab",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, service string) {
		n, err := names.Parse(service)
		if err != nil {
			t.Skip("not a service name")
		}
		paths := map[string]bool{}
		for _, file := range render(t, scaffold.Spec{Name: n, Module: "example.com/" + service, Framework: scaffold.Framework{Version: "v0.4.0"}}) {
			if err := module.CheckFilePath(file.Path); err != nil {
				t.Errorf("%q: %v", service, err)
			}
			if low := strings.ToLower(file.Path); paths[low] {
				t.Errorf("%q: two files are called %s where case does not count", service, low)
			} else {
				paths[low] = true
			}
			base := path.Base(file.Path)
			if strings.Contains(base, service) && len(service) > 8 {
				t.Errorf("%q: the file %s carries the name; a name such as x-windows would change what is built", service, file.Path)
			}
			if base == "service_grpc.pb.go" && !bytes.Contains(file.Content, []byte("\ntype Unimplemented"+n.ProtoService+"Server struct")) {
				t.Errorf("%q: the generated Go has another name than %s", service, n.ProtoService)
			}
			if strings.HasSuffix(base, ".go") {
				if _, err := parser.ParseFile(token.NewFileSet(), file.Path, file.Content, parser.SkipObjectResolution); err != nil {
					t.Errorf("%q: %v", service, err)
				}
			}
		}
	})
}
