package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"
)

const workflow = ".github/workflows/ci.yml"

// step is one of a job; the test knows no other keys, so a new one has to be thought of here.
type step struct {
	If   string
	Uses string
	With map[string]string
	Env  map[string]string
	Run  string
}

// jobs reads the workflow of a project.
func jobs(t *testing.T, p project) map[string][]step {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.top, workflow))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Name        string
		On          map[string]any
		Permissions map[string]string
		Jobs        map[string]struct {
			RunsOn string `yaml:"runs-on"`
			Steps  []step
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("%s: %v", workflow, err)
	}
	if _, ok := file.On["pull_request"]; !ok || file.Permissions["contents"] != "read" || len(file.Permissions) != 1 {
		t.Errorf("%s runs on %v with %v", workflow, file.On, file.Permissions)
	}
	all := map[string][]step{}
	for name, job := range file.Jobs {
		all[name] = job.Steps
	}
	return all
}

var (
	pinned    = regexp.MustCompile(`^[\w.-]+/[\w.-]+@[0-9a-f]{40}$`)
	condition = regexp.MustCompile(`^hashFiles\('proto/\*\*'\) != ''( && (github\.event_name == 'pull_request'|hashFiles\('third_party/\*\*', 'buf\.lock'\) == ''))?$`)
)

// TestActionsArePinned wants a commit for each action, with the release that it is, and the tools that the framework
// itself is checked with.
func TestActionsArePinned(t *testing.T) {
	t.Parallel()
	p := create(t, "service")
	text, err := os.ReadFile(filepath.Join(p.top, workflow))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`(?m)uses: \S+ # v\d+\.\d+\.\d+$`).FindAllString(string(text), -1)
	n := 0
	for _, steps := range jobs(t, p) {
		for _, s := range steps {
			if s.Uses == "" {
				continue
			}
			n++
			if !pinned.MatchString(s.Uses) {
				t.Errorf("%q is not pinned by a commit", s.Uses)
			}
			switch action, _, _ := strings.Cut(s.Uses, "@"); action {
			case "golangci/golangci-lint-action":
				if want := toolVersion(t, "lint", "github.com/golangci/golangci-lint/v2"); s.With["version"] != want {
					t.Errorf("golangci-lint is %q, the framework uses %s", s.With["version"], want)
				}
			case "bufbuild/buf-action":
				if want := strings.TrimPrefix(toolVersion(t, "buf", "github.com/bufbuild/buf"), "v"); s.With["version"] != want {
					t.Errorf("buf is %q, the framework uses %s", s.With["version"], want)
				}
			}
		}
	}
	if n < 4 || len(named) != n {
		t.Errorf("%d actions, of which %d name their release", n, len(named))
	}
}

