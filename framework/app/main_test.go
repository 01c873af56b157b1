package app_test

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/newsvc/newsvc/framework/stack"
)

// TestMain is two programs: the tests, and, when a test starts this binary again with the name of a program, one that
// calls app.Run.
func TestMain(m *testing.M) {
	if name := os.Getenv("PROGRAM"); name != "" {
		programs()[name]() // does not return
	}
	goleak.VerifyTestMain(m)
}

// process is a running program.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  output
	err  output
	file string
	done chan struct{}
}

// output is what a process has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs a program that listens on free ports and whose etcd is not there, unless env says otherwise.
func start(t *testing.T, program string, env ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, file: filepath.Join(t.TempDir(), "ready.json"), done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	p.cmd = exec.CommandContext(ctx, exe)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{
		"PROGRAM=" + program, "NEWSVC_READY_FILE=" + p.file, "NEWSVC_DEV=1",
		"MY_SERVICE__SERVER__LISTEN=127.0.0.1:0", "MY_SERVICE__ADMIN__LISTEN=127.0.0.1:0", "MY_SERVICE__HTTP__LISTEN=127.0.0.1:0",
		"MY_SERVICE__ETCD__ENDPOINTS=" + closedPort(t), "MY_SERVICE__LOG__FORMAT=json",
		"MY_SERVICE__SERVER__DRAIN__MIN_WINDOW=0s", "PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + t.TempDir(),
	}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // exit looks at the state
	}()
	t.Cleanup(func() {
		cancel()
		<-p.done
		if t.Failed() {
			t.Logf("%s wrote\n%s%s", program, p.out.String(), p.err.String())
		}
	})
	return p
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until ok says so; the test fails when that takes longer than any machine needs.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.Done():
			t.Fatalf("never came: %s", what)
		}
	}
}

// wrote waits until the process has written text.
func (p *process) wrote(text string) {
	p.t.Helper()
	eventually(p.t, text, func() bool { return strings.Contains(p.err.String()+p.out.String(), text) })
}

func (p *process) ready() stack.Ready {
	p.t.Helper()
	var r stack.Ready
	eventually(p.t, "the ready file", func() bool {
		var err error
		r, err = stack.ReadReady(p.file)
		return err == nil
	})
	return r
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the status.
func (p *process) exit() int {
	p.t.Helper()
	eventually(p.t, "the end of the process", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if _, err := os.Stat(p.file); !errors.Is(err, os.ErrNotExist) {
		p.t.Errorf("the ready file is still there (%v)", err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) exits(want int) {
	p.t.Helper()
	if got := p.exit(); got != want {
		p.t.Errorf("exit status %d, want %d", got, want)
	}
}
