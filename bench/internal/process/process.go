// Package process runs the parts of a benchmark in processes of their own: what one of them uses is then measured apart
// from all others. Parent and child speak JSON lines over the child's standard input and output; the child ends with its
// input.
package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Process is a child, seen from its parent. It is used by one goroutine.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Build compiles a program of the benchmark; the working directory must be the benchmark's.
func Build(ctx context.Context, program, pkg string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s (run this in the directory bench): %w\n%s", pkg, err, out)
	}
	return nil
}

// Start runs a program and waits for the first thing that it says, which it reads into hello. The child ends with ctx.
func Start(ctx context.Context, hello any, program string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.CommandContext(ctx, program, args...)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := p.read(hello); err != nil {
		return nil, errors.Join(err, p.End())
	}
	return p, nil
}

// Self runs this program again with a role, which is handed over as JSON after the argument "child".
func Self(ctx context.Context, hello, role any) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(role)
	if err != nil {
		return nil, err
	}
	return Start(ctx, hello, self, Arg, string(text))
}

// Arg is the first argument of a program that was started by [Self].
const Arg = "child"

type reply struct {
	Error  string `json:",omitempty"`
	Answer json.RawMessage
}

// Ask sends a command and reads the answer.
func (p *Process) Ask(command, answer any) error {
	if err := json.NewEncoder(p.in).Encode(command); err != nil {
		return err
	}
	var r reply
	if err := p.read(&r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return json.Unmarshal(r.Answer, answer)
}

func (p *Process) read(into any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the process ended: %w", err)
	}
	return json.Unmarshal(line, into)
}

// End closes the child's input and waits for its end.
func (p *Process) End() error {
	_ = p.in.Close()
	return p.cmd.Wait()
}

// Kill ends the child at once, as a crash would, and waits for its end.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = p.cmd.Wait() // it says that it was killed
	return nil
}

// Serve is the child's side: it says hello and answers commands until its input ends.
func Serve[C, A any](in io.Reader, out io.Writer, hello any, handle func(C) (A, error)) error {
	say := json.NewEncoder(out)
	if err := say.Encode(hello); err != nil {
		return err
	}
	commands := json.NewDecoder(in)
	for {
		var c C
		if err := commands.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := handle(c)
		text, merr := json.Marshal(a)
		r := reply{Answer: text}
		if err := errors.Join(err, merr); err != nil {
			r.Error = err.Error()
		}
		if err := say.Encode(r); err != nil {
			return err
		}
	}
}

// Wait waits for d, or returns why ctx ended before.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
