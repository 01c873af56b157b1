package faulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Process is a process that a [Lab] started. It is addressed by its id alone and ends with the lab at the latest. Its
// methods may be called from any goroutine.
type Process struct {
	name string
	cmd  *exec.Cmd
	wire *wire
	log  *tail

	waiter *loop.Loop // its Done is closed when the process has ended and all it printed was read
	ended  time.Time  // these two are set by then
	status int
}

// spawn starts the lab's binary in a role and waits for its first word, which is decoded into hello unless that is nil.
func (lab *Lab) spawn(ctx context.Context, name string, r role, hello any) (*Process, error) {
	p, first, err := lab.launch(name, r)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := p.await(ctx, first, hello); err != nil {
		_ = p.Kill(context.WithoutCancel(ctx)) // what is told is why it did not start
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (lab *Lab) launch(name string, r role) (*Process, <-chan answer, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.closed {
		return nil, nil, errors.New("the lab is closed")
	}
	p := &Process{name: name, cmd: exec.CommandContext(lab.ctx, lab.binary), log: newTail(name, lab.log)}
	p.cmd.Dir = lab.dir
	p.cmd.Env = append(subjectEnviron(), roleEnv+"="+string(text))
	p.cmd.SysProcAttr = dieWithParent()
	p.cmd.WaitDelay = 5 * time.Second // for what a child of the child might hold open
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	var first <-chan answer
	p.wire, first = newWire(in)
	p.cmd.Stdout, p.cmd.Stderr = p.wire, p.log
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	p.waiter = loop.Start(lab.ctx, func(context.Context) {
		_ = p.cmd.Wait() // its state says all
		p.ended = time.Now()
		p.status = p.cmd.ProcessState.ExitCode()
		if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			p.status = 128 + int(ws.Signal())
		}
	})
	lab.processes[p] = struct{}{}
	return p, first, nil
}

// subjectEnviron is the environment without settings of services, which would be settings of subjects too, and
// without proxies.
func subjectEnviron() []string {
	var env []string
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(key, "NEWSVC_") && !strings.Contains(key, "__") && !strings.HasSuffix(strings.ToLower(key), "_proxy") {
			env = append(env, kv)
		}
	}
	return env
}

// ask puts a question to the process and decodes the answer into out unless that is nil. A process that is frozen does
// not answer: ctx bounds the wait.
func (p *Process) ask(ctx context.Context, op string, in, out any) error {
	answers, forget, err := p.wire.ask(op, in)
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w%s", p.name, op, err, p.lastWords())
	}
	defer forget()
	if err := p.await(ctx, answers, out); err != nil {
		return fmt.Errorf("ask %s for %s: %w", p.name, op, err)
	}
	return nil
}

func (p *Process) await(ctx context.Context, answers <-chan answer, out any) error {
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w%s", context.Cause(ctx), p.lastWords())
	case <-p.waiter.Done():
		select {
		case a = <-answers:
		default:
			return fmt.Errorf("the process ended with status %d%s", p.status, p.lastWords())
		}
	}
	if a.Error != "" {
		return fmt.Errorf("%s%s", a.Error, p.lastWords())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(a.Body, out)
}

// PID returns the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Name says what the process is, for texts.
func (p *Process) Name() string { return p.name }

// Signal sends sig. It fails when the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send signal %d to %s (pid %d): %w", int(sig), p.name, p.PID(), err)
	}
	return nil
}

// Freeze stops the process where it is: its connections stay, nothing answers, and it does not notice. When Freeze
// returns without an error, each of its threads stands still; ctx bounds the wait for that. With an error it goes on.
func (p *Process) Freeze(ctx context.Context) error {
	if err := freeze(p); err != nil {
		return err
	}
	if err := standsStill(ctx, p.PID()); err != nil { // a signal is sent long before each thread has seen it
		_ = thaw(p) // what is told is why it does not stop
		return err
	}
	return nil
}

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return thaw(p) }

// Kill ends the process by SIGKILL, without a chance to say goodbye, and waits until it is gone. A process that has
// ended already is no error.
func (p *Process) Kill(ctx context.Context) error {
	_ = p.cmd.Process.Kill() // an error says that it has ended already
	_, err := p.Wait(ctx)
	return err
}

// Wait waits until the process has ended and returns its exit status, 128+n when signal n killed it.
func (p *Process) Wait(ctx context.Context) (status int, err error) {
	if err := p.waiter.Join(ctx); err != nil {
		return 0, fmt.Errorf("%s (pid %d) does not end: %w%s", p.name, p.PID(), err, p.lastWords())
	}
	return p.status, nil
}

// Running tells whether the process has not ended; a frozen one has not.
func (p *Process) Running() bool {
	select {
	case <-p.waiter.Done():
		return false
	default:
		return true
	}
}

// Log returns the end of what the process wrote to its log.
func (p *Process) Log() string { return p.log.String() }

// lastWords is the end of the log as part of an error.
func (p *Process) lastWords() string {
	if text := p.log.lines(errorLines); text != "" {
		return "; it wrote last:\n" + text
	}
	return ""
}

// end makes sure that the process is gone.
func (p *Process) end(ctx context.Context) error {
	_ = p.Thaw() // where SIGKILL does not reach what is stopped; an error says that it has ended already
	return p.Kill(ctx)
}
