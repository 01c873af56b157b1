package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

const addr1 = "10.0.0.1:9000"

func (f *fixture) leases() []clientv3.LeaseStatus {
	f.t.Helper()
	resp, err := f.admin.Leases(f.ctx())
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Leases
}

// What is left of a pause when etcd is back would come on top of the time to connect.
func TestAPauseEndsWhenEtcdIsBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.connected()
	f.proxy.setCut(true)
	f.disconnected()
	p := f.pause()
	p.lasts()
	f.proxy.setCut(false)
	p.endsSoon()
}

// A call may fail before its connection is known to be dead.
func TestAPauseEndsWhenEtcdIsBackAfterItWentAwayMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.connected()
	p := f.pause()
	p.lasts() // a connection that is there all the time is no reason to end it
	f.proxy.setCut(true)
	f.disconnected()
	p.lasts()
	f.proxy.setCut(false)
	p.endsSoon()
}

// connected returns when the connection to etcd is there, disconnected when it has gone.
func (f *fixture) connected() {
	f.t.Helper()
	if _, err := f.cli.Get(f.ctx(), "x"); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) disconnected() {
	f.t.Helper()
	for conn := f.cli.ActiveConnection(); conn.GetState() == connectivity.Ready; {
		if !conn.WaitForStateChange(f.ctx(), connectivity.Ready) {
			f.t.Fatal("the connection stays though it was cut")
		}
	}
}

// pause is the wait for the next attempt of a registration.
type pause struct {
	f     *fixture
	ended chan struct{}
}

func (f *fixture) pause() pause {
	p := pause{f, make(chan struct{})}
	go func() {
		defer close(p.ended)
		etcd.Pause(f.ctx(), f.cli, 10*time.Minute) // 30 s at least
	}()
	return p
}

// lasts fails the test when the pause does not go on for a while.
func (p pause) lasts() {
	p.f.t.Helper()
	p.f.pass(300 * time.Millisecond)
	select {
	case <-p.ended:
		p.f.t.Error("the pause ended though etcd did not come back")
	default:
	}
}

func (p pause) endsSoon() {
	p.f.t.Helper()
	began := time.Now()
	<-p.ended
	if d := time.Since(began); d > 10*time.Second {
		p.f.t.Errorf("etcd is back, and the pause takes %v more", d)
	}
}

func TestA13CloseLeavesNeitherKeyNorLease(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	r := f.registrar()
	reg := f.register(r, discoverytest.Instance("user", addr1))
	if lease, _ := f.get(f.key("user", addr1)); lease == 0 || len(f.leases()) != 1 {
		t.Fatalf("key hangs on lease %d, %d leases exist; want it on the only one", lease, len(f.leases()))
	}
	if st := r.State(); len(st) != 1 || st[0].Key != f.key("user", addr1) || st[0].Lease == 0 {
		t.Errorf("State = %+v", st)
	}
	f.close(reg)
	if keys, leases := f.keys(), f.leases(); len(keys)+len(leases) != 0 {
		t.Errorf("after Close there are keys %v and leases %v", keys, leases)
	}
	if st := r.State(); len(st) != 0 {
		t.Errorf("State after Close = %+v", st)
	}
}

func TestA15DeletedKeyComesBackOnTheSameLease(t *testing.T) {
	t.Parallel()
	for name, del := range map[string]func(*fixture){
		"the key":    func(f *fixture) { f.del(f.key("user", addr1)) },
		"the prefix": func(f *fixture) { f.del(f.prefix+"/", clientv3.WithPrefix()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
			before, _ := f.get(f.key("user", addr1))
			for round := range 3 {
				del(f)
				f.await(reg, "another announcement", func(st discovery.RegistrationStatus) bool {
					return st.State == discovery.RegistrationUp && st.Count == round+2
				})
				if after, _ := f.get(f.key("user", addr1)); after != before {
					t.Fatalf("the key hangs on lease %x, want the one it had, %x", after, before)
				}
			}
		})
	}
}

func TestDefacedKeyIsRestored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	inst := discoverytest.Instance("user", addr1)
	key := f.key("user", addr1)
	f.register(f.registrar(), inst)
	lease, value := f.get(key)
	f.putRaw(key, "{")
	f.eventually("the value to be restored", func() bool {
		l, v := f.get(key)
		return l == lease && v == value
	})
}

