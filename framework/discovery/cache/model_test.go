package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd/model"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	modelService = "shop"
	// quickBound is how long a source may take to agree with etcd after a link healed: an attempt to connect that began before
	// fails after 3 s, the next comes 2.4 s later, and a watch that has nothing to tell is asked twice and then looked into,
	// 1.2 s each.
	quickBound = 9 * time.Second
	// patientBound adds the wait after a refusal, and the questions to a watch that does not answer.
	patientBound = 36*time.Second + 40*time.Second + quickBound
	// missedBound is the time between two lists that should change nothing.
	missedBound = 6*time.Minute + quickBound
	modelHold   = 5 * time.Minute
)

// sourceModel is one service in an etcd, a source of it, and a cache over the source with watchers that come and go.
type sourceModel struct {
	ctx     context.Context
	w       model.World
	src     *etcd.Source
	cache   *cache.Cache
	prefix  string
	loops   loop.Group
	watches []*loop.Loop // of the cache, by those that come and go
	next    int          // the number of the next incarnation
	quick   time.Duration

	mu       sync.Mutex
	wrong    error
	lost     bool                 // events were
	eras     [][]moment           // what etcd held; a new era begins when it is restored
	left     map[string]bool      // incarnations that said goodbye
	gone     map[string]time.Time // when an incarnation was last announced, if it is not
	direct   discovery.Update     // what the source told last
	seen     discovery.Update     // what the cache told the lasting watcher last
	everGood map[string]map[string]bool
}

// moment is what the service's keys held from a revision on.
type moment struct {
	revision int64
	values   map[string]string
	written  []string // the addresses that changed then
}

func (m *sourceModel) broke(format string, args ...any) {
	if m.wrong == nil {
		m.wrong = fmt.Errorf(format, args...)
	}
}

