package clitest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func withPrefix() clientv3.OpOption { return clientv3.WithPrefix() }

// TestFullCycle takes six projects from nothing to a service that is called by its name and is gone after the stop: each place
// that create knows, a name that Go would read as a build constraint, and a path that shells and tools trip over.
func TestFullCycle(t *testing.T) {
	for _, tc := range []struct {
		name, service string
		// prepare makes the place and returns where create is called; project says where it has to put the service.
		prepare func(t *testing.T, s *shell, top string) (cwd, project string)
	}{
		{"alone", "blogger-user", func(_ *testing.T, _ *shell, top string) (string, string) {
			return top, filepath.Join(top, "blogger-user")
		}},
		{"workspace", "blogger-user", func(_ *testing.T, s *shell, top string) (string, string) {
			s.run(top, "newsvc", "init", "acme")
			cwd := filepath.Join(top, "acme")
			return cwd, filepath.Join(cwd, "services", "blogger-user")
		}},
		{"checkout", "blogger-user", func(t *testing.T, _ *shell, top string) (string, string) {
			checkout(t, top)
			return top, filepath.Join(top, "examples", "blogger-user")
		}},
		{"nested", "blogger-user", func(t *testing.T, _ *shell, top string) (string, string) {
			write(t, filepath.Join(top, "go.mod"), "module example.com/other\n\ngo 1.26\n")
			write(t, filepath.Join(top, "go.work"), "go 1.26\n\nuse .\n")
			cwd := mkdir(t, filepath.Join(top, "tools"))
			return cwd, filepath.Join(cwd, "blogger-user")
		}},
		{"windows", "pay-windows", func(_ *testing.T, _ *shell, top string) (string, string) {
			return top, filepath.Join(top, "pay-windows")
		}},
		{"odd path", "blogger-user", func(t *testing.T, _ *shell, top string) (string, string) {
			target := mkdir(t, filepath.Join(top, "Größe und Maß", "проект"))
			link := filepath.Join(top, "ein Weg")
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			return link, filepath.Join(link, "blogger-user")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShell(t)
			top, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if tc.name == "nested" { // a go.work above knows nothing of the new module
				s.env = append(s.env, "GOWORK=off")
			}
			cwd, project := tc.prepare(t, s, top)
			s.run(cwd, "newsvc", "create", tc.service)
			s.cycle(top, project, tc.service)
		})
	}
}

// cycle is what a project has to go through. Everything that newsvc and the service leave behind has to be ignored by git.
func (s *shell) cycle(repo, project, service string) {
	t := s.t
	t.Helper()
	s.run(repo, "git", "init", "-q")
	s.run(repo, "git", "add", "-A")
	s.run(repo, "git", "commit", "-q", "-m", "created")
	s.run(project, "go", append(append([]string{"test"}, race(t)...), "./...")...)
	s.run(project, "golangci-lint", "run", "--allow-parallel-runners", "./...")
	s.run(project, "newsvc", "generate", "--check")

	addr, keys := etcd(t)
	d := s.startDev(project, service, "--etcd", addr)
	if got := keys(service); len(got) != 1 {
		t.Errorf("%q are registered, want one key", got)
	}
	if got := strings.TrimSpace(s.run(t.TempDir(), "newsvc", "call", service, "Ping", "-d", `{"message":"hi"}`, "--etcd", addr)); strings.ReplaceAll(got, " ", "") != `{"message":"hi"}` {
		t.Errorf("newsvc call answers %s", got)
	}
	if err := d.interrupt(t); err != nil {
		t.Errorf("newsvc dev ended with %v, want exit code 0\n%s", err, d.output())
	}
	if left := keys(service); len(left) != 0 {
		t.Errorf("%q are still registered after the stop", left)
	}
	if changed := s.run(repo, "git", "status", "--porcelain"); changed != "" {
		t.Errorf("git sees changes after test, lint, dev and stop:\n%s", changed)
	}
}

// TestEveryName renders, vets and lints the services that are called as no template expects: in one workspace, so that they
// have to get along with each other as well.
func TestEveryName(t *testing.T) {
	s := newShell(t)
	top := t.TempDir()
	s.run(top, "newsvc", "init", "acme")
	dir := filepath.Join(top, "acme")
	all := []string{"blogger-user", "a", "pay-windows", "user-test", "x-amd64", "go-service", "user-service", strings.Repeat("abcdefghi-", 4) + "abcdefghij"}
	for _, name := range all {
		s.run(dir, "newsvc", "create", name, "--no-verify")
	}
	var exit interface{ ExitCode() int }
	if _, err := s.try(dir, "newsvc", "create", "user"); !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(err.Error(), "would both own the proto package user.v1") {
		t.Errorf("create user beside user-service: %v, want exit code 4", err)
	}
	s.run(dir, "newsvc", "create", "edge", "--kind", "gateway", "--no-verify")
	s.run(dir, "go", "vet", "./...")
	s.run(dir, "golangci-lint", "run", "--allow-parallel-runners", "./...")
	if out := s.run(dir, "gofmt", "-l", "."); out != "" {
		t.Errorf("gofmt would change %s", out)
	}
	s.run(dir, "newsvc", "generate", "--check")

	// buf works without a network, as AGENTS.md says: its proxy is an address where nobody listens.
	s.env = append(s.env, "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "BUF_CACHE_DIR="+t.TempDir())
	if _, err := s.try(dir, "buf", "lint"); err == nil {
		t.Error("buf finds buf/validate before it is exported")
	}
	if out := s.run(dir, "newsvc", "generate", "--export-deps", "third_party"); !strings.Contains(out, "update third_party/buf/validate/validate.proto\n") {
		t.Errorf("--export-deps says\n%s", out)
	}
	s.run(dir, "buf", "generate")
	s.run(dir, "newsvc", "generate", "--check")
	s.run(dir, "buf", "lint")
	s.run(dir, "buf", "format", "--diff", "--exit-code", "proto")
}