// eventually polls etcd, for what no channel tells of.
func (f *fixture) eventually(what string, ok func() bool) {
	f.t.Helper()
	ctx := f.ctx()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("waiting for %s: not within %v", what, patience)
		}
	}
}

func TestA04RevokedLeaseIsReplacedFast(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	lease, _ := f.get(f.key("user", addr1))
	m := measure(t)
	if _, err := f.admin.Revoke(f.ctx(), lease); err != nil {
		t.Fatal(err)
	}
	f.await(reg, "a second announcement", func(st discovery.RegistrationStatus) bool {
		return st.State == discovery.RegistrationUp && st.Count == 2
	})
	took := time.Since(m.start)
	t.Logf("it took %v", took)
	if !m.fits(took, 600*time.Millisecond) { // of which 300 ms is the jitter that TTL/10 gives
		t.Errorf("it took %v, want 600 ms at the most", took)
	}
	if after, _ := f.get(f.key("user", addr1)); after == lease || after == 0 {
		t.Errorf("key hangs on lease %x after %x was revoked", after, lease)
	}
}

func TestA04RestartedEtcdKeepsKeyAndLease(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{Dir: t.TempDir()})
	f := fixtureOn(t, server)
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs(addr1)
	before, err := f.admin.Get(f.ctx(), f.key("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	f.await(reg, "it to be suspect", inState(discovery.RegistrationSuspect))
	startServer(t, devetcd.Config{Dir: server.Dir(), ClientAddr: server.Addr()})
	f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	after, err := f.admin.Get(f.ctx(), f.key("user", addr1))
	if err != nil || len(after.Kvs) != 1 {
		t.Fatalf("key after the restart: %v, %v", after, err)
	}
	if a, b := after.Kvs[0], before.Kvs[0]; a.ModRevision != b.ModRevision || a.Lease != b.Lease {
		t.Errorf("key was written again: revision %d lease %x, before %d %x", a.ModRevision, a.Lease, b.ModRevision, b.Lease)
	}
	if st := reg.Status(); st.Count != 1 {
		t.Errorf("announced %d times, want once", st.Count)
	}
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000")
}

func TestWipedEtcdGetsEveryKeyBack(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{Dir: t.TempDir()})
	f := fixtureOn(t, server)
	f.putMany("filler", 200) // so that revisions of the new etcd are below those of the old one
	f.register(f.registrar(), discoverytest.Instance("user", addr1))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs(addr1)
	_ = server.Close()
	startServer(t, devetcd.Config{Dir: t.TempDir(), ClientAddr: server.Addr()})
	f.eventually("the key in the new etcd", func() bool { lease, _ := f.get(f.key("user", addr1)); return lease != 0 })
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000")
}

func TestA10CutLongerThanTheLeaseEndsByItself(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.key("user", addr1)
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	f.proxy.setCut(true)
	f.await(reg, "it to be suspect", inState(discovery.RegistrationSuspect))
	f.eventually("the lease to end", func() bool { lease, _ := f.get(key); return lease == 0 })
	f.proxy.setCut(false)
	m := measure(t)
	st := f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	took := time.Since(m.start)
	t.Logf("it took %v", took)
	if !m.fits(took, back+300*time.Millisecond) { // the jitter that TTL/10 gives
		t.Errorf("it took %v, want %v and 300 ms at the most", took, back)
	}
	if st.Count != 2 || st.Err != nil {
		t.Errorf("status = %+v, want announced twice without error", st)
	}
}

