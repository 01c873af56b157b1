package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// reconnect is within what what hangs on a client that was cut off has to go on. Attempts to connect of the clients here
// are 2.4 s apart at the most.
const reconnect = 3 * time.Second

// back is within what everybody is back who was cut off: 1.9 s until a client connects again, and half a second until a
// stream is opened anew.
const back = 2500 * time.Millisecond

// pass lets time pass.
func (f *fixture) pass(d time.Duration) {
	f.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.t.Context().Done():
	}
}

func withTTL(ttl time.Duration) func(*etcd.Options) { return func(o *etcd.Options) { o.TTL = ttl } }

// asShipped leaves the waits as they are by default.
func asShipped(o *etcd.Options) { o.Timing = etcd.Timing{AnyTTL: true} }

func addrs(n int) []string {
	out := make([]string, n)
	for k := range out {
		out[k] = fmt.Sprintf("10.0.%d.%d:9000", k/250, k%250+1)
	}
	return out
}

// registerAll registers instances at the same time and waits until all are up.
func (f *fixture) registerAll(addrs []string, registrars ...*etcd.Registrar) []discovery.Registration {
	f.t.Helper()
	regs := make([]discovery.Registration, len(addrs))
	for k, addr := range addrs {
		reg, err := registrars[k%len(registrars)].Register(f.ctx(), *discoverytest.Instance("user", addr))
		if err != nil {
			f.t.Fatal(err)
		}
		regs[k] = reg
	}
	for _, reg := range regs {
		f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	}
	return regs
}

func announcedAgain(times int) func(discovery.RegistrationStatus) bool {
	return func(st discovery.RegistrationStatus) bool {
		return st.State == discovery.RegistrationUp && st.Count >= times
	}
}

// changes watches the prefix from now on; the function returns what was written and deleted since.
func (f *fixture) changes() func() (puts, deletes int) {
	f.t.Helper()
	now, err := f.admin.Get(f.ctx(), "x")
	if err != nil {
		f.t.Fatal(err)
	}
	return func() (puts, deletes int) {
		f.t.Helper()
		end, err := f.admin.Put(f.ctx(), f.prefix+"/end", "")
		if err != nil {
			f.t.Fatal(err)
		}
		for wr := range f.admin.Watch(f.ctx(), f.prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1)) {
			for _, ev := range wr.Events {
				switch {
				case ev.Kv.ModRevision >= end.Header.Revision:
					return puts, deletes
				case ev.Type == clientv3.EventTypeDelete:
					deletes++
				case string(ev.Kv.Key) != f.prefix+"/end":
					puts++
				}
			}
			if err := wr.Err(); err != nil {
				f.t.Fatal(err)
			}
		}
		f.t.Fatal("what changed can't be told")
		return 0, 0
	}
}

func TestA01RegistersThoughTheFirstMemberIsDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	gone := newProxy(t, "127.0.0.1:1")
	_ = gone.listener.Close() // a member that is down refuses
	f.cli = dial(t, gone.addr(), f.proxy.addr())
	m := measure(t)
	f.register(f.registrar(asShipped, withTTL(5*time.Second)), discoverytest.Instance("user", addr1))
	took := time.Since(m.start)
	t.Logf("it took %v", took)
	if !m.fits(took, 500*time.Millisecond) {
		t.Errorf("it took %v with one of two members down", took)
	}
}

func TestA02ItNeverGivesUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rounds int
		longer time.Duration // than the lease
	}{"a long outage": {1, 9 * time.Second}, "outage after outage": {full(50, 5), 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			reg := f.register(f.registrar(withTTL(time.Second)), discoverytest.Instance("user", addr1))
			for round := range tc.rounds {
				f.proxy.setCut(true)
				f.eventually("the lease to end", func() bool { lease, _ := f.get(f.key("user", addr1)); return lease == 0 })
				f.pass(tc.longer)
				f.proxy.setCut(false)
				m := measure(t)
				f.await(reg, "another announcement", announcedAgain(round+2))
				took := time.Since(m.start)
				t.Logf("round %d: it took %v", round, took)
				if !m.fits(took, back) {
					t.Errorf("round %d: it took %v, want %v at the most", round, took, back)
				}
			}
		})
	}
}

// gRPC's own wait between two attempts grows to two minutes: longer than any lease, which would end after etcd is back.
func TestA03AfterALongOutageLeasesAreRenewedInTime(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{Dir: t.TempDir()})
	f := fixtureOn(t, server)
	const clients, ttl = 10, 15 * time.Second
	var all []*etcd.Registrar
	for range clients {
		f.cli = dial(t, server.Addr())
		all = append(all, f.registrar(asShipped, withTTL(ttl)))
	}
	regs := f.registerAll(addrs(clients), all...)
	changes := f.changes()
	_ = server.Close()
	f.pass(10 * time.Second)
	startServer(t, devetcd.Config{Dir: server.Dir(), ClientAddr: server.Addr()})
	m := measure(t)
	m.most = 2
	for _, r := range all {
		f.eventually("a renewal", func() bool { return r.State()[0].LeaseEnds.After(m.start.Add(ttl)) })
	}
	took := time.Since(m.start)
	t.Logf("all leases were renewed %v after etcd was back", took)
	if !m.fits(took, back) {
		t.Errorf("it took %v, want %v at the most", took, back)
	}
	if puts, deletes := changes(); puts+deletes > 0 {
		t.Errorf("%d keys were written and %d deleted", puts, deletes)
	}
	for _, reg := range regs {
		f.await(reg, "it to be up, announced once", func(st discovery.RegistrationStatus) bool {
			return st.State == discovery.RegistrationUp && st.Count == 1
		})
	}
	f.closeAll(all)
}