// observe keeps the history.
func (m *sourceModel) observe(ev *mvccpb.Event) {
	addr, ours := strings.CutPrefix(string(ev.Kv.Key), m.prefix)
	if !ours {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	era := m.eras[len(m.eras)-1]
	values := maps.Clone(era[len(era)-1].values)
	if ev.Type == mvccpb.Event_DELETE {
		delete(values, addr)
	} else {
		values[addr] = string(ev.Kv.Value)
	}
	if last := &era[len(era)-1]; last.revision == ev.Kv.ModRevision {
		last.values, last.written = values, append(last.written, addr)
	} else {
		m.eras[len(m.eras)-1] = append(era, moment{ev.Kv.ModRevision, values, []string{addr}})
	}
	m.note(values)
}

// note takes in what is announced now. The caller holds mu.
func (m *sourceModel) note(values map[string]string) {
	present := map[string]bool{}
	for addr, value := range values {
		inst, err := discovery.Decode(modelService, []byte(value))
		if err != nil {
			for inc := range m.everGood[addr] { // hidden behind what can't be read, unless it was gone before
				_, gone := m.gone[inc]
				present[inc] = !gone
			}
			continue
		}
		if m.everGood[addr] == nil {
			m.everGood[addr] = map[string]bool{}
		}
		m.everGood[addr][inst.Incarnation] = true
		present[inst.Incarnation] = true
		if inst.State == discovery.StateDraining {
			m.left[inst.Incarnation] = true
		}
	}
	for _, incs := range m.everGood {
		for inc := range incs {
			if _, known := m.gone[inc]; present[inc] {
				delete(m.gone, inc)
			} else if !known {
				m.gone[inc] = time.Now()
			}
		}
	}
}

func (m *sourceModel) newEra() {
	values := map[string]string{}
	for _, kv := range m.w.Server.List(m.prefix) {
		values[strings.TrimPrefix(string(kv.Key), m.prefix)] = string(kv.Value)
	}
	revision := m.w.Server.Revision()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eras = append(m.eras, []moment{{0, values, nil}, {revision, values, nil}})
	m.note(values)
}

// fromSource judges what the source tells.
func (m *sourceModel) fromSource(u discovery.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.direct
	m.direct = u
	m.sorted("the source", u)
	if !u.Known() || m.lost {
		return // what was lost on the way can't be known
	}
	var why error
	for _, era := range m.eras {
		if why = m.agrees(u.Instances, valuesAt(era, u.Revision)); why == nil {
			return
		}
	}
	if m.w.Trouble.Rewound && m.mixed(before, u) {
		return
	}
	m.broke("the source told a set that was never so at revision %d: %w", u.Revision, why)
}

// valuesAt is what an era held as of a revision.
func valuesAt(era []moment, revision int64) map[string]string {
	at, _ := slices.BinarySearchFunc(era, revision+1, func(mo moment, r int64) int { return cmp.Compare(mo.revision, r) })
	return era[max(at, 1)-1].values // an era begins with revision 0
}

// mixed reports whether a set is what a watch makes of an etcd that was restored and has got beyond the revision that it goes on
// from: what was known before, with the changes of another era on top. No watch can tell; the list that follows puts it right.
func (m *sourceModel) mixed(before, u discovery.Update) bool {
	known := map[string]string{}
	for _, i := range before.Instances {
		if value, err := discovery.Encode(i); err == nil {
			known[i.Addr] = string(value)
		}
	}
	for _, later := range m.eras {
		if m.agrees(u.Instances, overlaid(known, later, before.Revision, u.Revision)) == nil {
			return true
		}
		for _, era := range m.eras {
			for _, mo := range era {
				if mo.revision >= before.Revision && mo.revision <= u.Revision &&
					m.agrees(u.Instances, overlaid(mo.values, later, mo.revision, u.Revision)) == nil {
					return true
				}
			}
		}
	}
	return false
}

// overlaid is a set of values with an era's changes after one revision and up to another on top.
func overlaid(values map[string]string, era []moment, after, upTo int64) map[string]string {
	out, now := maps.Clone(values), valuesAt(era, upTo)
	for _, mo := range era {
		if mo.revision <= after || mo.revision > upTo {
			continue
		}
		for _, addr := range mo.written {
			if value, there := now[addr]; there {
				out[addr] = value
			} else {
				delete(out, addr)
			}
		}
	}
	return out
}

// agrees compares a set with what keys hold; what can't be read may be missing or an older good value, and who said goodbye
// may be there a moment longer.
func (m *sourceModel) agrees(set []*discovery.Instance, values map[string]string) error {
	got := map[string]*discovery.Instance{}
	for _, i := range set {
		got[i.Addr] = i
	}
	for addr, value := range values {
		want, err := discovery.Decode(modelService, []byte(value))
		have := got[addr]
		delete(got, addr)
		switch {
		case err != nil && have != nil && !m.everGood[addr][have.Incarnation]:
			return fmt.Errorf("%s is %s, which it never was", addr, have.Incarnation)
		case err != nil:
		case have == nil:
			return fmt.Errorf("%s is missing, which holds %s", addr, value)
		case !have.Equal(want) && !m.left[have.Incarnation]:
			return fmt.Errorf("%s is %+v, want %+v", addr, have, want)
		}
	}
	for addr, have := range got {
		if !m.left[have.Incarnation] {
			return fmt.Errorf("%s is there (%s) and should be gone", addr, have.Incarnation)
		}
	}
	return nil
}

func (m *sourceModel) sorted(who string, u discovery.Update) {
	for n := 1; n < len(u.Instances); n++ {
		if u.Instances[n-1].Addr >= u.Instances[n].Addr {
			m.broke("%s told a set that is not sorted: %s before %s", who, u.Instances[n-1].Addr, u.Instances[n].Addr)
		}
	}
}

// fromCache judges what the cache tells: an empty set only when all of the one before said goodbye, or were gone for long.
func (m *sourceModel) fromCache(u discovery.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.seen
	m.seen = u
	m.sorted("the cache", u)
	if !u.Known() || len(u.Instances) > 0 {
		return
	}
	for _, i := range before.Instances {
		since, gone := m.gone[i.Incarnation]
		if !m.left[i.Incarnation] && (!gone || time.Since(since) < modelHold) {
			m.broke("the cache told an empty set though %s %s was there %v ago and never said goodbye", i.Addr, i.Incarnation, time.Since(since))
		}
	}
}

func (m *sourceModel) step(st model.Step) {
	addr := fmt.Sprintf("10.0.0.%d:9000", st.N%8)
	s := m.w.Server
	switch st.Kind {
	case "join", "join again":
		m.put(addr, discovery.StateUp, true)
	case "drain":
		m.put(addr, discovery.StateDraining, false)
	case "leave":
		m.put(addr, discovery.StateDraining, false)
		s.Remove(m.prefix + addr)
	case "die":
		s.Remove(m.prefix + addr)
	case "corrupt":
		s.Write(m.prefix+addr, []string{"{", "", "x", `{"Op":0,"Addr":"0.0.0.0:0"}`}[st.N%4])
	case "storm":
		for n := range 20 * (1 + st.N) {
			s.Write("/newsvc/default/shop-admin/10.0.0.1:9000", fmt.Sprint("10.0.0.1:", n))
			if n%40 == 0 {
				m.put(fmt.Sprintf("10.0.1.%d:9000", n%7), discovery.StateUp, true)
			}
		}
	case "flood": // more than etcd tells a watch at a time
		for n := range 1100 {
			m.put(fmt.Sprintf("10.0.2.%d:9000", (st.N+n)%13), discovery.StateUp, true)
		}
	case "watch":
		slow := time.Duration(st.N%20) * 100 * time.Millisecond
		m.watches = append(m.watches, m.loops.Start(m.ctx, func(ctx context.Context) {
			_ = m.cache.Watch(ctx, modelService, func(discovery.Update) { _ = backoff.Sleep(ctx, slow) })
		}))
	case "unwatch":
		if len(m.watches) > 0 {
			m.watches[0].Stop()
			m.watches = m.watches[1:]
		}
	case "refresh":
		m.cache.Refresh(modelService)
	default:
		m.mu.Lock()
		m.lost = m.lost || st.Kind == "lose events"
		m.mu.Unlock()
		m.w.Trouble.Make(st.Kind, st.N)
		if st.Kind == "restore" || st.Kind == "wipe" || st.Kind == "other cluster" {
			m.newEra()
		}
	}
}

// put writes an instance, a new one or the one that is there.
func (m *sourceModel) put(addr string, state discovery.State, anew bool) {
	i := &discovery.Instance{Service: modelService, Addr: addr, State: state}
	if kv := m.w.Server.Get(m.prefix + addr); kv != nil && !anew {
		if was, err := discovery.Decode(modelService, kv.Value); err == nil {
			i.Incarnation = was.Incarnation
		}
	}
	if i.Incarnation == "" {
		if !anew {
			return // nobody to say so
		}
		m.next++
		i.Incarnation = fmt.Sprint("inc", m.next)
	}
	value, err := discovery.Encode(i)
	if err != nil {
		m.mu.Lock()
		m.broke("Encode: %w", err)
		m.mu.Unlock()
		return
	}
	m.w.Server.Write(m.prefix+addr, string(value))
}

// truth is what etcd holds now.
func (m *sourceModel) truth() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	era := m.eras[len(m.eras)-1]
	return era[len(era)-1].values
}

