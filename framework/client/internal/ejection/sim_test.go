package ejection_test

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errSick = errors.New("it is sick")

func defaults() ejection.Config {
	return ejection.Config{
		Consecutive: 3, ErrorShare: 0.3, MinCalls: 20, SlowFactor: 5, SlowMargin: 5 * time.Millisecond, SlowAfter: 500 * time.Millisecond,
		BaseTime: 2 * time.Second, MaxTime: 10 * time.Second, MaxShare: 0.5,
	}
}

// world is callers and instances in simulated time: calls take each instance in use in turn, as long as the instance
// says, and end with what it says.
type world struct {
	t       *testing.T
	m       *ejection.Machine
	now     time.Time
	start   time.Time
	events  events
	nodes   []*node
	next    int
	rng     *rand.Rand
	timeout time.Duration
	methods []string
	log     []string

	calls, failed int
}

// node is one simulated instance. answer says how long a call takes, and its code; probe whether it answers well.
type node struct {
	*ejection.Instance
	answer    func(method string) (time.Duration, codes.Code)
	probe     func() bool
	calls     int
	connected bool
}

type event struct {
	at time.Time
	n  int
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(a, b int) bool {
	return e[a].at.Before(e[b].at) || e[a].at.Equal(e[b].at) && e[a].n < e[b].n
}
func (e events) Swap(a, b int) { e[a], e[b] = e[b], e[a] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newWorld(t *testing.T, cfg ejection.Config, instances int) *world {
	start := time.Unix(1000, 0)
	w := &world{
		t: t, m: ejection.New(cfg, start), now: start, start: start, rng: rand.New(rand.NewPCG(1, 2)),
		timeout: 5 * time.Second, methods: []string{"/a", "/b"},
	}
	w.m.Steady()
	for n := range instances {
		nd := &node{Instance: w.m.Add(fmt.Sprint(n)), answer: w.well, probe: func() bool { return true }}
		w.nodes = append(w.nodes, nd)
		w.connect(nd, true)
	}
	w.every(100*time.Millisecond, func() {
		w.changed(w.m.Tick(w.now))
		for _, i := range w.m.Due(w.now) {
			var failure error
			if !w.of(i).probe() {
				failure = errSick
			}
			w.after(5*time.Millisecond, func() { w.m.Probed(i, failure, w.now) })
		}
		w.invariants()
	})
	return w
}

// well is how a healthy instance answers: one method is a hundred times as slow as the other, and one call in fifty
// takes ten times as long.
func (w *world) well(method string) (time.Duration, codes.Code) {
	d := time.Millisecond
	if method == "/b" {
		d *= 100
	}
	d = time.Duration(float64(d) * (0.5 + w.rng.ExpFloat64()/2))
	if w.rng.IntN(50) == 0 {
		d *= 10
	}
	return d, codes.OK
}

func (w *world) of(i *ejection.Instance) *node {
	for _, n := range w.nodes {
		if n.Instance == i {
			return n
		}
	}
	w.t.Fatalf("an instance that nobody added: %v", i.Name())
	return nil
}

func (w *world) connect(n *node, yes bool) {
	n.connected = yes
	var list []*ejection.Instance
	for _, n := range w.nodes {
		if n.connected {
			list = append(list, n.Instance)
		}
	}
	w.changed(w.m.Connected(list, w.now))
}

func (w *world) changed(list []ejection.Change) {
	for _, c := range list {
		w.log = append(w.log, fmt.Sprintf("%v %s ejected=%t %s (%s) for %v pardoned=%t", w.now.Sub(w.start), c.Instance.Name(), c.Ejected, c.Reason.Kind, c.Reason.Text, c.For, c.Pardoned))
	}
	w.invariants()
}

// invariants hold at every moment: no more are ejected than may be, and never all.
func (w *world) invariants() {
	connected, out := 0, 0
	for _, n := range w.nodes {
		if n.connected {
			connected++
			if !n.Takes() {
				out++
			}
		}
	}
	if connected > 0 && out > connected/2 {
		w.t.Fatalf("%v: %d of %d instances are ejected\n%v", w.now.Sub(w.start), out, connected, w.log)
	}
}

func (w *world) after(d time.Duration, do func()) {
	heap.Push(&w.events, event{w.now.Add(d), len(w.events), do})
}

func (w *world) every(d time.Duration, do func()) {
	var again func()
	again = func() {
		do()
		w.after(d, again)
	}
	w.after(d, again)
}

// run lets d pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// rate makes calls at a rate per second.
func (w *world) rate(perSecond int) {
	w.every(time.Second/time.Duration(perSecond), func() { w.call(func() {}) })
}

// callers make one call after the other.
func (w *world) callers(n int) {
	for range n {
		var again func()
		again = func() { w.call(again) }
		w.after(0, again)
	}
}

func (w *world) pick() (*node, bool) {
	if i := w.m.Canary(true, w.now); i != nil {
		return w.of(i), true
	}
	for range w.nodes {
		w.next++
		if n := w.nodes[w.next%len(w.nodes)]; n.connected && n.Takes() {
			return n, false
		}
	}
	return nil, false
}

func (w *world) call(done func()) {
	n, canary := w.pick()
	if n == nil {
		w.after(10*time.Millisecond, done)
		return
	}
	method := w.methods[w.rng.IntN(len(w.methods))]
	var c ejection.Call
	n.Begin(&c, method, true, canary, w.now)
	n.calls++
	w.calls++
	took, code := n.answer(method)
	if took > w.timeout {
		took, code = w.timeout, codes.DeadlineExceeded
	}
	w.after(took, func() {
		if code != codes.OK {
			w.failed++
		}
		w.changed(c.End(ejection.OutcomeOf(code), code, took))
		done()
	})
}

// share is node n's share of the calls of the next d.
func (w *world) share(n int, d time.Duration) float64 {
	own, all := w.nodes[n].calls, w.calls
	w.run(d)
	return float64(w.nodes[n].calls-own) / float64(w.calls-all)
}

func (w *world) ejections(node string) (n int) {
	for _, line := range w.log {
		var at, name string
		var yes bool
		if _, err := fmt.Sscanf(line, "%s %s ejected=%t", &at, &name, &yes); err != nil {
			w.t.Fatal(err)
		}
		if yes && (node == "" || node == name) {
			n++
		}
	}
	return n
}
