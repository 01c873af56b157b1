package deploy_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// unnoticed is for how long load balancers are taken to send requests to a pod that was told to end.
const unnoticed = 5 * time.Second

// closing is what a process may take after app.stop_timeout: 5 s for its workers, 10 s for what was opened.
const closing = 15 * time.Second

// stages reads a Dockerfile as BuildKit does; its warnings are failures.
func stages(t *testing.T, p project) []instructions.Stage {
	t.Helper()
	file, err := parser.Parse(strings.NewReader(p.text(t, "Dockerfile")))
	if err != nil {
		t.Fatalf("Dockerfile: %v", err)
	}
	for _, w := range file.Warnings {
		t.Errorf("Dockerfile: %s %s", w.Short, w.Detail)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, msg string, _ []parser.Range) { t.Errorf("Dockerfile: %s: %s", rule, msg) }})
	all, _, err := instructions.Parse(file.AST, lint)
	if err != nil {
		t.Fatalf("Dockerfile: %v", err)
	}
	if len(all) != 2 {
		t.Fatalf("the Dockerfile has %d stages, want one that builds and one that runs", len(all))
	}
	return all
}

// image is a Dockerfile carried out without containers: each stage has a directory for its file system.
type image struct {
	t       *testing.T
	project project
	roots   map[string]string // by the name of a stage
	env     []string          // that of the last stage
	dir     string            // WORKDIR of the last stage
	entry   []string
	ran     []string
}

func build(t *testing.T, p project) *image {
	t.Helper()
	i := &image{t: t, project: p, roots: map[string]string{}}
	for _, s := range stages(t, p) {
		base := t.TempDir()
		i.roots[s.Name], i.env, i.dir = base, nil, "/"
		for _, c := range s.Commands {
			i.do(base, c)
		}
	}
	return i
}

func (i *image) do(base string, c instructions.Command) {
	i.t.Helper()
	switch c := c.(type) {
	case *instructions.WorkdirCommand:
		i.dir = c.Path
		if err := os.MkdirAll(base+c.Path, 0o755); err != nil {
			i.t.Fatal(err)
		}
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			i.env = append(i.env, kv.Key+"="+kv.Value)
		}
	case *instructions.CopyCommand:
		i.copy(base, c)
	case *instructions.RunCommand:
		i.run(base, strings.Join(c.CmdLine, " "))
	case *instructions.EntrypointCommand:
		i.entry = c.CmdLine
	case *instructions.ArgCommand, *instructions.UserCommand, *instructions.ExposeCommand:
	default:
		i.t.Fatalf("the Dockerfile has an instruction that is not carried out here: %s", c)
	}
}

func (i *image) copy(base string, c *instructions.CopyCommand) {
	i.t.Helper()
	to := c.DestPath
	if !strings.HasPrefix(to, "/") {
		to = i.dir + "/" + to
	}
	switch {
	case c.From == "framework":
		copyRepository(i.t, base+to)
	case c.From != "":
		text, err := os.ReadFile(i.roots[c.From] + c.SourcePaths[0])
		if err != nil {
			i.t.Fatalf("COPY --from=%s: %v", c.From, err)
		}
		write(i.t, base+to, text)
		if err := os.Chmod(base+to, 0o755); err != nil {
			i.t.Fatal(err)
		}
	case c.SourcePaths[0] == ".":
		copyContext(i.t, i.project.top, base+to)
	default:
		if ignored(i.t, i.project.top)(c.SourcePaths[0]) {
			i.t.Fatalf("COPY %s: .dockerignore hides it", c.SourcePaths[0])
		}
		text, err := os.ReadFile(filepath.Join(i.project.top, c.SourcePaths[0]))
		if err != nil {
			i.t.Fatal(err)
		}
		write(i.t, base+to, text)
	}
}

// absolute are the directories of the image that its commands name.
var absolute = regexp.MustCompile(`(^|[ =])/(src|out|framework|cache)\b`)