// converged reports how the source and the cache differ from etcd. With the guard at rest the cache must agree exactly.
func (m *sourceModel) converged(resting bool) func() error {
	return func() error {
		values := m.truth()
		states := m.cache.State()
		snap, known := m.cache.Snapshot(modelService)
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case m.wrong != nil:
			return m.wrong
		case !m.direct.Known() || m.direct.Err != nil:
			return fmt.Errorf("the source: %d instances, %v", len(m.direct.Instances), m.direct.Err)
		case !known || m.seen.Err != nil || len(states) != 1:
			return fmt.Errorf("the cache: %v, %v, %d services", known, m.seen.Err, len(states))
		case !slices.Equal(snap.Instances, m.seen.Instances):
			return fmt.Errorf("a watcher was told %d instances and the snapshot has %d", len(m.seen.Instances), len(snap.Instances))
		}
		if err := m.exactly(m.direct.Instances, values); err != nil {
			return fmt.Errorf("the source: %w", err)
		}
		return m.guarded(states[0], resting)
	}
}

// exactly is agrees without the moment longer.
func (m *sourceModel) exactly(set []*discovery.Instance, values map[string]string) error {
	for _, i := range set {
		if _, ok := values[i.Addr]; !ok {
			return fmt.Errorf("%s is there (%s) and should be gone", i.Addr, i.Incarnation)
		}
		if want, err := discovery.Decode(modelService, []byte(values[i.Addr])); err == nil && !want.Equal(i) {
			return fmt.Errorf("%s is %+v, want %+v", i.Addr, i, want)
		}
	}
	return m.agrees(set, values)
}

