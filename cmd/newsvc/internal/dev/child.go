package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/framework/stack"
)

const (
	restartFirst = 500 * time.Millisecond // the wait before a child that died is started again, doubled each time
	restartMost  = 10 * time.Second
	steady       = 30 * time.Second // a child that lived so long starts over with the shortest wait
	killAfter    = 45 * time.Second // after SIGTERM; more than a service takes by default: 25 s to drain, 15 s to close
	readyPoll    = 50 * time.Millisecond
)

// child is one instance of a service: a slot that is filled by one process after the other.
type child struct {
	service service
	label   string // what its lines begin with
	binary  string
	ready   string // its ready file
	env     []string
	out     *output
	changed func() // called when the instance became ready or went away

	finished atomic.Bool // it exited with 0 and is not started again
}

// keep runs the child until ctx ends, and again whenever it dies; one that exits with 0 has finished. It returns when
// no process is left.
func (c *child) keep(ctx context.Context) error {
	wait := restartFirst
	for {
		began := time.Now()
		err := c.run(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		if err == nil {
			c.finished.Store(true)
			c.changed()
			c.out.say(c.label, "finished (exit status 0); it is not started again")
			return nil
		}
		if time.Since(began) >= steady {
			wait = restartFirst
		}
		c.out.say(c.label, fmt.Sprintf("died after %s (%v); starting again in %s", time.Since(began).Round(100*time.Millisecond), err, wait))
		if !pause(ctx, wait) {
			return nil
		}
		wait = min(2*wait, restartMost)
	}
}

// run runs one process to its end. When ctx ends it is told to drain, and killed with its whole group if it does not.
func (c *child) run(ctx context.Context) error {
	if err := os.Remove(c.ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.binary) // terminate ends it, gently at first
	cmd.Dir = c.service.dir
	cmd.Env = c.env
	cmd.SysProcAttr = ownGroup()
	logs, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = 2 * time.Second // a grandchild that holds the pipe open must not hold us
	if err := cmd.Start(); err != nil {
		return errors.Join(err, w.Close())
	}
	ended, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { c.copyLines(logs); return nil })
	g.Go(func() error { c.terminate(ctx, ended, cmd.Process.Pid); return nil })
	g.Go(func() error { c.awaitReady(ended, cmd.Process.Pid); return nil })
	err := cmd.Wait()
	cancel()
	_ = w.Close() // an io.PipeWriter's Close never fails
	killGroup(cmd.Process.Pid)
	_ = g.Wait() // none of them returns an error
	if rerr := os.Remove(c.ready); rerr == nil || errors.Is(rerr, fs.ErrNotExist) {
		c.changed()
	}
	return err
}

// terminate passes the end of ctx on to the process.
func (c *child) terminate(ctx, ended context.Context, pid int) {
	select {
	case <-ended.Done():
		return
	case <-ctx.Done():
	}
	drain(pid)
	if pause(ended, killAfter) {
		c.out.say(c.label, fmt.Sprintf("did not stop within %s; killing it", killAfter))
		killGroup(pid)
	}
}

// awaitReady waits for the ready file of this very process.
func (c *child) awaitReady(ended context.Context, pid int) {
	for warned := time.Now(); pause(ended, readyPoll); {
		if r, err := stack.ReadReady(c.ready); err == nil && r.PID == pid {
			c.changed()
			return
		}
		if time.Since(warned) > 10*time.Second {
			c.out.say(c.label, "runs, but is neither ready nor registered yet; its lines above may say why")
			warned = time.Now().Add(time.Minute)
		}
	}
}

// copyLines prints the child's lines behind its label.
func (c *child) copyLines(r *io.PipeReader) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			c.out.line(c.label, line)
		}
		if err != nil {
			return
		}
	}
}

// instance is what dev.json says of the child; false while it does not serve.
func (c *child) instance() (RecordInstance, bool) {
	r, err := stack.ReadReady(c.ready)
	if err != nil || !alive(r.PID) {
		return RecordInstance{}, false
	}
	return RecordInstance{PID: r.PID, GRPC: r.GRPC, Admin: r.Admin, HTTP: r.HTTP}, true
}

// environment is what a child finds: ours, what newsvc dev says, and settings unless the user made them already.
func environment(s service, etcd []string, prefix string) []string {
	env := append(os.Environ(), "NEWSVC_DEV=1")
	scope := strings.ToUpper(strings.ReplaceAll(s.name, "-", "_")) + "__"
	settings := [][2]string{
		{scope + "SERVER__LISTEN", "127.0.0.1:0"},
		{scope + "ADMIN__LISTEN", "127.0.0.1:0"},
		{scope + "ETCD__ENDPOINTS", strings.Join(etcd, ",")},
		{scope + "DISCOVERY__PREFIX", prefix},
	}
	if _, err := os.Stat(filepath.Join(s.dir, "config.dev.yaml")); err == nil {
		settings = append(settings, [2]string{"NEWSVC_ENV", "dev"})
	}
	for _, kv := range settings {
		if _, set := os.LookupEnv(kv[0]); !set {
			env = append(env, kv[0]+"="+kv[1])
		}
	}
	return env
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
