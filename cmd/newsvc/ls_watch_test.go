//go:build unix

package main_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// watching is a newsvc ls -w that runs.
type watching struct {
	*testing.T
	cmd            *exec.Cmd
	stdout, stderr *bufio.Reader
}

func watch(t *testing.T, args ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &watching{T: t, cmd: exec.CommandContext(ctx, filepath.Join(bin, "newsvc"), append([]string{"ls", "-w"}, args...)...)}
	w.cmd.Dir = t.TempDir()
	w.cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir(), "NEWSVC_ETCD=")
	for _, p := range []struct {
		to   **bufio.Reader
		pipe func() (io.ReadCloser, error)
	}{{&w.stdout, w.cmd.StdoutPipe}, {&w.stderr, w.cmd.StderrPipe}} {
		r, err := p.pipe()
		if err != nil {
			t.Fatal(err)
		}
		*p.to = bufio.NewReader(r)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

// reads fails the test unless the next line is like that.
func (w *watching) reads(from *bufio.Reader, begins, holds string) {
	w.Helper()
	line, err := from.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, begins) || !strings.Contains(line, holds) {
		w.Fatalf("it says %q (%v), want %q and %q", line, err, begins, holds)
	}
}

// interrupted ends it as Ctrl-C does.
func (w *watching) interrupted() {
	w.Helper()
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		w.Fatal(err)
	}
	_ = w.cmd.Wait() // the code is what counts
	if got := w.cmd.ProcessState.ExitCode(); got != 130 {
		w.Errorf("it ended with exit code %d, want 130", got)
	}
}

// free is an address where nobody listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestAWatchThatBeginsBeforeEtcdWaitsForIt(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"everything": nil, "one service": {"blogger-user"}} {
		addr := free(t)
		w := watch(t, append(args, "--etcd", addr)...)
		w.reads(w.stderr, "no answer from etcd "+addr, " yet; waiting for it - Ctrl-C to stop")
		etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true, ClientAddr: addr})
		if err != nil {
			t.Fatal(name, err)
		}
		w.reads(w.stderr, "watching etcd "+addr, "Ctrl-C to stop")
		if _, err := etcd.Client().Put(t.Context(), "/newsvc/default/blogger-user/10.0.0.9:80", "10.0.0.9:80"); err != nil {
			t.Fatal(name, err)
		}
		w.reads(w.stdout, "", " blogger-user - - 10.0.0.9:80 up")
		w.interrupted()
		if err := etcd.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAWatchThatWaitsForEtcdEnds(t *testing.T) {
	t.Parallel()
	addr := free(t)
	w := watch(t, "--etcd", addr)
	w.reads(w.stderr, "no answer from etcd "+addr, "waiting for it")
	w.interrupted()

	w = watch(t, "--etcd", addr, "--timeout", "1500ms") // somebody who does not want to wait for ever
	w.reads(w.stderr, "no answer from etcd "+addr, "waiting for it")
	w.reads(w.stderr, "newsvc: no answer from etcd at "+addr, "(--etcd)")
	_, _ = io.Copy(io.Discard, w.stderr) // Wait closes the pipe
	_ = w.cmd.Wait()                     // the code is what counts
	if got := w.cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("it ended with exit code %d, want 3", got)
	}
}
