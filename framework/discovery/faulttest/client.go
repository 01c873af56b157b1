package faulttest

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// pollInterval is how often those who wait for something look.
const pollInterval = 20 * time.Millisecond

// ClientOptions say what client to start.
type ClientOptions struct {
	// Adapter is the name of the implementation, Caller that of the client, Service that of the service it calls.
	// Caller is "probe-caller" by default.
	Adapter, Caller, Service string
	// Etcd is the registry.
	Etcd Etcd
	// Hold and CacheDir are as in [DialConfig].
	Hold     time.Duration
	CacheDir string
	// Rate is the number of calls a second, 0 for none; Writes is the share of those that must not be repeated.
	Rate   int
	Writes float64
	// Deadline is that of each call. Default 2s.
	Deadline time.Duration
	// Work is how long handlers wait before they answer.
	Work time.Duration
	// Streams is how many streams are kept open; StreamInterval is the time between two messages of each. Default
	// 100ms.
	Streams        int
	StreamInterval time.Duration
}

// ClientProc is a process that calls. What it reports was measured there.
type ClientProc struct {
	*Process
	lab *Lab
	opt ClientOptions
}

// StartClient starts a client, which begins to call at once.
func (lab *Lab) StartClient(ctx context.Context, opt ClientOptions) (*ClientProc, error) {
	if opt.Caller == "" {
		opt.Caller = "probe-caller"
	}
	if opt.Deadline == 0 {
		opt.Deadline = 2 * time.Second
	}
	p, err := lab.spawn(ctx, lab.number(opt.Adapter+" client of "+opt.Service), role{Client: &clientRole{opt}}, nil)
	if err != nil {
		return nil, err
	}
	return &ClientProc{Process: p, lab: lab, opt: opt}, nil
}

// Options are those it was started with.
func (c *ClientProc) Options() ClientOptions { return c.opt }

// Mark begins a new phase and reports on the one that it ends.
func (c *ClientProc) Mark(ctx context.Context) (Report, error) {
	var r Report
	return r, c.ask(ctx, opMark, nil, &r)
}

// Report tells what the client has seen since the phase began.
func (c *ClientProc) Report(ctx context.Context) (Report, error) {
	var r Report
	return r, c.ask(ctx, opReport, nil, &r)
}

// Stats asks the process about itself.
func (c *ClientProc) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	return s, c.ask(ctx, opStats, nil, &s)
}

// Await asks for reports until one satisfies ok, and returns that one. When ctx ends first the error says what was
// waited for.
func (c *ClientProc) Await(ctx context.Context, what string, ok func(Report) bool) (Report, error) {
	for {
		r, err := c.Report(ctx)
		if err == nil && ok(r) {
			return r, nil
		}
		if err == nil {
			err = backoff.Sleep(ctx, pollInterval)
		}
		if err != nil {
			return r, fmt.Errorf("wait until %s sees %s: %w", c.Name(), what, err)
		}
	}
}

// answeredQuery names a server by its address, or by its process.
type answeredQuery struct {
	Addr string `json:"addr"`
	PID  int    `json:"pid"`
}

// AwaitServer waits until the server at addr has answered a call in this phase, and returns when that was.
func (c *ClientProc) AwaitServer(ctx context.Context, addr string) (time.Time, error) {
	return c.awaitAnswer(ctx, answeredQuery{Addr: addr})
}

// AwaitProcess waits until the process has answered a call in this phase, and returns when that was. A process is told
// from an earlier one on the same address.
func (c *ClientProc) AwaitProcess(ctx context.Context, s *ServerProc) (time.Time, error) {
	return c.awaitAnswer(ctx, answeredQuery{PID: s.PID()})
}

func (c *ClientProc) awaitAnswer(ctx context.Context, q answeredQuery) (time.Time, error) {
	for {
		a, err := c.answered(ctx, q)
		if err == nil && a.Count > 0 {
			return a.First, nil
		}
		if err == nil {
			err = backoff.Sleep(ctx, pollInterval)
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("wait until %s is answered by %+v: %w", c.Name(), q, err)
		}
	}
}

func (c *ClientProc) answered(ctx context.Context, q answeredQuery) (Answered, error) {
	var a Answered
	return a, c.ask(ctx, opAnswered, q, &a)
}

// AwaitSilence waits until the server at addr has not answered for as long as quiet, and returns when it answered last;
// zero if it did not in this phase.
func (c *ClientProc) AwaitSilence(ctx context.Context, addr string, quiet time.Duration) (time.Time, error) {
	began := time.Now()
	for {
		a, err := c.answered(ctx, answeredQuery{Addr: addr})
		if since := began; err == nil {
			if a.Last.After(since) {
				since = a.Last
			}
			if time.Since(since) >= quiet {
				return a.Last, nil
			}
			err = backoff.Sleep(ctx, pollInterval)
		}
		if err != nil {
			return a.Last, fmt.Errorf("wait until %s is not answered by %q any more: %w", c.Name(), addr, err)
		}
	}
}

// Stop ends the calls, waits for those under way, closes the connection and ends the process. The report is of the
// phase up to then.
func (c *ClientProc) Stop(ctx context.Context) (Report, error) {
	var r Report
	if err := c.ask(ctx, opStop, nil, &r); err != nil {
		return r, err
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return r, err
	}
	code, err := c.Wait(ctx)
	if err != nil {
		return r, err
	}
	c.lab.forget(c.Process)
	if code != 0 {
		return r, fmt.Errorf("%s ended with status %d%s", c.Name(), code, c.lastWords())
	}
	return r, nil
}

// clientRole is the client's process.
type clientRole struct {
	ClientOptions
}

func (r *clientRole) run(ctx context.Context, adapters []Adapter, l *line) error {
	a, err := adapterNamed(adapters, r.Adapter)
	if err != nil {
		return err
	}
	ld := newLoad(r.ClientOptions)
	ld.start(func(ctx context.Context) (Conn, error) {
		return a.Dial(ctx, DialConfig{Caller: r.Caller, Service: r.Service, Etcd: r.Etcd, Hold: r.Hold, CacheDir: r.CacheDir})
	})
	stopped := false
	stop := func() (took time.Duration, err error) {
		if !stopped {
			stopped = true
			took, err = ld.stop()
		}
		return took, err
	}
	if err = l.hello(nil); err == nil {
		err = l.serve(ctx, ld.handlers(stop).handle)
	}
	if _, serr := stop(); serr != nil {
		return fmt.Errorf("stop: %w", serr)
	}
	return err
}

// handlers answer what the lab asks of a client.
func (l *load) handlers(stop func() (time.Duration, error)) handlers {
	return handlers{
		opStats: func(context.Context, json.RawMessage) (any, error) {
			s := l.stalls.stats()
			s.InFlight = l.inFlight.Load()
			return s, nil
		},
		opMark: func(context.Context, json.RawMessage) (any, error) {
			return l.rec.mark(time.Now()), nil
		},
		opReport: func(context.Context, json.RawMessage) (any, error) {
			return l.rec.report(time.Now()), nil
		},
		opAnswered: func(_ context.Context, body json.RawMessage) (any, error) {
			var q answeredQuery
			if err := json.Unmarshal(body, &q); err != nil {
				return nil, err
			}
			return l.rec.answered(q.Addr, q.PID), nil
		},
		opStop: func(context.Context, json.RawMessage) (any, error) {
			took, err := stop()
			r := l.rec.report(time.Now())
			r.CloseTook = took
			return r, err
		},
	}
}
