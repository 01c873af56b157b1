package examples_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/stack"
)

// lines keeps what a process prints. It is safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Sync makes it a log's output.
func (l *lines) Sync() error { return nil }

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// tail is the end of what was printed.
func (l *lines) tail() string {
	all := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(all[max(0, len(all)-60):], "\n")
}

// process is one process that a test started, and ends with it.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    lines // stdout
	err    lines // stderr
	ready  string
	ended  chan struct{}
	at     time.Time // when it ended
	status int       // how, 128+n for a signal n
}

// command says what to launch.
type command struct {
	binary string
	args   []string
	dir    string // empty: a new one
	env    []string
	stdin  *os.File
}

// launch starts a process. When the test failed, its last lines are shown.
func launch(t *testing.T, c command) *process {
	t.Helper()
	if c.dir == "" {
		c.dir = t.TempDir()
	}
	p := &process{t: t, ended: make(chan struct{}), ready: filepath.Join(t.TempDir(), "ready.json")}
	p.cmd = exec.CommandContext(context.Background(), c.binary, c.args...)
	p.cmd.Dir, p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.dir, c.stdin, &p.out, &p.err
	p.cmd.Env = append(append(cleanEnvironment(), "NEWSVC_READY_FILE="+p.ready), c.env...)
	p.cmd.SysProcAttr = dieWithTest()
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state says all
		p.at = time.Now()
		p.status = p.cmd.ProcessState.ExitCode()
		if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			p.status = 128 + int(ws.Signal())
		}
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // an error says that it has ended already
		<-p.ended
		if t.Failed() {
			t.Logf("%s (pid %d), exit status %d, ended with:\n%s\n%s", filepath.Base(c.binary), p.pid(), p.status, p.out.tail(), p.err.tail())
		}
	})
	return p
}

// cleanEnvironment is ours without what is said to services and to this test.
func cleanEnvironment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "NEWSVC_") && !strings.Contains(kv, "__") {
			env = append(env, kv)
		}
	}
	return env
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// signal sends sig and answers when.
func (p *process) signal(sig syscall.Signal) time.Time {
	p.t.Helper()
	at := time.Now()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("send %v to %d: %v", sig, p.pid(), err)
	}
	return at
}

// wait answers the exit status, 128+n for a process that died of signal n.
func (p *process) wait(ctx context.Context) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.status
	case <-ctx.Done():
		p.t.Fatalf("process %d does not end: %v", p.pid(), context.Cause(ctx))
		return 0
	}
}

// running reports whether it has not ended.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// awaitReady waits until it serves and is registered.
func (p *process) awaitReady(ctx context.Context) stack.Ready {
	p.t.Helper()
	var r stack.Ready
	eventually(ctx, p.t, text("process %d is not ready", p.pid()), func() bool {
		if !p.running() {
			p.t.Fatalf("process %d ended with status %d before it was ready", p.pid(), p.status)
		}
		var err error
		r, err = stack.ReadReady(p.ready)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.t.Fatal(err)
		}
		return err == nil
	})
	return r
}

// alive reports whether a process with that id exists.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
