package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/newsvc/newsvc/bench/internal/process"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// settle is how long a client may go on working after it knows a change, for example to connect.
const settle = 100 * time.Millisecond

// size measures one size of the service and prints its tables.
func (s *settings) size(ctx context.Context, w *world, server *process.Process) (err error) {
	leave, err := w.populate(ctx, min(s.real, w.size))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(), w.empty(ctx)) }()
	arms := []string{armNaming, armAll, armNewsvc}
	stubs, reals := samples{}, samples{}
	for round := range s.rounds {
		for i := range arms {
			arm := arms[(round+i)%len(arms)]
			if err := s.measure(ctx, w, arm, nil, stubs); err != nil {
				return fmt.Errorf("%s: %w", arm, err)
			}
			if arm == armAll || arm == armNaming && w.size > s.naming {
				continue
			}
			if err := s.measure(ctx, w, arm, server, reals); err != nil {
				return fmt.Errorf("%s on real connections: %w", arm, err)
			}
		}
	}
	s.report(w, arms, stubs, reals)
	return nil
}

// populate fills the world; of newsvc's instances some are real registrations, which the returned function ends.
func (w *world) populate(ctx context.Context, registrations int) (leave func() error, err error) {
	if err := w.fill(ctx, w.size); err != nil {
		return nil, err
	}
	config := etcdclient.DefaultConfig()
	config.Endpoints = []string{w.reg.addr}
	cli, err := etcdclient.New(config, nil)
	if err != nil {
		return nil, err
	}
	r, err := etcd.NewRegistrar(cli, etcd.Options{})
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	leave = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		defer cancel()
		return errors.Join(r.Close(ctx), cli.Close())
	}
	for n := range registrations {
		reg, err := r.Register(ctx, discovery.Instance{Service: w.service, Addr: w.addr(n)})
		if err == nil {
			err = discovery.WaitUp(ctx, reg)
		}
		if err != nil {
			return nil, errors.Join(err, leave())
		}
	}
	return leave, nil
}

// measure makes one round of one arm, on real connections when there is a server.
func (s *settings) measure(ctx context.Context, w *world, arm string, server *process.Process, into samples) error {
	r := role{Kind: kindClient, Arm: arm, Etcd: w.reg.addr, Service: w.service, Size: w.size, Real: server != nil, Profile: s.profile}
	single := r
	if arm == armAll {
		single.MinGap = 1 // each change is told, as the other arm does
	}
	if err := s.oneByOne(ctx, w, single, server, into.of(arm)); err != nil {
		return err
	}
	if s.storm == 0 {
		return nil
	}
	return s.inStorm(ctx, w, r, server, into.of(arm))
}

