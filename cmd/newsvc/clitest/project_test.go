package clitest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// shell runs commands for one test, in directories it names.
type shell struct {
	t   *testing.T
	env []string
}

// newShell skips the test unless it is asked for. home is where the processes of this test keep what they remember of each other.
func newShell(t *testing.T) *shell {
	t.Helper()
	if !wanted() {
		t.Skip("runs whole projects for minutes: make test-cli, or NEWSVC_TEST_CLI=1")
	}
	return &shell{t, append(os.Environ(),
		"PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"XDG_CACHE_HOME="+t.TempDir(), "GOCACHE="+goEnv(t, "GOCACHE"), "GOLANGCI_LINT_CACHE="+filepath.Join(bin, "lint-cache"),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_CONFIG_GLOBAL="+os.DevNull,
	)}
}

func goEnv(t *testing.T, key string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (s *shell) command(dir, name string, args ...string) *exec.Cmd {
	// Looked up in our PATH, not in that of the test.
	if own := filepath.Join(bin, name); exists(own) {
		name = own
	}
	cmd := exec.CommandContext(s.t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clone(s.env), "PWD="+dir)
	return cmd
}

// try returns stdout, and the error with everything the command printed.
func (s *shell) try(dir, name string, args ...string) (string, error) {
	cmd := s.command(dir, name, args...)
	var out, both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &tee{&out, &both}, &both
	began := time.Now()
	err := cmd.Run()
	s.t.Logf("%s: %.1f s", strings.Join(append([]string{name}, args...), " "), time.Since(began).Seconds())
	if err != nil {
		err = errors.Join(err, errors.New(both.String()))
	}
	return out.String(), err
}

// run ends the test when the command fails.
func (s *shell) run(dir, name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(dir, name, args...)
	if err != nil {
		s.t.Fatalf("in %s: %s: %v", dir, strings.Join(append([]string{name}, args...), " "), err)
	}
	return out
}

type tee struct{ a, b *bytes.Buffer }

func (t *tee) Write(p []byte) (int, error) {
	t.a.Write(p)
	return t.b.Write(p)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkout makes a copy of what an example needs of the framework's repository, which can be written to.
func checkout(t *testing.T, dir string) {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", ".golangci.yml", "buf.yaml", "buf.gen.yaml", ".gitignore"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(text))
	}
	for _, name := range []string{"framework", "proto/newsvc", "third_party", "tools"} {
		mkdir(t, filepath.Dir(filepath.Join(dir, name)))
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, name, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(name))
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dev is a running newsvc dev.
type dev struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes what the process prints.
func (d *dev) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *dev) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// startDev runs newsvc dev in dir beside an etcd and returns when the record names an instance of the service.
func (s *shell) startDev(dir, service string, args ...string) *dev {
	s.t.Helper()
	return s.startDevBy(dir, dir, service, "newsvc", append([]string{"dev"}, args...)...)
}

// startDevBy runs newsvc dev by another command, for the project in root.
func (s *shell) startDevBy(dir, root, service, name string, args ...string) *dev {
	s.t.Helper()
	d := &dev{cmd: s.command(dir, name, args...), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d, d
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(os.Interrupt) }
	d.cmd.WaitDelay = time.Minute
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.err = d.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err == nil {
			<-d.done
		}
	})
	d.await(s.t, "newsvc dev to serve "+service, func() bool { return instances(filepath.Join(root, ".newsvc", "dev.json"), service) > 0 })
	return d
}

// waitFor returns when the process has printed text.
func (d *dev) waitFor(t *testing.T, text string) {
	t.Helper()
	d.await(t, "a line with "+text, func() bool { return strings.Contains(d.output(), text) })
}

func (d *dev) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-d.done:
			t.Fatalf("waiting for %s: newsvc dev ended: %v\n%s", what, d.err, d.output())
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s:\n%s", what, d.output())
		case <-tick.C:
		}
	}
}

// instances reads how many instances of a service the record of newsvc dev names.
func instances(file, service string) int {
	var record struct {
		Services map[string]struct{ Instances []any }
	}
	text, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(text, &record) != nil {
		return 0
	}
	return len(record.Services[service].Instances)
}

// interrupt is Ctrl-C. It returns how the process ended.
func (d *dev) interrupt(t *testing.T) error {
	t.Helper()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	select {
	case <-d.done:
	case <-ctx.Done():
		t.Fatalf("newsvc dev does not stop:\n%s", d.output())
	}
	return d.err
}

// etcd starts one for the test, and returns its address and a way to ask for the keys of a service.
func etcd(t *testing.T) (addr string, keys func(service string) []string) {
	t.Helper()
	srv, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("stop etcd: %v", err)
		}
	})
	return srv.Endpoints()[0], func(service string) []string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := srv.Client().Get(ctx, "/newsvc/default/"+service+"/", withPrefix())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, kv := range got.Kvs {
			all = append(all, string(kv.Key))
		}
		return all
	}
}

// race is the flag of the race detector where there is one.
func race(t *testing.T) []string {
	t.Helper()
	if goEnv(t, "CGO_ENABLED") != "1" || runtime.GOOS == "windows" {
		t.Log("no C compiler: the race detector is off")
		return nil
	}
	return []string{"-race"}
}
