package deploy_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var (
	root string // of the framework's repository
	bin  string // holds newsvc, buf, etcd and etcdctl, as users install them
)

func TestMain(m *testing.M) {
	if image := os.Getenv(contained); image != "" {
		fmt.Fprintln(os.Stderr, enter(image))
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	if bin, err = os.MkdirTemp("", "newsvc-deploy-"); err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(bin) }()
	for _, args := range [][]string{
		{"build", "-o", filepath.Join(bin, "newsvc"), "./cmd/newsvc"},
		{"build", "-modfile=tools/buf/go.mod", "-o", filepath.Join(bin, "buf"), "github.com/bufbuild/buf/cmd/buf"},
		{"build", "-modfile=tools/etcd/go.mod", "-o", filepath.Join(bin, "etcd"), "go.etcd.io/etcd/server/v3"},
		{"build", "-modfile=tools/etcd/go.mod", "-o", filepath.Join(bin, "etcdctl"), "go.etcd.io/etcd/etcdctl/v3"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return m.Run(), nil
}

// project is what newsvc create wrote, with what surrounds it.
type project struct {
	kind string
	top  string // what is committed as one repository, and the context of the image
	home string // the service's directory below top; empty when it is top
}

func (p project) file(name string) string { return filepath.Join(p.top, p.home, name) }

// name is that of the service.
func (p project) name() string { return path.Base(path.Join("blogger-user", p.home)) }

// text reads a file of the service.
func (p project) text(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(p.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// kinds are all the forms in which newsvc writes deployment files.
func kinds() []string { return []string{"service", "gateway", "member", "gateway member", "example"} }

// shipped are kinds, and the examples of the framework, which somebody deploys first.
func shipped() []string { return append(kinds(), "examples/user-service", "examples/gateway") }

// create writes a project of a kind below a directory of the test.
func create(t *testing.T, kind string) project {
	t.Helper()
	if strings.HasPrefix(kind, "examples/") {
		dir := t.TempDir()
		copyRepository(t, dir)
		return project{kind, dir, kind}
	}
	dir := t.TempDir()
	kindFlag := []string{"--kind", "service"}
	if strings.HasPrefix(kind, "gateway") {
		kindFlag[1] = "gateway"
	}
	args := append([]string{"create", "blogger-user", "--no-verify", "-q"}, kindFlag...)
	switch kind {
	case "service", "gateway":
		newsvc(t, dir, args...)
		return project{kind, filepath.Join(dir, "blogger-user"), ""}
	case "member", "gateway member":
		newsvc(t, dir, "init", "acme", "-q")
		newsvc(t, filepath.Join(dir, "acme"), args...)
		return project{kind, filepath.Join(dir, "acme"), "services/blogger-user"}
	case "example":
		copyRepository(t, dir)
		newsvc(t, dir, args...)
		return project{kind, dir, "examples/blogger-user"}
	}
	t.Fatalf("no kind %q", kind)
	return project{}
}

func newsvc(t *testing.T, dir string, args ...string) {
	t.Helper()
	command(t, dir, nil, filepath.Join(bin, "newsvc"), args...)
}

// command runs a command and returns what it prints to stdout; a failure ends the test.
func command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

func try(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(),
		"PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "PWD="+dir, "GOWORK=off", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	), env...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = errors.Join(err, errors.New(out.String()+errs.String()))
	}
	return out.String(), err
}

// tracked lists the files of the framework's repository, new ones included.
var tracked = sync.OnceValues(func() ([]string, error) {
	cmd := exec.Command("git", "-c", "safe.directory="+root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), err
})

// copyRepository copies the framework's repository, without its history.
func copyRepository(t *testing.T, to string) {
	t.Helper()
	files, err := tracked()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, name), text)
	}
}

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
