package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/bench/internal/process"
	"github.com/newsvc/newsvc/bench/internal/stats"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

const (
	renewalLook = 20 * time.Millisecond
	watchAfter  = 45 * time.Second // longer than the time between two looks of a registration at its own key
)

// herd is many registrations over some clients, all in this process.
type herd struct {
	clients    []*clientv3.Client
	registrars []*etcd.Registrar
	regs       []discovery.Registration
}

// restarted kills etcd under many registrations, starts it again on its data, and counts what they then ask of it. No
// lease ran out meanwhile, so nothing has to be written.
func (s *settings) restarted(ctx context.Context, w *world) (err error) {
	h := &herd{}
	defer func() { err = errors.Join(err, h.close()) }()
	begin := time.Now()
	if err := h.register(ctx, w, s.restart, s.clients); err != nil {
		return err
	}
	up := time.Since(begin)
	if err := process.Wait(ctx, 3*time.Second); err != nil {
		return err
	}
	before, err := w.reg.read(ctx)
	if err != nil {
		return err
	}
	announced := h.announced()
	if err := w.reg.proc.Kill(); err != nil {
		return err
	}
	if err := process.Wait(ctx, s.down); err != nil {
		return err
	}
	if err := w.reg.start(ctx); err != nil {
		return err
	}
	back := time.Now()
	renewed, err := h.renewals(ctx, back)
	if err != nil {
		return err
	}
	soon, err := w.reg.read(ctx)
	if err != nil {
		return err
	}
	if err := process.Wait(ctx, watchAfter-time.Since(back)); err != nil {
		return err
	}
	now, err := w.reg.read(ctx)
	if err != nil {
		return err
	}
	again, down := h.announced()-announced, h.down()
	fmt.Fprintf(s.out, "\n%d registrations over %d clients (all announced after %.1f s); etcd killed, and back on its data after %v\n", s.restart, s.clients, up.Seconds(), s.down)
	t := s.table("requests since etcd is back", "writes", "leases granted", "reads", "lookups of leases", "renewals", "watch requests", "watches", "revision")
	row := func(when string, c counters) {
		t.row(when, c.writes, c.grants, c.reads, c.lookups, c.renewals, c.watchRequests, c.watchers, fmt.Sprintf("%+d", now.revision-before.revision))
	}
	row(fmt.Sprintf("when all were renewed (%.1f s)", slices.Max(renewed)/1000), soon)
	row(fmt.Sprintf("after %v", watchAfter), now)
	t.flush()
	fmt.Fprintf(s.out, "first renewal after etcd is back: p50 %.0f ms, p99 %.0f ms, last %.0f ms; announced again: %d; not up: %d\n",
		stats.Quantile(renewed, 0.5), stats.Quantile(renewed, 0.99), slices.Max(renewed), again, down)
	s.machine("restart_writes", float64(now.writes+now.grants))
	s.machine("restart_renewal_p99_ms", stats.Quantile(renewed, 0.99))
	if now.revision != before.revision || again+down > 0 {
		return fmt.Errorf("the revision was %d and is %d; %d registrations were announced again, %d are not up", before.revision, now.revision, again, down)
	}
	return nil
}

// register makes the registrations and waits until all are announced.
func (h *herd) register(ctx context.Context, w *world, n, clients int) error {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	config := etcdclient.DefaultConfig()
	config.Endpoints = []string{w.reg.addr}
	for range clients {
		cli, err := etcdclient.New(config, nil)
		if err != nil {
			return err
		}
		h.clients = append(h.clients, cli)
		r, err := etcd.NewRegistrar(cli, etcd.Options{})
		if err != nil {
			return err
		}
		h.registrars = append(h.registrars, r)
	}
	for i := range n {
		reg, err := h.registrars[i%clients].Register(ctx, discovery.Instance{Service: w.service, Addr: w.addr(i)})
		if err != nil {
			return err
		}
		h.regs = append(h.regs, reg)
	}
	for _, reg := range h.regs {
		if err := discovery.WaitUp(ctx, reg); err != nil {
			return fmt.Errorf("%w\n%s", err, h.missing())
		}
	}
	return nil
}

// missing says what is not announced, client by client.
func (h *herd) missing() string {
	var lines []string
	for n, cli := range h.clients {
		waiting := 0
		for i := n; i < len(h.regs); i += len(h.clients) {
			if h.regs[i].Status().State != discovery.RegistrationUp {
				waiting++
			}
		}
		if waiting > 0 {
			lines = append(lines, fmt.Sprintf("client %d, whose connection is %v: %d not announced", n, cli.ActiveConnection().GetState(), waiting))
		}
	}
	return strings.Join(lines, "\n")
}

// renewals waits until each lease was renewed after a moment, and returns the times from there in ms.
func (h *herd) renewals(ctx context.Context, since time.Time) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	renewed := map[string]float64{}
	for len(renewed) < len(h.regs) {
		for _, r := range h.registrars {
			for _, info := range r.State() {
				if _, known := renewed[info.Key]; !known && info.LeaseEnds.Sub(since) >= etcd.DefaultTTL-time.Second {
					renewed[info.Key] = millis(time.Since(since))
				}
			}
		}
		if err := process.Wait(ctx, renewalLook); err != nil {
			return nil, fmt.Errorf("%d of %d leases were renewed: %w", len(renewed), len(h.regs), err)
		}
	}
	list := make([]float64, 0, len(renewed))
	for _, ms := range renewed {
		list = append(list, ms)
	}
	return list, nil
}

// announced returns how often the registrations were announced, all together.
func (h *herd) announced() (n int) {
	for _, reg := range h.regs {
		n += reg.Status().Count
	}
	return n
}

// down returns how many are not announced.
func (h *herd) down() (n int) {
	for _, reg := range h.regs {
		if reg.Status().State != discovery.RegistrationUp {
			n++
		}
	}
	return n
}

func (h *herd) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	var errs []error
	for n, cli := range h.clients {
		if n < len(h.registrars) {
			if err := h.registrars[n].Close(ctx); err != nil {
				first, _, _ := strings.Cut(err.Error(), "\n")
				errs = append(errs, fmt.Errorf("client %d: %s, and so on", n, first))
			}
		}
		errs = append(errs, cli.Close())
	}
	return errors.Join(errs...)
}