// guarded compares what the cache tells with what its source told it, which may differ from the other watch's only where a
// value can't be read.
func (m *sourceModel) guarded(st cache.ServiceState, resting bool) error {
	values := m.eras[len(m.eras)-1]
	now := values[len(values)-1].values
	var up, draining int
	for addr, value := range now {
		i, err := discovery.Decode(modelService, []byte(value))
		if err != nil {
			continue
		}
		at, found := slices.BinarySearchFunc(m.seen.Instances, i, func(a, b *discovery.Instance) int { return strings.Compare(a.Addr, b.Addr) })
		if i.State == discovery.StateDraining {
			draining++
			continue
		}
		up++
		if !found || !m.seen.Instances[at].Equal(i) {
			return fmt.Errorf("the cache: %s is up and not told", addr)
		}
	}
	if !resting {
		return nil
	}
	if len(st.Held) > 0 || st.Guarding {
		return fmt.Errorf("the cache holds %d still, guarding %v", len(st.Held), st.Guarding)
	}
	for _, i := range m.seen.Instances {
		if _, ok := now[i.Addr]; !ok {
			return fmt.Errorf("the cache: %s (%s) was never let go", i.Addr, i.Incarnation)
		}
		if want, err := discovery.Decode(modelService, []byte(now[i.Addr])); err == nil && want.State == discovery.StateDraining && up > 0 {
			return fmt.Errorf("the cache: %s drains and is told though %d are up", i.Addr, up)
		}
	}
	if up == 0 && draining > 0 && len(m.seen.Instances) == 0 {
		return fmt.Errorf("the cache tells nothing though %d that drain still answer", draining)
	}
	return nil
}

// finish heals everything and judges what becomes of it.
func (m *sourceModel) finish() error {
	m.w.Trouble.Heal()
	bound := m.quick
	if m.w.Trouble.Patient || m.w.Trouble.Rewound {
		bound = patientBound
	}
	if m.w.Trouble.LostEvents {
		bound = max(bound, missedBound)
	}
	if err := model.Within(m.ctx, bound, m.converged(false)); err != nil {
		return fmt.Errorf("%v after the last fault: %w", bound, err)
	}
	if err := backoff.Sleep(m.ctx, modelHold+time.Second); err != nil {
		return err
	}
	before := m.w.Server.Requests()
	if err := backoff.Sleep(m.ctx, 5*time.Minute); err != nil {
		return err
	}
	if err := m.converged(true)(); err != nil {
		return fmt.Errorf("after the time for which instances are held: %w", err)
	}
	after := m.w.Server.Requests()
	// An etcd in which nothing is written does not answer a watch that has seen everything; each of the two asks it otherwise
	// about every 36 s, and lists every five minutes.
	if n := after["Range"] - before["Range"]; n > 26 {
		return fmt.Errorf("%d reads in five quiet minutes", n)
	}
	if n := m.w.Server.Watchers(); n != 2 {
		return fmt.Errorf("%d watches in etcd, want the source's and the cache's", n)
	}
	return nil
}

