//go:build unix

package devtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// bin is the directory of the newsvc that is tested.
var bin string

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(bin)
		os.Exit(code)
	}))
}

func build() (err error) {
	if bin, err = os.MkdirTemp("", "newsvc-devtest-"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./cmd/newsvc")
	cmd.Dir = "../../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build newsvc: %w\n%s", err, out), os.RemoveAll(bin))
	}
	return nil
}

func repo(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// user is somebody who runs newsvc dev: records of one user are nothing to another.
type user struct {
	t     *testing.T
	cache string
}

func newUser(t *testing.T) *user {
	t.Helper()
	return &user{t, t.TempDir()}
}

// place is a directory in which newsvc dev is run.
type place struct {
	*user
	root string
}

func (u *user) place() *place {
	u.t.Helper()
	root, err := filepath.EvalSymlinks(u.t.TempDir()) // what the process itself will say its directory is
	if err != nil {
		u.t.Fatal(err)
	}
	return &place{u, root}
}

func (p *place) path(name string) string { return filepath.Join(p.root, filepath.FromSlash(name)) }

func (p *place) write(name, text string) {
	p.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(p.path(name)), 0o755), os.WriteFile(p.path(name), []byte(text), 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

// change rewrites a file, as an editor does that saves.
func (p *place) change(name, old, text string) {
	p.t.Helper()
	raw, err := os.ReadFile(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		p.t.Fatalf("%s has no %q:\n%s", name, old, raw)
	}
	p.write(name, strings.Replace(string(raw), old, text, 1))
}

// plain is the main of a service that needs the standard library alone: it prints its version, is ready, and obeys SIGTERM.
const plain = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const version = "one"

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	path := os.Getenv("NEWSVC_READY_FILE")
	text := fmt.Sprintf("{\"service\":\"plain\",\"pid\":%d}", os.Getpid())
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		panic(err)
	}
	fmt.Println("version", version)
	<-stop
	fmt.Println("left", version)
}
`

// service adds a service that is made of main alone; dev is what its newsvc.yaml says below "dev:".
func (p *place) service(name, main string, dev ...string) {
	p.t.Helper()
	marker := "kind: service\nname: " + name + "\n"
	if len(dev) > 0 {
		marker += "dev:\n  " + strings.Join(dev, "\n  ") + "\n"
	}
	p.write(name+"/newsvc.yaml", marker)
	p.write(name+"/go.mod", "module example.test/"+name+"\n\ngo 1.26\n")
	p.write(name+"/main.go", main)
}

// running is a newsvc dev.
type running struct {
	*place
	cmd  *exec.Cmd
	out  lines
	err  lines
	done chan struct{}
}

// lines is what a process prints. It is safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Sync makes it a log's output.
func (l *lines) Sync() error { return nil }

// dev starts newsvc dev. It is stopped with the test, and nothing of it is left then.
func (p *place) dev(env []string, args ...string) *running {
	p.t.Helper()
	r := &running{place: p, done: make(chan struct{})}
	r.start(&r.out, env, args...)
	return r
}

// command is newsvc with the environment of this user.
func (p *place) command(ctx context.Context, args ...string) *exec.Cmd {
	p.t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "newsvc"), args...)
	cmd.Dir = p.root
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "NEWSVC_") && !strings.Contains(kv, "__") && !strings.HasPrefix(kv, "XDG_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cache, err := exec.CommandContext(p.t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "GOCACHE="+strings.TrimSpace(string(cache)), "XDG_CACHE_HOME="+p.cache)
	return cmd
}

// newsvc runs another command and returns what it prints; it has to succeed.
func (p *place) newsvc(ctx context.Context, args ...string) string {
	p.t.Helper()
	out, err := p.command(ctx, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("newsvc %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// start starts newsvc dev with its output going to stdout.
func (r *running) start(stdout io.Writer, env []string, args ...string) {
	p := r.place
	p.t.Helper()
	r.cmd = p.command(context.Background(), append([]string{"dev"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.WaitDelay = stdout, &r.err, 5*time.Second
	r.cmd.SysProcAttr = ownGroup()
	r.cmd.Env = append(r.cmd.Env, env...)
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait() // its state says all
	}()
	p.t.Cleanup(r.end)
}

// end makes sure that nothing is left, whatever the test has come to.
func (r *running) end() {
	select {
	case <-r.done:
	default:
		_ = r.cmd.Process.Signal(syscall.SIGINT)
		limit, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		select {
		case <-r.done:
		case <-limit.Done():
			r.t.Errorf("newsvc dev (pid %d) does not stop", r.cmd.Process.Pid)
			_ = r.cmd.Process.Signal(syscall.SIGINT) // kills all groups of its own
			_ = r.cmd.Process.Kill()
			<-r.done
		}
	}
	if r.t.Failed() {
		r.t.Logf("newsvc dev (pid %d) in %s ended with %d and had said:\n%s\n%s", r.cmd.Process.Pid, r.root, r.status(), r.out.String(), r.err.String())
	}
}

// status is the exit status, 128+n for a signal.
func (r *running) status() int {
	if ws, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return r.cmd.ProcessState.ExitCode()
}

func (r *running) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// wait waits for the end and returns the exit status.
func (r *running) wait(ctx context.Context) int {
	r.t.Helper()
	select {
	case <-r.done:
		return r.status()
	case <-ctx.Done():
		r.t.Fatalf("newsvc dev does not end: %v", context.Cause(ctx))
		return 0
	}
}

// says waits until newsvc dev, or a process of its, has printed the text.
func (r *running) says(ctx context.Context, text string) {
	r.t.Helper()
	r.saysSince(ctx, 0, text)
}

// saysSince waits for a text behind the first from bytes.
func (r *running) saysSince(ctx context.Context, from int, text string) {
	r.t.Helper()
	eventually(ctx, r.t, fmt.Sprintf("newsvc dev says %q", text), func() bool {
		ended := false // asked before its words are: they may be its last
		select {
		case <-r.done:
			ended = true
		default:
		}
		said := strings.Contains(r.out.String()[from:], text)
		if ended && !said {
			r.t.Fatalf("newsvc dev ended with %d while it was to say %q", r.status(), text)
		}
		return said
	})
}

// record waits for .newsvc/dev.json to be as it should.
func (r *running) record(ctx context.Context, good func(devrecord.Record) bool) devrecord.Record {
	r.t.Helper()
	var rec devrecord.Record
	eventually(ctx, r.t, "dev.json is as it should be", func() bool {
		select {
		case <-r.done:
			r.t.Fatalf("newsvc dev ended with %d before its record was as it should be", r.status())
		default:
		}
		raw, err := os.ReadFile(devrecord.Path(r.root))
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		rec = devrecord.Record{}
		if err := errors.Join(err, json.Unmarshal(raw, &rec)); err != nil {
			r.t.Fatal(err)
		}
		return rec.PID == r.cmd.Process.Pid && good(rec)
	})
	return rec
}

// complete is the record once everything serves.
func (r *running) complete(ctx context.Context) devrecord.Record {
	r.t.Helper()
	return r.record(ctx, func(rec devrecord.Record) bool { return rec.Complete })
}

// pids are the processes of a service.
func pids(rec devrecord.Record, service string) []int {
	var all []int
	for _, i := range rec.Services[service].Instances {
		all = append(all, i.PID)
	}
	return all
}

// eventually asks again, every few milliseconds, until done says true.
func eventually(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not come about that %s: %v", what, context.Cause(ctx))
		}
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// listen takes an address as soon as it is free.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(within(t, 10*time.Second), t, addr+" is free", func() bool {
		var lc net.ListenConfig
		var err error
		l, err = lc.Listen(t.Context(), "tcp", addr)
		return err == nil
	})
	return l
}