// run carries out a RUN line, with this machine's caches in place of those of the builder.
func (i *image) run(base, line string) {
	i.t.Helper()
	i.ran = append(i.ran, line)
	env := []string{}
	for _, kv := range i.env {
		if !strings.HasPrefix(kv, "GOCACHE=") && !strings.HasPrefix(kv, "GOMODCACHE=") {
			env = append(env, kv)
		}
	}
	command(i.t, base+i.dir, append(env, "PWD="+base+i.dir), "sh", "-ec", absolute.ReplaceAllString(line, "${1}"+base+"/${2}"))
}

// ignored tells which files of a context the builder does not get.
func ignored(t *testing.T, top string) func(string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, ".dockerignore"))
	if os.IsNotExist(err) {
		return func(string) bool { return false }
	}
	if err != nil {
		t.Fatal(err)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatalf(".dockerignore: %v", err)
	}
	return func(name string) bool {
		hidden, err := m.MatchesOrParentMatches(name)
		if err != nil {
			t.Fatal(err)
		}
		return hidden
	}
}

func copyContext(t *testing.T, from, to string) {
	t.Helper()
	hidden := ignored(t, from)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(from, path)
		if err != nil || relErr != nil || d.IsDir() || hidden(rel) {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			write(t, filepath.Join(to, rel), text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestImageIsBuiltAndFitsTheManifest builds what the Dockerfile builds, starts it as the manifest does, as far as its
// configuration, and compares what it says with what Kubernetes will do.
func TestImageIsBuiltAndFitsTheManifest(t *testing.T) {
	for _, kind := range shipped() {
		t.Run(kind, func(t *testing.T) {
			p := create(t, kind)
			i := build(t, p)
			if last := i.ran[len(i.ran)-1]; !strings.HasPrefix(last, "go build ") {
				t.Errorf("the last line that runs is %q, want a build", last)
			}
			base := i.roots[""]
			static(t, base+i.entry[0])
			_, spec, c := pod(t, p)
			env := []string{"NEWSVC_INTROSPECT=config", "PWD=" + base + i.dir}
			for _, e := range c.Env {
				if e.ValueFrom == nil {
					env = append(env, e.Name+"="+e.Value)
				}
			}
			settings := introspect(t, command(t, base+i.dir, env, base+i.entry[0]))
			stop, err := time.ParseDuration(settings["app.stop_timeout"])
			if err != nil {
				t.Fatal(err)
			}
			if spec.TerminationGracePeriodSeconds == nil {
				t.Fatal("the manifest has no terminationGracePeriodSeconds")
			}
			if grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; grace <= stop+closing {
				t.Errorf("the pod is killed after %v, its process may take %v", grace, stop+closing)
			}
			if window, err := time.ParseDuration(settings["server.drain.min_window"]); behindAService(t, p) && (err != nil || window < unnoticed) {
				t.Errorf("a pod that ends answers for %v (%v), and its Service object may send it requests for %v", window, err, unnoticed)
			}
			if settings["admin.listen"] != ":9001" {
				t.Errorf("admin, which probes ask, listens on %q", settings["admin.listen"])
			}
			if settings["etcd.endpoints"] != `["etcd:2379"]` {
				t.Errorf("etcd is %s", settings["etcd.endpoints"])
			}
		})
	}
}

// static fails the test for a binary that needs libraries, which its image does not have.
func static(t *testing.T, name string) {
	t.Helper()
	f, err := elf.Open(name)
	if err != nil {
		t.Fatalf("%s is no binary of Linux: %v", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s is linked dynamically", name)
		}
	}
}

// introspect reads the values that a service prints with NEWSVC_INTROSPECT=config.
func introspect(t *testing.T, out string) map[string]string {
	t.Helper()
	var dump struct {
		Values []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		} `json:"values"`
	}
	if err := json.Unmarshal([]byte(out), &dump); err != nil {
		t.Fatalf("the service prints no JSON: %v\n%s", err, out)
	}
	values := map[string]string{}
	for _, v := range dump.Values {
		var text string
		if json.Unmarshal(v.Value, &text) != nil {
			var compact bytes.Buffer
			if err := json.Compact(&compact, v.Value); err != nil {
				t.Fatal(err)
			}
			text = compact.String()
		}
		values[v.Key] = text
	}
	return values
}
