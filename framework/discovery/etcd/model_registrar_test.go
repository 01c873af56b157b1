package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd/model"
)

const (
	modelService = "shop"
	modelAddr    = "10.0.0.1:9000"
	modelForeign = "foreign"
	// quickBound is how long a registration may take to be in order again after a link healed: a connection is tried at most
	// 2.4 s apart, the client looks at its renewals twice a second, a lost lease is granted anew within a second, and the first
	// question may be one second away.
	quickBound = 6 * time.Second
	// patientBound adds the wait after a refusal, and that for the routine look.
	patientBound = 2*36*time.Second + quickBound
)

// registrarModel is one address that registrations come and go on, and what is known of them from outside.
type registrarModel struct {
	ctx     context.Context
	s       *fakeetcd.Server
	trouble *fakeetcd.Trouble
	r       *etcd.Registrar
	key     string
	calls   sync.WaitGroup // Update and Close calls that are under way

	mu     sync.Mutex
	life   map[string]*modelLife // by incarnation
	order  []*modelLife          // that are open, oldest first
	last   *mvccpb.KeyValue      // what the key held last; nil: nothing
	backup bool                  // last is from a backup
	wrong  error                 // the first broken promise
	closes int
	cutOff bool // a Close did not reach the end: what it left ends with its lease
}

// modelLife is one incarnation and its present registration.
type modelLife struct {
	inc     string
	reg     discovery.Registration
	weight  int  // what was asked for last
	closing bool // Close was called
	closed  bool // and returned nil
	wasUp   bool // of an earlier registration
}

func (l *modelLife) announced() bool { return l.wasUp || l.reg != nil && l.reg.Status().Count > 0 }

func (m *registrarModel) broke(format string, args ...any) {
	if m.wrong == nil {
		m.wrong = fmt.Errorf(format, args...)
	}
}

// observe judges every change of the key while it is made.
func (m *registrarModel) observe(ev *mvccpb.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(ev.Kv.Key) != m.key {
		return
	}
	before, fromBackup := m.last, m.backup
	m.last, m.backup = ev.Kv, false
	if ev.Type == mvccpb.Event_DELETE {
		m.last = nil
		return
	}
	inst, err := discovery.Decode(modelService, ev.Kv.Value)
	if err != nil || inst.Incarnation == modelForeign {
		return // written by the test
	}
	life := m.life[inst.Incarnation]
	if life == nil {
		m.broke("somebody unknown wrote %s", ev.Kv.Value)
		return
	}
	if life.closed {
		m.broke("incarnation %s wrote after its Close had returned", life.inc)
	}
	if before == nil {
		return
	}
	holder, err := discovery.Decode(modelService, before.Value)
	switch {
	case err != nil:
	case holder.Incarnation == life.inc:
		if before.Lease == ev.Kv.Lease && string(before.Value) == string(ev.Kv.Value) {
			m.broke("incarnation %s wrote what was there already", life.inc)
		}
		if before.Lease != ev.Kv.Lease && before.Lease != 0 && !fromBackup && !m.trouble.Lied && !life.wasUp {
			m.broke("incarnation %s took another lease though the one it had is alive", life.inc)
		}
	case life.announced():
		m.broke("incarnation %s took the address from %s, which had come later", life.inc, holder.Incarnation)
	}
}

func (m *registrarModel) register(inc string) {
	m.mu.Lock()
	life := m.life[inc]
	if life == nil {
		life = &modelLife{inc: inc}
		m.life[inc] = life
	} else {
		life.wasUp = life.announced()
	}
	life.closing, life.closed, life.weight, life.reg = false, false, 1, nil
	m.mu.Unlock()
	reg, err := m.r.Register(m.ctx, discovery.Instance{Service: modelService, Addr: modelAddr, Incarnation: inc, Weight: 1})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.broke("Register: %w", err)
		return
	}
	life.reg = reg
	m.order = append(m.order, life)
}

// step does one thing of a schedule.
func (m *registrarModel) step(st model.Step) {
	m.mu.Lock()
	open := slices.Clone(m.order)
	m.mu.Unlock()
	switch st.Kind {
	case "register":
		if len(open) < 2 {
			m.register(fmt.Sprintf("inc%d", len(m.life)))
		}
	case "update":
		if len(open) > 0 {
			m.update(open[st.N%len(open)], st.N)
		}
	case "close":
		if len(open) > 0 {
			m.close(open[st.N%len(open)], time.Duration(st.N)*100*time.Millisecond)
		}
	case "return":
		m.comeBack(open, st.N)
	case "foreign":
		value, _ := discovery.Encode(&discovery.Instance{Service: modelService, Addr: modelAddr, Incarnation: modelForeign, Weight: 1 + st.N})
		m.s.Write(m.key, string(value))
	case "foreign leaves":
		if m.heldBy() == modelForeign {
			m.s.Remove(m.key)
		}
	case "corrupt":
		m.s.Write(m.key, []string{"{", "", "x", `{"Op":0,"Addr":"0.0.0.0:0"}`}[st.N%4])
	case "remove":
		m.s.Remove(m.key)
	default:
		m.trouble.Make(st.Kind, st.N)
	}
	if st.Kind == "restore" || st.Kind == "wipe" || st.Kind == "other cluster" {
		kv := m.s.Get(m.key)
		m.mu.Lock()
		m.last, m.backup = kv, true
		m.mu.Unlock()
	}
}

