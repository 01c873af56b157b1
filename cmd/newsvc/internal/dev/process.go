package dev

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/framework/stack"
)

const (
	killAfter = 45 * time.Second // after SIGTERM; more than a service takes by default: 25 s to drain, 15 s to close
	readyPoll = 25 * time.Millisecond
	slowReady = 10 * time.Second // the wait for readiness after which that is told
	lastLines = 5                // what is kept of what a process has printed
	// panicStatus is the exit status of a Go program that panics.
	panicStatus = 2
	// longestLine is what is printed as one line at most; the rest follows as the next one.
	longestLine = 64 << 10
	groupDelay  = 10 * time.Second // for what a shell has started and left behind
)

// program is what is needed to start a process.
type program struct {
	label  string // what its lines begin with
	dir    string
	path   string
	args   []string
	env    []string
	ready  string  // its ready file; empty for what is ready at once
	socket *socket // the listening socket that it inherits, or nil
	// group has its whole process group told to stop: of a shell and what it runs, the latter has the work to finish.
	group    bool
	patience time.Duration // after it was told to stop, until it is killed; 0 means killAfter
}

// process is one process that was started, with all that it starts itself.
type process struct {
	program
	out   *output
	pid   int
	began time.Time

	stopping chan struct{} // closed when it was told to stop
	stopOnce sync.Once
	killed   atomic.Bool // it was told to stop, and did not

	up   chan struct{} // closed when it is ready
	info stack.Ready   // of a process that is up
	done chan struct{} // closed when it has ended and nothing is left of it
	err  error         // how it ended, once it has

	mu       sync.Mutex
	last     []string
	panicked string // the line that says why, before the stacks
}

// start starts a process, which is killed when force ends.
func start(force context.Context, p program, out *output) (*process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(force), p.path, p.args...) // ended by stop, gently at first
	cmd.Dir, cmd.Env, cmd.SysProcAttr = p.dir, p.env, ownGroup()
	logs, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = 2 * time.Second // a grandchild that holds the pipe open must not hold us
	if p.group {
		cmd.WaitDelay = groupDelay
	}
	if err := p.socket.lend(func(f *os.File) error {
		if f != nil {
			cmd.ExtraFiles = []*os.File{f}
			cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "NEWSVC_HTTP_FD=3") // the first one after stderr
		}
		return cmd.Start()
	}); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	s := &process{
		program: p, out: out, pid: cmd.Process.Pid, began: time.Now(),
		stopping: make(chan struct{}), up: make(chan struct{}), done: make(chan struct{}),
	}
	ended, end := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	helpers.Go(func() { s.copyLines(logs) })
	helpers.Go(func() { s.awaitEnd(ended, force) })
	helpers.Go(func() { s.awaitReady(ended) })
	go func() {
		defer close(s.done)
		s.err = cmd.Wait()
		end()
		_ = w.Close() // an io.PipeWriter's Close never fails
		killGroup(s.pid)
		helpers.Wait()
		if s.ready != "" {
			_ = os.Remove(s.ready) // it has done so itself, unless it was killed
		}
	}()
	return s, nil
}

// stop asks the process to finish its work and end; it does not wait.
func (s *process) stop() {
	s.stopOnce.Do(func() {
		close(s.stopping)
		if s.group {
			drainGroup(s.pid)
		} else {
			drain(s.pid)
		}
	})
}

// awaitEnd kills what does not stop, and everything when force ends.
func (s *process) awaitEnd(ended, force context.Context) {
	most := cmp.Or(s.patience, killAfter)
	select {
	case <-ended.Done():
		return
	case <-force.Done():
	case <-s.stopping:
		limit, cancel := context.WithTimeout(force, most)
		defer cancel()
		select {
		case <-ended.Done():
			return
		case <-limit.Done():
		}
		s.killed.Store(true)
		if force.Err() == nil {
			s.out.say(s.label, fmt.Sprintf("did not stop within %s; killing it", most))
		}
	}
	killGroup(s.pid)
}

// awaitReady waits for the ready file of this very process.
func (s *process) awaitReady(ended context.Context) {
	if s.ready == "" {
		close(s.up)
		return
	}
	for told := false; pause(ended, readyPoll); {
		if r, err := stack.ReadReady(s.ready); err == nil && r.PID == s.pid {
			s.info = r
			close(s.up)
			return
		}
		if !told && time.Since(s.began) > slowReady {
			told = true
			s.out.say(s.label, "runs, but is neither ready nor registered yet; its lines above may say why")
		}
	}
}

// isUp reports whether it became ready, and isDone whether it has ended.
func (s *process) isUp() bool   { return closed(s.up) }
func (s *process) isDone() bool { return closed(s.done) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cut reports whether a process that was told to stop has ended without finishing what it had begun. Who does not know the
// signal dies of it, and that is his way to end; shells, and what is written like them, say the same with a status.
func (s *process) cut() bool {
	var exit *exec.ExitError
	return s.isUp() && (s.killed.Load() || errors.As(s.err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() != 128+int(syscall.SIGTERM))
}

// copyLines prints the lines behind the label.
func (s *process) copyLines(r *io.PipeReader) {
	in := bufio.NewReaderSize(r, longestLine)
	for {
		raw, err := in.ReadSlice('\n')
		if line := printable(string(raw)); line != "" {
			s.out.line(s.label, line)
			s.mu.Lock()
			s.last = append(s.last[max(0, len(s.last)-lastLines+1):], line)
			if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
				s.panicked = line
			}
			s.mu.Unlock()
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// startError says that it ended before it was ready.
func (s *process) startError() *startError {
	last, panicked := s.lastLine()
	return &startError{time.Since(s.began), s.how(), last, s.err == nil, panicked}
}

// lastLine is the last thing that it printed; of a panic what it says, and not the end of its stack.
func (s *process) lastLine() (line string, panicked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if exit, ok := errors.AsType[*exec.ExitError](s.err); ok && exit.ExitCode() == panicStatus && s.panicked != "" {
		return s.panicked, true
	}
	if len(s.last) == 0 {
		return "it printed nothing", false
	}
	return s.last[len(s.last)-1], false
}

// how says how the process has ended.
func (s *process) how() string {
	if s.err == nil {
		return "exit status 0"
	}
	return s.err.Error()
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
