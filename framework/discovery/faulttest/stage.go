package faulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const (
	// stepTimeout bounds each thing that the suite itself asks of etcd or of a process.
	stepTimeout = 20 * time.Second
	// pollEvery is how often the suite looks whether something is so by now.
	pollEvery = 100 * time.Millisecond
	// inUse is how recently a server must have answered to count as one that gets calls.
	inUse = time.Second
	// leaseEnds is what a lease may outlive its TTL by: etcd that starts anew or has another leader renews all leases and
	// adds an election timeout, and looks for those that have ended every half second.
	leaseEnds = 3 * time.Second
)

// stage is one row while it runs.
type stage struct {
	lab     *Lab
	row     Row
	opt     RowOptions
	cluster *Cluster
	sides   []*side
	// Through these callers and servers reach each member, when the row wants that.
	clientLinks, serverLinks []*Proxy
	credentials              Etcd      // endpoints are left empty
	healed                   time.Time // the end of the fault
	closers                  []func() error
	// What rows remember from one step to the next.
	notes  map[string]int64
	leases []clientv3.LeaseID
	token  string
}

// side is one adapter on the stage. Only its own goroutine of stage.each touches it.
type side struct {
	adapter Adapter
	service string
	live    []*ServerProc // those that should get calls
	fresh   []*ServerProc // the newcomers among them
	left    []*ServerProc // those that were asked to leave, or killed: they must not stay in etcd
	other   []*ServerProc // of other services
	silent  []*ServerProc // those among the ones that left that stand still: nothing answers, and their connections stay
	clients []*ClientProc
	victim  string // whatever the row remembers
	err     error  // why the adapter takes no further part
	cell    Cell
	done    bool // all is well again
	// healed is the end of the fault for this side, where that is not the same for all.
	healed time.Time
	// behind is the most by which a call was made late.
	behind time.Duration
	// unsettled is when something other than a newcomer was missing last.
	unsettled time.Time
}

func newStage(lab *Lab, row Row, opt RowOptions) *stage {
	return &stage{lab: lab, row: row, opt: opt, notes: map[string]int64{}}
}

func (s *stage) say(format string, args ...any) {
	s.opt.Progress("%s: %s", s.row.ID, fmt.Sprintf(format, args...))
}

// each runs f for all sides at once. A side on which it fails takes no further part; the others go on.
func (s *stage) each(f func(d *side) error) {
	var all sync.WaitGroup
	for _, d := range s.sides {
		if d.err == nil {
			all.Go(func() { d.err = f(d) })
		}
	}
	all.Wait()
}

func (s *stage) setUp(ctx context.Context) error {
	for _, name := range s.opt.Adapters {
		a, err := s.lab.Adapter(name)
		if err != nil {
			return err
		}
		s.sides = append(s.sides, &side{adapter: a, service: "fault-" + name, cell: Cell{Adapter: name}})
	}
	conf := s.row.cluster
	conf.Members, conf.Slow = s.row.Members, true // the clock of production
	var err error
	if s.cluster, err = s.lab.StartCluster(ctx, conf); err != nil {
		return err
	}
	if err := s.do(ctx, s.row.prepare); err != nil {
		return err
	}
	if err := s.link(); err != nil {
		return err
	}
	s.say("starting servers and callers")
	s.each(func(d *side) error { return s.work(ctx, d) })
	if s.row.links.pinned {
		_ = s.relink(slices.Concat(s.clientLinks, s.serverLinks))
		if err := s.wait(ctx, reconnected); err != nil {
			return err
		}
		s.healed = time.Time{}
	}
	if err := s.do(ctx, s.row.ready); err != nil {
		return err
	}
	for _, d := range s.sides {
		if d.err != nil {
			d.cell.Void = d.err.Error()
			s.say("%s does not take part: %v", d.adapter.Name, d.err)
		}
	}
	return nil
}

// link puts proxies where the row wants them.
func (s *stage) link() (err error) {
	if s.row.links.clients {
		s.clientLinks, err = s.proxies()
	}
	if s.row.links.servers && err == nil {
		s.serverLinks, err = s.proxies()
	}
	if s.row.links.pinned && err == nil {
		for _, all := range [][]*Proxy{s.clientLinks, s.serverLinks} {
			if len(all) > 0 {
				cut(all[1:])
			}
		}
	}
	return err
}

func (s *stage) proxies() (all []*Proxy, err error) {
	for _, e := range s.cluster.Endpoints() {
		p, err := NewProxy(e)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, p.Close)
		all = append(all, p)
	}
	return all, nil
}