func (m *registrarModel) update(l *modelLife, weight int) {
	m.mu.Lock()
	reg := l.reg // it may be another one soon
	m.mu.Unlock()
	m.calls.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		defer cancel()
		_ = reg.Update(ctx, func(i *discovery.Instance) { // goes on in the background
			m.mu.Lock()
			defer m.mu.Unlock()
			i.Weight = weight
			if l.reg == reg {
				l.weight = weight
			}
		})
	})
}

func (m *registrarModel) close(l *modelLife, timeout time.Duration) {
	m.mu.Lock()
	l.closing = true
	m.closes++
	m.order = slices.DeleteFunc(m.order, func(o *modelLife) bool { return o == l })
	reg := l.reg
	m.mu.Unlock()
	m.calls.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, timeout)
		defer cancel()
		err := reg.Close(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cutOff = m.cutOff || err != nil
		l.closed = err == nil && l.reg == reg
	})
}

// comeBack registers an incarnation that has left once more, as an instance does that was not ready for a while.
func (m *registrarModel) comeBack(open []*modelLife, n int) {
	m.mu.Lock()
	var away []string
	for _, inc := range slices.Sorted(maps.Keys(m.life)) {
		if m.life[inc].closed {
			away = append(away, inc)
		}
	}
	m.mu.Unlock()
	if len(away) > 0 && len(open) < 2 {
		m.register(away[n%len(away)])
	}
}

func (m *registrarModel) heldBy() string {
	kv := m.s.Get(m.key)
	if kv == nil {
		return ""
	}
	inst, err := discovery.Decode(modelService, kv.Value)
	if err != nil {
		return "?"
	}
	return inst.Incarnation
}

// settled reports why not all is as it should be once nothing goes wrong any more.
func (m *registrarModel) settled() error {
	kv, leases := m.s.Get(m.key), m.s.Leases() // before mu is taken: the server takes it in observe
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrong != nil {
		return m.wrong
	}
	if len(m.order) == 0 {
		if kv != nil && !m.trouble.Rewound {
			return fmt.Errorf("all have left, but the key holds %s", kv.Value)
		}
		return nil
	}
	if kv == nil {
		return fmt.Errorf("there is no key; statuses: %s", m.statuses())
	}
	inst, err := discovery.Decode(modelService, kv.Value)
	if err != nil {
		return err
	}
	if !slices.Contains(leases, kv.Lease) {
		return errors.New("the key hangs on no living lease")
	}
	found := false
	for _, l := range m.order {
		st := l.reg.Status()
		if l.inc != inst.Incarnation {
			if st.State != discovery.RegistrationConflict {
				return fmt.Errorf("%s holds the key, and %s is not in conflict; statuses: %s", inst.Incarnation, l.inc, m.statuses())
			}
			continue
		}
		found = true
		if st.State != discovery.RegistrationUp || st.Err != nil || inst.Weight != l.weight {
			return fmt.Errorf("%s holds the key with weight %d, wants %d; statuses: %s", l.inc, inst.Weight, l.weight, m.statuses())
		}
	}
	if !found {
		return fmt.Errorf("the key is %s, which is nobody's who is open; statuses: %s", kv.Value, m.statuses())
	}
	return nil
}

func (m *registrarModel) statuses() string {
	out := ""
	for _, l := range m.order {
		out += fmt.Sprintf(" %s %+v", l.inc, l.reg.Status())
	}
	return out
}

// finish heals everything and judges what becomes of it.
func (m *registrarModel) finish() error {
	m.trouble.Heal()
	if who := m.heldBy(); who == modelForeign || who == "?" && len(m.order) == 0 {
		m.s.Remove(m.key) // what it left to others to end
	}
	bound := quickBound
	if m.trouble.Patient || m.trouble.Silent {
		bound = patientBound
	}
	err := model.Within(m.ctx, bound, m.settled)
	m.mu.Lock()
	cutOff := m.cutOff
	m.mu.Unlock()
	if err != nil && cutOff {
		bound += etcd.DefaultTTL
		err = model.Within(m.ctx, etcd.DefaultTTL, m.settled)
	}
	if err != nil {
		return fmt.Errorf("%v after the last fault: %w", bound, err)
	}
	// What looks well at once may still be about to end: a lease that was renewed just in time is seen by its end only.
	if err := backoff.Sleep(m.ctx, bound); err != nil {
		return err
	}
	m.calls.Wait()
	if err := m.stable(); err != nil {
		return err
	}
	return m.leave()
}