func TestA01RegistersWhenEtcdComesLater(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{})
	_ = server.Close()
	f := fixtureOn(t, server)
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	reg, err := f.registrar().Register(f.ctx(), *discoverytest.Instance("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	st := f.await(reg, "a reason", func(st discovery.RegistrationStatus) bool { return st.Err != nil })
	if text := st.Err.Error(); st.State != discovery.RegistrationPending || !strings.Contains(text, f.proxy.addr()) || !strings.Contains(text, "etcd.endpoints") {
		t.Errorf("status = %+v, want pending with an error that names etcd and the setting", st)
	}
	u := w.Wait("an update that says why", func(u discovery.Update) bool { return u.Err != nil })
	if u.Known() || !strings.Contains(u.Err.Error(), f.proxy.addr()) {
		t.Errorf("update = %+v, want none known and an error that names etcd", u)
	}
	startServer(t, devetcd.Config{ClientAddr: server.Addr()})
	m := measure(t)
	f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	took := time.Since(m.start)
	t.Logf("registered %v after etcd came", took)
	if !m.fits(took, back) {
		t.Errorf("registered %v after etcd came, want %v at the most", took, back)
	}
	if u := w.WaitAddrs(addr1); u.Err != nil {
		t.Errorf("Err = %v after etcd came", u.Err)
	}
}

func TestA11OldProcessNeverRemovesTheKeyOfTheNewOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.key("user", addr1)
	older := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	next := discoverytest.Instance("user", addr1)
	next.Incarnation = "next"
	newer := f.register(f.registrar(), next)
	st := f.await(older, "a conflict", inState(discovery.RegistrationConflict))
	if !strings.Contains(st.Err.Error(), `"next"`) || !strings.Contains(st.Err.Error(), "registration.advertise") {
		t.Errorf("the conflict's reason is %v", st.Err)
	}
	lease, value := f.get(key)
	f.close(older)
	if l, v := f.get(key); l != lease || v != value || !strings.Contains(v, `"next"`) {
		t.Errorf("key is %x %q after the old process left, want %x %q", l, v, lease, value)
	}
	if st := newer.Status(); st.State != discovery.RegistrationUp || st.Count != 1 {
		t.Errorf("the new process' status is %+v", st)
	}
}

// The old process is stopped within its shutdown, before it leaves, and goes on when its successor is there.
func TestA11LateLeaveOfAnOldProcessHarmsNobody(t *testing.T) {
	t.Parallel()
	f, rel := newRelayed(t, devetcd.Config{})
	key := f.key("user", addr1)
	older := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	frozen, thaw := make(chan struct{}), make(chan struct{})
	rel.hooks(func(method string, ask []byte) ([]byte, error) {
		if method == "LeaseRevoke" {
			select {
			case frozen <- struct{}{}:
			default:
			}
			<-thaw
		}
		return ask, nil
	}, nil)
	closed := make(chan error, 1)
	go func() { closed <- older.Close(f.ctx()) }()
	<-frozen
	changes := f.changes()
	f.cli = f.admin // the successor is another process
	next := discoverytest.Instance("user", addr1)
	next.Incarnation = "next"
	newer := f.register(f.registrar(), next)
	close(thaw)
	if err := <-closed; err != nil {
		t.Errorf("Close = %v", err)
	}
	if _, v := f.get(key); !strings.Contains(v, `"next"`) {
		t.Errorf("key is %q after the old process left", v)
	}
	if puts, deletes := changes(); puts != 1 || deletes != 0 || newer.Status().Count != 1 {
		t.Errorf("%d writes and %d deletions, the new process is %+v; want one write", puts, deletes, newer.Status())
	}
}

func TestA27LostLeaseDoesNotTakeBackWhatANewerProcessHolds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.key("user", addr1)
	older := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	f.proxy.setCut(true)
	f.eventually("the lease to end", func() bool { lease, _ := f.get(key); return lease == 0 })
	next := discoverytest.Instance("user", addr1)
	next.Incarnation = "next"
	f.put(next)
	f.proxy.setCut(false)
	f.await(older, "a conflict", inState(discovery.RegistrationConflict))
	f.del(key)
	f.await(older, "it to take the address again", inState(discovery.RegistrationUp))
}

func TestUpdateDuringAnOutageGoesOnAfterItsContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	f.proxy.setCut(true)
	ctx, cancel := context.WithTimeout(f.ctx(), 100*time.Millisecond)
	defer cancel()
	err := reg.Update(ctx, func(i *discovery.Instance) { i.State = discovery.StateDraining })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Update = %v, want its context's end", err)
	}
	f.proxy.setCut(false)
	f.eventually("the change to be stored", func() bool {
		_, v := f.get(f.key("user", addr1))
		return strings.Contains(v, "draining")
	})
	if err := reg.Update(f.ctx(), func(i *discovery.Instance) { i.Weight = -1 }); err == nil || !strings.Contains(err.Error(), "weight") {
		t.Errorf("Update with a negative weight = %v", err)
	}
	if err := reg.Update(f.ctx(), func(i *discovery.Instance) { i.Weight = 5 }); err != nil {
		t.Errorf("Update = %v", err)
	}
}

func TestCloseWithoutEtcdEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.registrar()
	f.register(r, discoverytest.Instance("user", addr1))
	f.proxy.setCut(true)
	ctx, cancel := context.WithTimeout(f.ctx(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := r.Close(ctx)
	if err == nil || !strings.Contains(err.Error(), "ends within 3s") {
		t.Errorf("Close = %v, want an error that says when the lease ends", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if _, err := r.Register(f.ctx(), *discoverytest.Instance("user", addr1)); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("Register after Close = %v, want ErrClosed", err)
	}
	f.eventually("the lease to end", func() bool { lease, _ := f.get(f.key("user", addr1)); return lease == 0 })
}

func TestSameInstanceTwiceIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.registrar()
	inst := discoverytest.Instance("user", addr1)
	reg := f.register(r, inst)
	if _, err := r.Register(f.ctx(), *inst); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("second Register = %v", err)
	}
	f.close(reg)
	f.close(f.register(r, inst))
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tc := range []struct {
		opt  etcd.Options
		want string
	}{
		{etcd.Options{Prefix: "x/"}, `prefix: "x/"`},
		{etcd.Options{TTL: time.Second}, `ttl: "1s"`},
		{etcd.Options{TTL: 2 * time.Hour}, `ttl: "2h0m0s"`},
		{etcd.Options{TTL: 10500 * time.Millisecond}, `ttl: "10.5s"`},
		{etcd.Options{CallTimeout: -1}, "call timeout"},
	} {
		if _, err := etcd.NewRegistrar(f.cli, tc.opt); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("NewRegistrar(%+v) = %v, want %q in it", tc.opt, err, tc.want)
		}
		if _, err := etcd.NewSource(f.cli, tc.opt); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("NewSource(%+v) = %v, want %q in it", tc.opt, err, tc.want)
		}
	}
	if _, err := etcd.NewSource(nil, etcd.Options{}); err == nil || !strings.Contains(err.Error(), "etcdclient.New") {
		t.Errorf("NewSource(nil) = %v", err)
	}
}

func TestA25ManyRegistrationsShareOneStream(t *testing.T) {
	t.Parallel()
	f, rel := newRelayed(t, devetcd.Config{})
	const n, ttl = 40, 9 * time.Second
	r := f.registrar(withTTL(ttl))
	all := make([]string, n)
	for k := range all {
		all[k] = fmt.Sprintf("10.0.0.1:%d", 9000+k)
	}
	regs := f.registerAll(all, r)
	// When the first lease would have ended all of them are there still, and none was written again.
	f.pass(ttl + time.Second)
	for _, reg := range regs {
		if st := reg.Status(); st.State != discovery.RegistrationUp || st.Count != 1 {
			t.Errorf("status = %+v", st)
		}
	}
	if keys := f.keys(); len(keys) != n {
		t.Errorf("%d keys, want %d", len(keys), n)
	}
	if opened, renewals := rel.opened("LeaseKeepAlive"), rel.asked("LeaseKeepAlive"); opened != 1 || renewals < 2*n {
		t.Errorf("%d renewals were asked for on %d streams, want %d or more on one", renewals, opened, 2*n)
	}
	if err := r.Close(f.ctx()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if keys := f.keys(); len(keys) != 0 {
		t.Errorf("keys after Close: %v", keys)
	}
}

func TestA16LostAnswersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	if _, err := f.cli.Get(f.ctx(), "x"); err != nil { // there is a connection
		t.Fatal(err)
	}
	f.proxy.deaf.Store(true)
	reg, err := f.registrar().Register(f.ctx(), *discoverytest.Instance("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	f.eventually("the lease that we do not hear of", func() bool { return len(f.leases()) == 1 })
	lease := f.leases()[0].ID
	f.proxy.setCut(true)
	f.proxy.deaf.Store(false)
	f.proxy.setCut(false)
	st := f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	if l, _ := f.get(f.key("user", addr1)); l != lease || st.Count != 1 {
		t.Errorf("key hangs on %x and the count is %d, want %x and 1", l, st.Count, lease)
	}
	f.proxy.deaf.Store(true)
	ctx, cancel := context.WithTimeout(f.ctx(), 200*time.Millisecond)
	defer cancel()
	if err := reg.Close(ctx); err == nil {
		t.Error("Close = nil though etcd's answer was lost")
	}
	f.proxy.setCut(true)
	f.proxy.deaf.Store(false)
	f.proxy.setCut(false)
	f.close(reg) // goes on where it was
	if keys, leases := f.keys(), f.leases(); len(keys)+len(leases) != 0 {
		t.Errorf("after Close there are keys %v and leases %v", keys, leases)
	}
}