// work starts an adapter's servers and its caller, and waits until all servers get calls.
func (s *stage) work(ctx context.Context, d *side) error {
	for range s.opt.Servers {
		p, err := s.startServer(ctx, d, d.service, "")
		if err != nil {
			return err
		}
		d.live = append(d.live, p)
	}
	if err := s.soon(ctx, func() bool { return s.listed(ctx, d) == "" }); err != nil {
		return fmt.Errorf("its servers are not in etcd: %w", err)
	}
	if err := s.startClient(ctx, d, ""); err != nil {
		return err
	}
	err := s.soon(ctx, func() bool {
		idle, _ := d.unused(ctx, time.Time{})
		return idle == ""
	})
	if err != nil {
		return fmt.Errorf("not all of its servers get calls: %w", err)
	}
	return nil
}

// startServer starts a server of an adapter; an empty address means any free one.
func (s *stage) startServer(ctx context.Context, d *side, service, listen string) (*ServerProc, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return s.lab.StartServer(ctx, ServerOptions{
		Adapter: d.adapter.Name, Service: service, Listen: listen, Etcd: s.etcdFor(s.serverLinks), TTL: s.opt.TTL,
	})
}

// startClient adds a caller.
func (s *stage) startClient(ctx context.Context, d *side, cacheDir string) error {
	c, err := s.lab.StartClient(ctx, ClientOptions{
		Adapter: d.adapter.Name, Service: d.service, Etcd: s.etcdFor(s.clientLinks),
		Hold: orDuration(s.row.hold, s.opt.Hold), CacheDir: cacheDir, Rate: s.opt.Rate, Writes: s.row.writes, Work: s.row.work, Deadline: s.opt.Deadline,
	})
	if err == nil {
		d.clients = append(d.clients, c)
	}
	return err
}

func (s *stage) etcdFor(links []*Proxy) Etcd {
	e := s.credentials
	if len(links) == 0 {
		e.Endpoints = s.cluster.Endpoints()
	}
	for _, l := range links {
		e.Endpoints = append(e.Endpoints, l.Addr())
	}
	return e
}

// newcomers starts one more server of each adapter. Everybody has to find it.
func (s *stage) newcomers(ctx context.Context) {
	s.each(func(d *side) error { return s.newcomer(ctx, d, "") })
}

func (s *stage) newcomer(ctx context.Context, d *side, listen string) error {
	p, err := s.startServer(ctx, d, d.service, listen)
	if err != nil {
		return fmt.Errorf("a server could not start: %w", err)
	}
	d.live, d.fresh = append(d.live, p), append(d.fresh, p)
	return nil
}

// retire removes the first server from those that should get calls. Whoever calls it ends the server, which is asked
// before what it ran for others: it cannot be asked afterwards.
func (s *stage) retire(ctx context.Context, d *side) (*ServerProc, error) {
	p := d.live[0]
	d.live = d.live[1:]
	return p, s.leaving(ctx, d, p)
}

// leaving takes down what a server ran for others, and that it leaves.
func (s *stage) leaving(ctx context.Context, d *side, p *ServerProc) error {
	d.left = append(d.left, p)
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	st, err := p.Stats(ctx)
	d.cell.Foreign += st.Foreign
	return err
}

// leavers asks one server of each adapter to leave, and does not wait for it.
func (s *stage) leavers(ctx context.Context) {
	s.each(func(d *side) error {
		p, err := s.retire(ctx, d)
		if err != nil {
			return err
		}
		return p.Signal(syscall.SIGTERM)
	})
}

// gone waits until a server that was asked to leave has ended.
func (s *stage) gone(ctx context.Context, p *ServerProc) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	_, err := p.Wait(ctx)
	return err
}

// mark begins the phase that counts.
func (s *stage) mark(ctx context.Context) error { return s.markFrom(ctx, 0) }

// markFrom does so for all but the first callers of each side.
func (s *stage) markFrom(ctx context.Context, first int) error {
	var errs []error
	for _, d := range s.sides {
		for _, c := range d.clients[min(first, len(d.clients)):] {
			if d.err != nil {
				continue
			}
			r, err := c.Mark(ctx)
			errs = append(errs, err)
			if !s.healed.IsZero() {
				d.cell.LateBy, d.behind = max(d.cell.LateBy, r.LateBy), max(d.behind, r.Behind)
			}
		}
	}
	return errors.Join(errs...)
}

// end is the end of the fault for a side.
func (s *stage) end(d *side) time.Time {
	if d.healed.IsZero() {
		return s.healed
	}
	return d.healed
}

// wait lets time pass.
func (s *stage) wait(ctx context.Context, d time.Duration) error { return backoff.Sleep(ctx, d) }

// until waits for something to be so.
func (s *stage) until(ctx context.Context, so func() bool) error {
	for !so() {
		if err := backoff.Sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
	return nil
}

// soon waits for something to be so, with a limit.
func (s *stage) soon(ctx context.Context, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return s.until(ctx, so)
}