// stable sees that nothing is written any more once all is well.
func (m *registrarModel) stable() error {
	before := m.s.Requests()
	kv := m.s.Get(m.key)
	if err := backoff.Sleep(m.ctx, 5*time.Minute); err != nil {
		return err
	}
	if err := m.settled(); err != nil {
		return fmt.Errorf("it did not last: %w", err)
	}
	after := m.s.Requests()
	if now := m.s.Get(m.key); len(m.order) > 0 && now != kv {
		return fmt.Errorf("the key was written though all was well: %v, was %v", now, kv)
	}
	asked := 0
	for _, method := range []string{"Txn", "Range", "LeaseGrant", "LeaseTimeToLive", "Watch"} {
		asked += after[method] - before[method]
	}
	if most := 5*60/20*2 + 10; asked > most { // one routine look each 24 to 36 s
		return fmt.Errorf("%d requests in five quiet minutes; before %v, after %v", asked, before, after)
	}
	return nil
}

// leave closes everything: nothing may be left.
func (m *registrarModel) leave() error {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.life))
	closes := m.closes
	m.mu.Unlock()
	if got := m.s.Requests(); got["DeleteRange"] > 0 || closes == 0 && got["LeaseRevoke"] > 0 {
		return fmt.Errorf("somebody deleted or revoked without leaving: %v", got)
	}
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
	defer cancel()
	for _, l := range all {
		if err := l.reg.Close(ctx); err != nil {
			return fmt.Errorf("Close of %s with etcd in order: %w", l.inc, err)
		}
		m.mu.Lock()
		l.closed = true
		m.order = slices.DeleteFunc(m.order, func(o *modelLife) bool { return o == l })
		m.mu.Unlock()
	}
	if got := m.r.State(); len(got) > 0 {
		return fmt.Errorf("closed registrations are still known: %+v", got)
	}
	if n := len(m.s.Leases()); n > 0 && !m.trouble.Rewound {
		return fmt.Errorf("%d leases are left", n)
	}
	if err := backoff.Sleep(m.ctx, etcd.DefaultTTL+time.Second); err != nil {
		return err
	}
	if left := m.s.List("/"); len(left) > 0 || len(m.s.Leases()) > 0 {
		return fmt.Errorf("left after a lease's time: %v, leases %v", left, m.s.Leases())
	}
	return m.settled()
}

// runRegistrar runs one schedule.
func runRegistrar(ctx context.Context, w model.World, steps model.Schedule) error {
	m := &registrarModel{ctx: ctx, s: w.Server, trouble: w.Trouble, key: discovery.Key(discovery.DefaultPrefix, modelService, modelAddr), life: make(map[string]*modelLife)}
	w.Server.Observe(m.observe)
	var err error
	if m.r, err = etcd.NewRegistrar(w.Client, etcd.Options{}); err != nil {
		return err
	}
	begin := time.Now()
	m.register("inc0")
	for _, st := range steps {
		if err := backoff.Sleep(ctx, st.Wait); err != nil {
			return err
		}
		m.step(st)
	}
	if err = m.load(time.Since(begin), len(steps)); err == nil {
		err = m.finish()
	}
	w.Trouble.Heal()
	if cerr := m.r.Close(ctx); err == nil && cerr != nil {
		err = fmt.Errorf("closing the registrar: %w", cerr)
	}
	m.calls.Wait()
	return err
}

// load sees that etcd was not overrun, whatever it answered.
func (m *registrarModel) load(took time.Duration, steps int) error {
	n := 0
	for method, count := range m.s.Requests() {
		if method != "LeaseKeepAlive" {
			n += count
		}
	}
	// Each of two registrations that leave and come asks about once a second while it is refused; clientv3 tries some calls five times.
	if most := 100 + 30*steps + int(took.Seconds()*20); n > most {
		return fmt.Errorf("%d requests in %v, want at most %d: %v", n, took, most, m.s.Requests())
	}
	return nil
}

// lives are the kinds of steps that are no trouble of etcd's.
func lives(more ...string) []string {
	return append(more, "register", "update", "close", "return", "foreign", "foreign leaves", "remove", "corrupt")
}

func TestModelRegistrarSurvivesItsLink(t *testing.T) {
	t.Parallel()
	model.Check(t, append(fakeetcd.Links(), "update", "close", "register", "expire tokens"), 12, runRegistrar)
}

func TestModelRegistrarSurvivesEverything(t *testing.T) {
	t.Parallel()
	model.Check(t, lives(fakeetcd.Kinds()...), 15, runRegistrar)
}

func TestModelRegistrationsShareAnAddress(t *testing.T) {
	t.Parallel()
	model.Check(t, lives("revoke all", "reset", "expire tokens"), 12, runRegistrar)
}