// oneByOne starts a client, lets instances join, each when the one before is known, and then leave.
func (s *settings) oneByOne(ctx context.Context, w *world, r role, server *process.Process, into map[string][]float64) (err error) {
	c, err := startSubject(ctx, w, r, server, into)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	fresh := w.fresh(s.changes)
	known := w.size
	for _, phase := range []struct {
		name   string
		change func(context.Context, string, string) error
		more   int
	}{{"join", w.join, 1}, {"leave", w.leave, -1}} {
		var took time.Duration
		err := c.during(ctx, into, phase.name, len(fresh), func() error {
			defer func(begin time.Time) { took = time.Since(begin) }(time.Now())
			for _, addr := range fresh {
				if err := phase.change(ctx, r.Arm, addr); err != nil {
					return err
				}
				known += phase.more
				if _, err := c.expect(known); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		name := "ms per " + phase.name
		into[name] = append(into[name], millis(took)/float64(len(fresh)))
	}
	return nil
}

// inStorm starts a client and makes many changes at once.
func (s *settings) inStorm(ctx context.Context, w *world, r role, server *process.Process, into map[string][]float64) (err error) {
	c, err := startSubject(ctx, w, r, server, nil)
	if err != nil {
		return err
	}
	var stayed []string
	defer func() {
		err = errors.Join(err, c.end())
		for _, addr := range stayed {
			err = errors.Join(err, w.leave(ctx, r.Arm, addr))
		}
	}()
	return c.during(ctx, into, "storm", s.storm, func() error {
		if stayed, err = w.storm(ctx, r.Arm, s.storm); err != nil {
			return err
		}
		_, err = c.expect(w.size + len(stayed))
		return err
	})
}

// running is a client that knows all instances.
type running struct {
	*process.Process
	w      *world
	server *process.Process // nil: stub
}

// startSubject starts a client and waits until it knows all instances and is connected to those it uses. What that took
// goes into the samples unless those are nil.
func startSubject(ctx context.Context, w *world, r role, server *process.Process, into map[string][]float64) (*running, error) {
	before, err := w.reg.read(ctx)
	if err != nil {
		return nil, err
	}
	var h hello
	p, err := process.Self(ctx, &h, r)
	if err != nil {
		return nil, err
	}
	c := &running{Process: p, w: w, server: server}
	cpu := h.CPU
	if server != nil {
		connections := w.size
		if r.Arm == armNewsvc {
			connections = min(connections, subset)
		}
		if err := awaitConnections(ctx, server, connections); err != nil {
			return nil, errors.Join(err, p.End())
		}
		u, err := c.expect(0)
		if err != nil {
			return nil, errors.Join(err, p.End())
		}
		cpu = u.CPU
	}
	after, err := w.reg.read(ctx)
	if err != nil {
		return nil, errors.Join(err, p.End())
	}
	d := after.minus(before)
	if into != nil {
		for name, v := range map[string]float64{
			"known": millis(h.Took), "CPU": millis(cpu), "alloc": mega(h.Alloc), "live": mega(h.Live), "RSS": mega(h.RSS),
			"reads": float64(d.reads), "streams": float64(d.watchStreams),
		} {
			into[name] = append(into[name], v)
		}
	}
	return c, nil
}

// expect waits until the client knows n instances, unless n is 0, and returns its usage.
func (c *running) expect(n int) (usage, error) {
	var a answer
	err := c.Ask(command{Expect: n}, &a)
	return a.usage, err
}

// during adds what the client uses for each of some changes.
func (c *running) during(ctx context.Context, into map[string][]float64, phase string, changes int, do func() error) error {
	if err := process.Wait(ctx, settle); err != nil {
		return err
	}
	before, err := c.expect(0)
	if err != nil {
		return err
	}
	reads, err := c.w.reg.read(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(do(), process.Wait(ctx, settle)); err != nil {
		return err
	}
	after, err := c.expect(0)
	if err != nil {
		return err
	}
	now, err := c.w.reg.read(ctx)
	if err != nil {
		return err
	}
	add := func(what string, v float64) { into[phase+" "+what] = append(into[phase+" "+what], v) }
	add("CPU", millis(after.CPU-before.CPU)/float64(changes))
	add("updates", float64(after.Updates-before.Updates))
	add("reads", float64(now.reads-reads.reads))
	if c.server != nil {
		var a answer
		if err := c.server.Ask(command{}, &a); err != nil {
			return err
		}
		add("connections", float64(a.Open))
	}
	return nil
}

// end ends the client and waits until its connections have ended.
func (c *running) end() error {
	err := c.End()
	if c.server != nil {
		err = errors.Join(err, awaitConnections(context.Background(), c.server, 0))
	}
	return err
}

// subset is grpcresolver's default.
const subset = 100

// awaitConnections waits until the server has n connections.
func awaitConnections(ctx context.Context, server *process.Process, n int) error {
	for limit := time.Now().Add(budget); ; {
		var a answer
		if err := server.Ask(command{}, &a); err != nil || a.Open == int64(n) {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the server has %d connections after %v, not %d", a.Open, budget, n)
		}
		if err := process.Wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// watches measures what many connections of one process to one callee cost etcd.
func (s *settings) watches(ctx context.Context, w *world, server *process.Process) (err error) {
	if err := w.fill(ctx, 1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.empty(ctx)) }()
	fmt.Fprintf(s.out, "\n%d connections of one process to one callee\n", s.conns)
	t := s.table("arm", "watches at etcd", "streams", "reads", "ms until all are told", "CPU ms", "RSS MB")
	for _, arm := range []string{armNaming, armNewsvc} {
		before, err := w.reg.read(ctx)
		if err != nil {
			return err
		}
		var h hello
		p, err := process.Self(ctx, &h, role{Kind: kindClient, Arm: arm, Etcd: w.reg.addr, Service: w.service, Real: true, Conns: s.conns, Size: s.conns})
		if err != nil {
			return err
		}
		err = awaitConnections(ctx, server, s.conns)
		now, rerr := w.reg.read(ctx)
		c := &running{Process: p, server: server}
		if err := errors.Join(err, rerr, c.end()); err != nil {
			return err
		}
		d := now.minus(before)
		t.row(arm, d.watchers, d.watchStreams, d.reads, millis(h.Took), millis(h.CPU), mega(h.RSS))
		s.machine(fmt.Sprintf("%s_watches_for_%d_conns", arm, s.conns), float64(d.watchers))
	}
	t.flush()
	return nil
}
