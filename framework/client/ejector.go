package client

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
	"github.com/newsvc/newsvc/framework/client/internal/ejection"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// ejector stands between the balancer of one channel and the state machine that decides who is ejected: it gives that
// the time, and has ejected instances asked how they are. While there are no calls it does nothing.
//
// Its lock is taken neither while the machine's is held nor the other way round.
type ejector struct {
	callee  string
	log     *zap.Logger
	unary   func(method string) bool
	machine *ejection.Machine
	policy  atomic.Pointer[ejectorPolicy]
	joined  atomic.Int64
	total   atomic.Int64 // ejections
	ticking atomic.Bool  // a tick is due

	mu      sync.Mutex // guards what follows
	records map[*ejection.Instance]*ejectorRecord
	states  map[*balancer.Instance]*ejection.Instance
	ways    map[string]way // to the addresses of those that joined
	timer   *time.Timer
	closed  bool

	ctx    context.Context // of the questions
	cancel context.CancelFunc
	asking sync.WaitGroup
}

// ejectorPolicy is what the ejector reads of a policy.
type ejectorPolicy struct {
	EjectionPolicy
	health bool          // what the health service says counts, beside that it answers
	tick   time.Duration // between two
}

var _ balancer.Filter = (*ejector)(nil)

func newEjector(callee string, p Policy, unary func(method string) bool, log *zap.Logger) *ejector {
	e := &ejector{
		callee: callee, log: log, unary: unary, machine: ejection.New(p.Ejection.rules(), time.Now()),
		records: map[*ejection.Instance]*ejectorRecord{}, states: map[*balancer.Instance]*ejection.Instance{},
		ways: map[string]way{},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.policy.Store(ejectorPolicyOf(p))
	return e
}

func ejectorPolicyOf(p Policy) *ejectorPolicy {
	return &ejectorPolicy{p.Ejection, p.HealthCheck, min(100*time.Millisecond, max(p.Ejection.SlowAfter/4, 10*time.Millisecond))}
}

// configure makes p the policy.
func (e *ejector) configure(p Policy) {
	former := e.policy.Swap(ejectorPolicyOf(p))
	if former.EjectionPolicy == p.Ejection {
		return
	}
	e.machine.Configure(p.Ejection.rules())
	if !p.Ejection.Enabled {
		e.apply(e.machine.Release(time.Now()))
	}
	e.mu.Lock()
	var all []func()
	for _, r := range e.records {
		all = append(all, r.changed)
	}
	e.mu.Unlock()
	for _, changed := range all {
		changed()
	}
}

// close ends all questions. No call is told of any more that ticks would be needed for.
func (e *ejector) close() {
	e.mu.Lock()
	e.closed = true
	if e.timer != nil {
		e.timer.Stop()
	}
	e.mu.Unlock()
	e.cancel()
	e.asking.Wait()
}

// dialer returns dial, with a look at how long it takes: one way to the instance and back, and nothing that the instance
// itself would have to do.
func (e *ejector) dialer(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		began := time.Now()
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		took := time.Since(began)
		e.mu.Lock()
		defer e.mu.Unlock()
		if w, joined := e.ways[addr]; joined && (w.took == 0 || took < w.took) {
			w.took = took
			e.ways[addr] = w
		}
		return conn, nil
	}
}

// way is how far away an address is.
type way struct {
	took  time.Duration // the shortest time that connecting took; 0 while that is not known
	users int           // instances at that address: two while one replaces the other, or one policy another
}

// way is how long the way to an instance and back takes.
func (e *ejector) way(i *balancer.Instance) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wayLocked(i)
}

// wayLocked takes what is short for nothing: on this machine, or in the next rack, it is chance.
func (e *ejector) wayLocked(i *balancer.Instance) time.Duration {
	if took := e.ways[i.Addr()].took; took > e.policy.Load().SlowMargin {
		return took
	}
	return 0
}

// Active implements [balancer.Filter]. One of one is never ejected.
func (e *ejector) Active() bool { return e.policy.Load().Enabled && e.joined.Load() > 1 }

// Join implements [balancer.Filter].
func (e *ejector) Join(i *balancer.Instance, changed func()) balancer.Record {
	r := &ejectorRecord{ejector: e, of: i, state: e.machine.Add(i.Addr()), changed: changed}
	e.joined.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.records[r.state] = r
	e.states[i] = r.state
	e.ways[i.Addr()] = way{users: e.ways[i.Addr()].users + 1} // it may be another machine, and is connected to anew
	return r
}

// Eligible implements [balancer.Filter].
func (e *ejector) Eligible(ready []*balancer.Instance) []*balancer.Instance {
	if !e.Active() {
		return ready
	}
	states := make([]*ejection.Instance, 0, len(ready))
	e.mu.Lock()
	for _, i := range ready {
		if state := e.states[i]; state != nil {
			states = append(states, state)
			state.Far(e.wayLocked(i))
		}
	}
	e.mu.Unlock()
	if len(states) != len(ready) {
		return ready // one has left; there is another set to come
	}
	e.tell(e.machine.Connected(states, time.Now())) // who returns by that is among those below
	in := make([]*balancer.Instance, 0, len(ready))
	for n, i := range ready {
		if states[n].Takes() {
			in = append(in, i)
		}
	}
	return in
}