// afterRenewal returns when a lease was renewed a moment ago, so that what happens next has nearly a whole TTL.
func (f *fixture) afterRenewal(r *etcd.Registrar) {
	f.t.Helper()
	before := r.State()[0].LeaseEnds
	f.eventually("a renewal", func() bool { return r.State()[0].LeaseEnds.After(before.Add(100 * time.Millisecond)) })
}

// closeAll closes registrars before the etcd goes that was started last.
func (f *fixture) closeAll(all []*etcd.Registrar) {
	f.t.Helper()
	for _, r := range all {
		if err := r.Close(f.ctx()); err != nil {
			f.t.Errorf("Close: %v", err)
		}
	}
}

// A lease whose renewals were refused by a member without a leader must not be renewed by two from then on.
func TestA05RenewalsAreNotDoubledWithoutALeader(t *testing.T) {
	t.Parallel()
	f, r := newRelayed(t, devetcd.Config{})
	const ttl = 6 * time.Second
	registrar := f.registrar(withTTL(ttl))
	reg := f.register(registrar, discoverytest.Instance("user", addr1))
	f.afterRenewal(registrar)
	var leaderless atomic.Bool
	r.hooks(func(method string, ask []byte) ([]byte, error) {
		if method == "LeaseKeepAlive" && leaderless.Load() {
			return nil, rpctypes.ErrGRPCNoLeader
		}
		return ask, nil
	}, nil)
	const without = 3 * time.Second
	leaderless.Store(true)
	r.reset()
	f.pass(without)
	// Twice a second, one more that was due, and one when half the TTL is over. Doubled it would be twice as many.
	if n := r.asked("LeaseKeepAlive"); n > int(without/(500*time.Millisecond))+2 {
		t.Errorf("%d attempts to renew in %v without a leader", n, without)
	}
	leaderless.Store(false)
	f.pass(time.Second)
	r.reset()
	f.pass(ttl)
	if n := r.asked("LeaseKeepAlive"); n < 2 || n > 7 { // 3, or a few more on a busy machine; twice a second would be 12
		t.Errorf("%d renewals in a TTL after the leader was back, want 3", n)
	}
	if st := reg.Status(); st.State != discovery.RegistrationUp || st.Count != 1 {
		t.Errorf("status = %+v, want up, announced once", st)
	}
}

// One of two members swallows everything; nobody is told by a reset.
func TestA09SilentMemberIsLeftBeforeTheLeaseEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, second := newProxy(t, f.server.Addr()), newProxy(t, f.server.Addr())
	f.silentMember(etcd.DefaultTTL, first, second, func() { first.mute.Store(true); first.deaf.Store(true) })
}

// silentMember registers instances through the first of two members, silences that one, and sees that no key comes to
// harm.
func (f *fixture) silentMember(ttl time.Duration, first, second *proxy, silence func()) {
	f.t.Helper()
	f.cli = dial(f.t, first.addr(), second.addr())
	second.setCut(true) // so that all streams are opened through the first one
	r := f.registrar(asShipped, withTTL(ttl))
	regs := f.registerAll(addrs(5), r)
	second.setCut(false)
	f.eventually("a connection to the second one", second.carries)
	changes := f.changes()
	silence()
	began := time.Now()
	f.eventually("renewals by the other member", func() bool {
		for _, st := range r.State() {
			if !st.LeaseEnds.After(began.Add(ttl)) {
				return false
			}
		}
		return true
	})
	d := time.Since(began)
	f.t.Logf("leases are renewed by the other member after %v", d)
	if d > ttl-time.Second {
		f.t.Errorf("it took %v", d)
	}
	if puts, deletes := changes(); puts+deletes > 0 {
		f.t.Errorf("%d keys were written and %d deleted", puts, deletes)
	}
	for _, reg := range regs {
		if st := reg.Status(); st.Count != 1 {
			f.t.Errorf("status = %+v, want announced once", st)
		}
	}
}

func TestA10CutShorterThanTheLeaseLeavesNoTrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const ttl = 12 * time.Second
	r := f.registrar(withTTL(ttl))
	reg := f.register(r, discoverytest.Instance("user", addr1))
	f.afterRenewal(r)
	changes := f.changes()
	f.proxy.setCut(true)
	f.pass(ttl / 2)
	f.proxy.setCut(false)
	began := time.Now()
	f.eventually("a renewal", func() bool { return r.State()[0].LeaseEnds.After(began.Add(ttl)) })
	if puts, deletes := changes(); puts+deletes > 0 || reg.Status().Count != 1 {
		t.Errorf("%d keys were written and %d deleted; status %+v", puts, deletes, reg.Status())
	}
}