// toolVersion is what tools/NAME pins.
func toolVersion(t *testing.T, name, module string) string {
	t.Helper()
	file := filepath.Join(root, "tools", name, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(file, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Mod.Path == module {
			return r.Mod.Version
		}
	}
	t.Fatalf("%s does not require %s", file, module)
	return ""
}

// lines are all that a workflow runs.
func lines(t *testing.T, p project) []string {
	t.Helper()
	var all []string
	for _, steps := range jobs(t, p) {
		for _, s := range steps {
			if s.Run != "" {
				all = append(all, s.Run)
			}
		}
	}
	slices.Sort(all)
	return all
}

// TestAllKindsRunTheSame lets the test below stand for all kinds of projects.
func TestAllKindsRunTheSame(t *testing.T) {
	t.Parallel()
	want := lines(t, create(t, "service"))
	if len(want) < 6 {
		t.Errorf("the workflow runs only %q", want)
	}
	for _, kind := range kinds() {
		if kind == "example" { // the framework's own CI
			continue
		}
		if got := lines(t, create(t, kind)); !slices.Equal(got, want) {
			t.Errorf("%s runs %q, a service %q", kind, got, want)
		}
	}
}

// TestEveryLineOfTheWorkflowRuns carries out the workflow in a clone, on the branch of a pull request.
//
// Two things that it would ask a network for are here: the vulnerability database is a directory, and what the .proto
// files import lies in the repository, where newsvc generate --export-deps wrote it, in place of buf's registry.
func TestEveryLineOfTheWorkflowRuns(t *testing.T) {
	p := create(t, "service")
	proto := filepath.Join(p.top, "proto/blogger_user/v1/service.proto")
	replace(t, proto, "message PingResponse {", "message PingResponse {\n  string more = 2;")
	newsvc(t, p.top, "generate", "-q")
	change := contents(t, filepath.Dir(proto))
	replace(t, proto, "\n  string more = 2;", "")
	newsvc(t, p.top, "generate", "-q")
	withoutRegistry(t, p.top)
	git := func(args ...string) { t.Helper(); command(t, p.top, nil, "git", args...) }
	origin := t.TempDir()
	command(t, origin, nil, "git", "init", "-q", "--bare", "-b", "main")
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "created")
	git("remote", "add", "origin", origin)
	git("push", "-q", "origin", "main")
	git("fetch", "-q", "origin")
	git("checkout", "-q", "-b", "change")
	for name, text := range change {
		write(t, name, text)
	}
	git("commit", "-q", "-a", "-m", "a field more")

	database := vulnerabilities(t)
	var govulncheck string
	var breaking step
	ran := 0
	all := jobs(t, p)
	for _, job := range []string{"go", "proto"} {
		for _, s := range all[job] {
			if s.Run == "" {
				continue
			}
			if s.If != "" && !condition.MatchString(s.If) {
				t.Fatalf("whether %q holds is not known here", s.If)
			}
			line := withDatabase(s.Run, database)
			shell(t, p.top, variables(t, s), line)
			ran++
			if line != s.Run {
				govulncheck = s.Run
			}
			if strings.Contains(s.Run, "buf breaking") {
				if breaking = s; !strings.Contains(s.If, "pull_request") {
					t.Errorf("buf breaking runs when %q; a push has nothing to compare with", s.If)
				}
			}
		}
	}
	if want := len(lines(t, p)); ran != want {
		t.Errorf("%d lines ran, the workflow has %d", ran, want)
	}

	// They are there to refuse: what is called and known to be vulnerable, and a field whose type changed.
	refusesVulnerable(t, p, govulncheck)
	replace(t, proto, "string message = 1", "int64 message = 1")
	if out, err := try(t, p.top, variables(t, breaking), "bash", "-ec", breaking.Run); err == nil {
		t.Errorf("buf breaking lets a changed field pass: %s", out)
	} else if !strings.Contains(err.Error(), "changed type") {
		t.Errorf("buf breaking fails, with %v", err)
	}
}

// variables are those of a step, in a pull request against main.
func variables(t *testing.T, s step) []string {
	t.Helper()
	var env []string
	for k, v := range s.Env {
		if v = strings.ReplaceAll(v, "${{ github.base_ref }}", "main"); strings.Contains(v, "${{") {
			t.Fatalf("what %s=%s is, is not known here", k, v)
		}
		env = append(env, k+"="+v)
	}
	if strings.Contains(s.Run, "${{") {
		t.Errorf("an expression is pasted into a shell: %q", s.Run)
	}
	return env
}

// shell runs a step as the runner does.
func shell(t *testing.T, dir string, env []string, script string) {
	t.Helper()
	t.Logf("run: %s", script)
	command(t, dir, env, "bash", "-ec", script)
}

// contents reads all files of a directory.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) < 3 {
		t.Fatalf("%s holds %q, %v", dir, names, err)
	}
	all := map[string][]byte{}
	for _, name := range names {
		if all[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func replace(t *testing.T, name, old, with string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", name, old)
	}
	write(t, name, []byte(strings.ReplaceAll(string(text), old, with)))
}

// withoutRegistry writes what the .proto files import. The dependency on buf's registry is taken out of buf.yaml only for
// the line that brings it up to date, which a workflow would not come to: it would ask the registry.
func withoutRegistry(t *testing.T, top string) {
	t.Helper()
	newsvc(t, top, "generate", "--export-deps", "third_party", "-q")
	name := filepath.Join(top, "buf.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	delete(file, "deps")
	if text, err = yaml.Marshal(file); err != nil {
		t.Fatal(err)
	}
	write(t, name, text)
}