// Trial implements [balancer.Filter].
func (e *ejector) Trial(method string) *balancer.Instance {
	if !e.machine.Trying() {
		return nil
	}
	state := e.machine.Canary(e.unary(method), time.Now())
	if state == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.records[state]; r != nil {
		return r.of
	}
	return nil
}

// apply makes changes known, to people and to the balancer.
func (e *ejector) apply(changes []ejection.Change) {
	if len(changes) == 0 {
		return
	}
	for _, r := range e.tell(changes) {
		r.changed()
	}
}

// tell makes changes known to people, and returns whose they are.
func (e *ejector) tell(changes []ejection.Change) []*ejectorRecord {
	var whose []*ejectorRecord
	for _, c := range changes {
		e.mu.Lock()
		r := e.records[c.Instance]
		e.mu.Unlock()
		if r != nil {
			whose = append(whose, r)
		}
		fields := []zap.Field{zap.String("callee", e.callee), zap.String("instance", c.Instance.Name()), zap.String("reason", c.Reason.Text)}
		switch {
		case c.Ejected:
			e.total.Add(1)
			e.log.Warn("instance ejected: it gets no calls until it is well", append(fields, zap.Duration("at_least", c.For))...)
			continue
		case c.Pardoned:
			e.log.Warn("ejected instance takes calls again, too few others are left", append(fields, zap.Duration("after", c.For))...)
		default:
			e.log.Info("ejected instance takes calls again", append(fields, zap.Duration("after", c.For))...)
		}
		if r != nil {
			r.of.Warm(e.policy.Load().SlowStart)
		}
	}
	return whose
}

// wake sees to it that a tick comes.
func (e *ejector) wake() {
	if e.ticking.Load() || !e.ticking.CompareAndSwap(false, true) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch interval := e.policy.Load().tick; {
	case e.closed:
	case e.timer == nil:
		e.timer = time.AfterFunc(interval, e.tick)
	default:
		e.timer.Reset(interval)
	}
}

func (e *ejector) tick() {
	if now := time.Now(); e.policy.Load().Enabled {
		e.apply(e.machine.Tick(now))
		for _, state := range e.machine.Due(now) {
			e.ask(state)
		}
	}
	e.ticking.Store(false)
	if e.policy.Load().Enabled && e.machine.Active() {
		e.wake()
	}
}

// ask finds out how an instance is, in a goroutine of its own.
func (e *ejector) ask(state *ejection.Instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.records[state]
	if r == nil || e.closed {
		return
	}
	var other *balancer.Instance
	for s, o := range e.records {
		if s != state && s.Takes() && o.of.Conn() != nil {
			other = o.of
			break // maps are in random order
		}
	}
	e.asking.Add(1)
	loop.Start(e.ctx, func(ctx context.Context) {
		defer e.asking.Done()
		e.machine.Probed(state, e.well(ctx, r.of, other), time.Now())
	})
}

// ejectorRecord is what the ejector keeps of one instance.
type ejectorRecord struct {
	*ejector
	of      *balancer.Instance
	state   *ejection.Instance
	changed func()
}

// Begin implements [balancer.Record].
func (r *ejectorRecord) Begin(method string, trial bool, slot *any) {
	c, ok := (*slot).(*ejection.Call)
	if !ok {
		c = &ejection.Call{}
		*slot = c
	}
	r.state.Begin(c, method, r.unary(method), trial, time.Now())
	r.wake()
}

// Done implements [balancer.Record].
func (r *ejectorRecord) Done(_ string, took time.Duration, info grpcbalancer.DoneInfo, slot *any) {
	c, ok := (*slot).(*ejection.Call)
	if !ok {
		return
	}
	outcome, code := outcomeOf(info)
	if !r.policy.Load().Enabled { // any more
		outcome = ejection.Ignored
	}
	r.apply(c.End(outcome, code, took))
}

// outcomeOf reads how a call ended. What was not sent, or refused before a handler ran, says nothing of the instance.
func outcomeOf(info grpcbalancer.DoneInfo) (ejection.Outcome, codes.Code) {
	code := status.Code(info.Err)
	if !info.BytesSent || code == codes.Unavailable && notprocessed.Is(info.Err) {
		return ejection.Ignored, code
	}
	return ejection.OutcomeOf(code), code
}

// Out implements [balancer.Record].
func (r *ejectorRecord) Out() error {
	if s := r.state.Standing(); s.Phase != ejection.In {
		return standing{s, time.Now()}
	}
	return nil
}

// Leave implements [balancer.Record].
func (r *ejectorRecord) Leave() {
	r.joined.Add(-1)
	changes := r.machine.Remove(r.state, time.Now())
	r.ejector.mu.Lock()
	delete(r.records, r.state)
	delete(r.states, r.of)
	if w := r.ways[r.of.Addr()]; w.users > 1 {
		w.users--
		r.ways[r.of.Addr()] = w
	} else {
		delete(r.ways, r.of.Addr())
	}
	r.ejector.mu.Unlock()
	r.apply(changes)
}