// Not in parallel, as all tests here that keep a processor busy: others look at the clock.
func TestA12CloseAtAnyMomentLeavesNothing(t *testing.T) {
	f, rel := newRelayed(t, devetcd.Config{})
	rel.hooks(nil, func(method string) error { // what has happened at etcd is known here only later
		if method == "LeaseGrant" || method == "Txn" {
			f.pass(rand.N(time.Millisecond))
		}
		return nil
	})
	r := f.registrar()
	inst := discoverytest.Instance("user", addr1)
	for n := range full(10_000, 150) {
		reg, err := r.Register(f.ctx(), *inst)
		if err != nil {
			t.Fatal(err)
		}
		if n%3 > 0 {
			ctx, cancel := context.WithTimeout(f.ctx(), rand.N(5*time.Millisecond))
			_ = discovery.WaitUp(ctx, reg) // or not yet: Close must cope with both
			cancel()
		}
		f.close(reg)
		if keys, leases := f.keys(), f.leases(); len(keys)+len(leases) != 0 {
			t.Fatalf("round %d: after Close there are keys %v and leases %v", n, keys, leases)
		}
	}
}

// The watch of the own key fails when what it missed is compacted. The lease stays the one it was.
func TestA14LostWatchOfTheOwnKeyCostsNoSecondLease(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	reg := f.register(f.registrar(func(o *etcd.Options) { o.Timing.Audit = time.Hour }), discoverytest.Instance("user", addr1))
	f.proxy.setCut(true)
	f.compact()
	f.compact()
	f.proxy.setCut(false)
	f.pass(time.Second)
	if n := len(f.leases()); n != 1 {
		t.Errorf("%d leases, want one", n)
	}
	f.del(f.key("user", addr1))
	f.await(reg, "the deletion to be seen", announcedAgain(2))
	f.close(reg)
	if keys, leases := f.keys(), f.leases(); len(keys)+len(leases) != 0 {
		t.Errorf("after Close there are keys %v and leases %v", keys, leases)
	}
}

// Not in parallel, see above.
func TestA15DeletedPrefixComesBackWithFewCalls(t *testing.T) {
	f, rel := newRelayed(t, devetcd.Config{})
	const n = 500
	regs := f.registerAll(addrs(n), f.registrar(withTTL(30*time.Second), func(o *etcd.Options) {
		o.CallTimeout = etcd.DefaultCallTimeout
		o.Timing = etcd.Timing{Audit: time.Hour} // no help by the audit
	}))
	rel.reset()
	m := measure(t)
	f.del(f.prefix+"/", clientv3.WithPrefix())
	for _, reg := range regs {
		f.await(reg, "another announcement", announcedAgain(2))
	}
	d := time.Since(m.start)
	txn, get, ask := rel.asked("Txn"), rel.asked("Range"), rel.asked("LeaseTimeToLive")
	t.Logf("%d keys were back after %v, with %d writes, %d reads and %d questions for leases", n, d, txn, get, ask)
	if !m.fits(d, 4*time.Second) { // 0.6 s without the race detector and other tests, of which half a second is jitter
		t.Errorf("it took %v", d)
	}
	// Who is not answered within the call timeout asks again, which is right on a machine that is busy with other things.
	if most := int(2 * n * max(1, d/(4*time.Second))); txn > most || get > most || ask > most {
		t.Errorf("%d writes, %d reads and %d questions for %d keys, want about one of each", txn, get, ask, n)
	}
	if got := len(f.keys()); got != n {
		t.Errorf("%d keys, want %d", got, n)
	}
}

// Whether an answer got lost before or after etcd did what was asked can't be told by who waits for it.
func TestA16LostAnswersOnAnyCallLeaveOneKeyAndOneLeaseEach(t *testing.T) {
	t.Parallel()
	f, rel := newRelayed(t, devetcd.Config{})
	lost := status.Error(codes.Unavailable, "the connection broke")
	var broken atomic.Bool
	rel.hooks(func(_ string, ask []byte) ([]byte, error) {
		if broken.Load() && rand.IntN(10) < 2 {
			return nil, lost
		}
		return ask, nil
	}, func(string) error {
		if broken.Load() && rand.IntN(10) < 4 {
			return lost
		}
		return nil
	})
	const n = 25
	for range full(40, 3) {
		r := f.registrar(withTTL(10 * time.Second))
		broken.Store(true)
		f.registerAll(addrs(n), r)
		broken.Store(false)
		f.eventually("a key and a lease of each", func() bool {
			held := map[int64]bool{}
			for _, st := range r.State() {
				held[st.Lease] = true
			}
			return len(f.keys()) == n && len(f.leases()) == n && len(held) == n
		})
		broken.Store(true)
		if err := r.Close(f.ctx()); err != nil {
			t.Error(err)
		}
		if keys, leases := f.keys(), f.leases(); len(keys)+len(leases) != 0 {
			t.Fatalf("after Close there are keys %v and leases %v", keys, leases)
		}
	}
}