// runSource runs one schedule.
func runSource(ctx context.Context, w model.World, steps model.Schedule) error {
	return runSourceWithin(ctx, w, steps, quickBound)
}

// runSourceWithin has its own bound in place of quickBound.
func runSourceWithin(ctx context.Context, w model.World, steps model.Schedule, quick time.Duration) error {
	m := &sourceModel{
		ctx: ctx, w: w, quick: quick, prefix: discovery.ServicePrefix(discovery.DefaultPrefix, modelService),
		eras: [][]moment{{{0, map[string]string{}, nil}}}, left: map[string]bool{}, gone: map[string]time.Time{}, everGood: map[string]map[string]bool{},
	}
	w.Server.Observe(m.observe)
	var err error
	if m.src, err = etcd.NewSource(w.Client, etcd.Options{}); err != nil {
		return err
	}
	m.cache = cache.New(m.src, cache.Options{HoldTTL: modelHold, Linger: 2 * time.Second})
	defer m.cache.Close()
	defer m.loops.Stop()
	m.loops.Start(ctx, func(ctx context.Context) { _ = m.src.Watch(ctx, modelService, m.fromSource) })
	m.loops.Start(ctx, func(ctx context.Context) { _ = m.cache.Watch(ctx, modelService, m.fromCache) })
	begin := time.Now()
	for _, st := range steps {
		if err := backoff.Sleep(ctx, st.Wait); err != nil {
			return err
		}
		m.step(st)
	}
	asked := w.Server.Requests()
	if n, most := asked["Range"]+asked["Watch"], 60+20*len(steps)+int(10*time.Since(begin).Seconds()); n > most {
		return fmt.Errorf("%d requests in %v, want at most %d: %v", n, time.Since(begin), most, asked)
	}
	return m.finish()
}

func sourceKinds(trouble []string) []string {
	return append(trouble, "join", "join again", "join", "drain", "leave", "die", "corrupt", "storm", "flood", "watch", "unwatch", "refresh")
}

func TestModelSourceAndCacheSurviveTheirLink(t *testing.T) {
	t.Parallel()
	model.Check(t, append(fakeetcd.Links(), "join", "join", "drain", "leave", "die", "corrupt", "compact", "storm", "flood", "expire tokens"), 12, runSource)
}

func TestModelSourceAndCacheSurviveEverything(t *testing.T) {
	t.Parallel()
	model.Check(t, sourceKinds(fakeetcd.Kinds()), 15, runSource)
}

// Who has nothing to tell can't be told from who does not answer but by asking, once there is a connection again.
func TestASourceIsSureAgainSoonAfterALinkThatWasSlowForLong(t *testing.T) {
	t.Parallel()
	model.Repeat(t, 40, model.Schedule{
		{Wait: 4 * time.Second, Kind: "slow", N: 35},
		{Wait: time.Minute, Kind: "heal"},
	}, runSource)
}

// A list beside the watch that is under way when etcd comes back waits for what the watch tells up to there. What it was told
// meanwhile was handed on as if etcd were away still, for up to the next question.
func TestWhatAWatchTellsAgainIsUpToDateAtOnce(t *testing.T) {
	t.Parallel()
	model.Repeat(t, 40, model.Schedule{
		{Wait: time.Second, Kind: "join", N: 3},
		{Wait: 80 * time.Second, Kind: "reset"},
		{Wait: 9 * time.Second, Kind: "join", N: 5},
		{Wait: 100 * time.Millisecond, Kind: "stop"},
		{Wait: 10 * time.Second, Kind: "storm", N: 1},
		{Wait: 0, Kind: "slow", N: 1},
	}, func(ctx context.Context, w model.World, steps model.Schedule) error {
		return runSourceWithin(ctx, w, steps, 4*time.Second)
	})
}
