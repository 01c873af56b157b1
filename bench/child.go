package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/bench/internal/process"
)

// Kinds of child processes.
const (
	kindServer      = "server"
	kindClient      = "client"
	kindPropagation = "propagation"
)

// Commands. Counting is one of its own, since it allocates more than a slice of a second may hide.
const (
	opUsage   = "usage"
	opCount   = "count"
	opLoad    = "load"
	opCheck   = "check"
	opSamples = "samples"
)

// role is what a child process is told when it starts.
type role struct {
	Kind  string   `json:"kind"`
	Arm   string   `json:"arm,omitempty"`
	Etcd  string   `json:"etcd,omitempty"`
	Addrs []string `json:"addrs,omitempty"`
	// NoHealth switches the client's health checks off.
	NoHealth bool `json:"no_health,omitempty"`
	// Profile is a directory for profiles of CPU and allocations; empty for none.
	Profile string `json:"profile,omitempty"`
}

// hello is the first thing that a child says.
type hello struct {
	Addr string `json:"addr"`
}

// command is asked of a child, one at a time.
type command struct {
	Op      string        `json:"op"`
	For     time.Duration `json:"for,omitempty"`
	Callers int           `json:"callers,omitempty"`
	Arm     string        `json:"arm,omitempty"`
	Samples int           `json:"samples,omitempty"`
}

// answer is what a child says to a command; which fields are set depends on the command.
type answer struct {
	// usage: since the start of the process
	CPU     time.Duration `json:"cpu,omitempty"`
	Mallocs uint64        `json:"mallocs,omitempty"`
	// count: calls, by the metrics of the chain
	Counted uint64 `json:"counted,omitempty"`

	// load
	Calls    uint64        `json:"calls,omitempty"`
	Failed   uint64        `json:"failed,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	P50      time.Duration `json:"p50,omitempty"`
	P99      time.Duration `json:"p99,omitempty"`
	FirstErr string        `json:"first_err,omitempty"`

	// samples
	Joins  []time.Duration `json:"joins,omitempty"`
	Leaves []time.Duration `json:"leaves,omitempty"`
}

// handler is a role that runs: it answers commands until it is closed.
type handler interface {
	handle(ctx context.Context, c command) (answer, error)
	close() error
}

// child is a child process, seen from the parent.
type child struct {
	*process.Process
	hello hello
}

// spawn starts this program again in a role and waits until it is ready.
func spawn(ctx context.Context, r role) (*child, error) {
	c := &child{}
	var err error
	if c.Process, err = process.Self(ctx, &c.hello, r); err != nil {
		return nil, fmt.Errorf("start %s %s: %w", r.Arm, r.Kind, err)
	}
	return c, nil
}

// spawnEtcd builds the registry into dir and starts it.
func spawnEtcd(ctx context.Context, dir string) (*child, error) {
	program := filepath.Join(dir, "etcd")
	if err := process.Build(ctx, program, "github.com/newsvc/newsvc/bench/etcd"); err != nil {
		return nil, err
	}
	c := &child{}
	var err error
	if c.Process, err = process.Start(ctx, &c.hello, program); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return c, nil
}

// ask sends a command and waits for its answer.
func (c *child) ask(cmd command) (a answer, err error) {
	err = c.Ask(cmd, &a)
	return a, err
}

// runChild is the life of a child process.
func runChild(ctx context.Context, text string, out, stderr io.Writer) int {
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = serveRole(ctx, r, os.Stdin, out)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %s %s: %v\n", r.Arm, r.Kind, err)
		return 1
	}
	return 0
}

func serveRole(ctx context.Context, r role, in io.Reader, out io.Writer) (err error) {
	h, addr, err := startRole(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, h.close()) }()
	if r.Profile != "" {
		stop, err := profile(fmt.Sprintf("%s/%s-%s-%d", r.Profile, r.Arm, r.Kind, os.Getpid()))
		if err != nil {
			return err
		}
		defer stop()
	}
	return process.Serve(in, out, hello{Addr: addr}, func(c command) (answer, error) { return h.handle(ctx, c) })
}

func startRole(ctx context.Context, r role) (handler, string, error) {
	switch r.Kind {
	case kindServer:
		return startServer(ctx, r)
	case kindClient:
		return startClient(ctx, r)
	case kindPropagation:
		return startPropagation(ctx, r)
	}
	return nil, "", fmt.Errorf("no such role: %q", r.Kind)
}

// usage is what this process has used since it started.
func usage() (answer, error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return answer{}, err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	cpu := time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	return answer{CPU: cpu, Mallocs: mem.Mallocs}, nil
}

// profile writes name.cpu and name.allocs when the returned function is called.
func profile(name string) (stop func(), err error) {
	cpu, err := os.Create(name + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = cpu.Close()
		if allocs, err := os.Create(name + ".allocs"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(allocs, 0)
			_ = allocs.Close()
		}
	}, nil
}
