package faulttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// registryWatch reads all that is written below a prefix of etcd, and remembers who wrote where. It sees who announces
// himself after he has left.
type registryWatch struct {
	c      *Cluster
	prefix string
	reader *loop.Loop

	mu     sync.Mutex
	epoch  int // grows when etcd gets other data
	paused bool
	resume chan struct{}               // closed by again
	first  map[string]map[string]int64 // by address and incarnation: the revision of the first write, in this epoch
	graves map[string][]int64          // by address: revisions at which somebody had left
	dead   map[string]map[string]bool  // by address: incarnations that had left in an earlier epoch
	now    map[string]string           // incarnation by key
	starts map[string]int              // by key: processes that the suite started there; never cleared, as known
	known  map[string]map[string]bool  // by key: incarnations that wrote there
	gone   []removal                   // since the last call of removals
	wrong  []error
}

// removal is a key that went away.
type removal struct {
	key, incarnation string
	at               time.Time
}

func watchRegistry(c *Cluster, prefix string) *registryWatch {
	w := newRegistryWatch(c, prefix)
	w.reader = loop.Start(c.lab.ctx, w.read)
	return w
}

func newRegistryWatch(c *Cluster, prefix string) *registryWatch {
	w := &registryWatch{
		c: c, prefix: prefix, first: map[string]map[string]int64{}, graves: map[string][]int64{},
		dead: map[string]map[string]bool{}, now: map[string]string{}, starts: map[string]int{}, known: map[string]map[string]bool{}, resume: make(chan struct{}),
	}
	close(w.resume)
	return w
}

func (w *registryWatch) stop() { w.reader.Stop() }

// pause is called before etcd gets other data, again when it has them.
func (w *registryWatch) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused, w.resume = true, make(chan struct{})
	w.epoch++
	for addr, revisions := range w.graves {
		for incarnation, first := range w.first[addr] {
			if first <= revisions[len(revisions)-1] {
				putIn(w.dead, addr, incarnation, true)
			}
		}
	}
	clear(w.first)
	clear(w.graves)
	clear(w.now)
}

func (w *registryWatch) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = false
	close(w.resume)
}

func putIn[V any](m map[string]map[string]V, a, b string, v V) {
	if m[a] == nil {
		m[a] = map[string]V{}
	}
	m[a][b] = v
}

// started says that a process starts that will announce itself there. Each has one incarnation.
func (w *registryWatch) started(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starts[key]++
}

// left says that whoever served at addr has ended. Only after a leave that etcd confirmed nothing of him may follow.
func (w *registryWatch) left(addr string, confirmed bool) {
	if !confirmed {
		return
	}
	ctx, cancel := context.WithTimeout(w.c.lab.ctx, probeTimeout)
	defer cancel()
	rev, err := w.c.Revision(ctx)
	if err != nil {
		return // etcd went away just now; there is nothing to compare with
	}
	w.leftAt(addr, rev)
}

func (w *registryWatch) leftAt(addr string, rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.graves[addr] = append(w.graves[addr], rev)
}

// read watches until ctx ends, over all faults.
func (w *registryWatch) read(ctx context.Context) {
	for ctx.Err() == nil {
		w.mu.Lock()
		epoch, resume := w.epoch, w.resume
		w.mu.Unlock()
		select {
		case <-resume:
			w.readOn(ctx, epoch)
		case <-ctx.Done():
		}
		_ = backoff.Sleep(ctx, 5*probePause)
	}
}

// readOn lists and watches until anything ends the watch.
func (w *registryWatch) readOn(ctx context.Context, epoch int) {
	list, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	res, err := w.c.Admin().Get(list, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return
	}
	for _, kv := range res.Kvs {
		w.note(epoch, &clientv3.Event{Type: clientv3.EventTypePut, Kv: kv}, true)
	}
	watch, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	events := w.c.Admin().Watch(watch, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(res.Header.Revision+1), clientv3.WithProgressNotify())
	tick := time.NewTicker(probeTimeout)
	defer tick.Stop()
	for {
		select {
		case batch, ok := <-events:
			if !ok || batch.Err() != nil {
				return
			}
			for _, e := range batch.Events {
				w.note(epoch, e, false)
			}
		case <-tick.C:
			if w.over(epoch) {
				return
			}
		}
	}
}

func (w *registryWatch) over(epoch int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused || w.epoch != epoch
}

// note takes down one write. What is found in a list may have come with an older copy of the data: it tells nothing of
// the time since.
func (w *registryWatch) note(epoch int, e *clientv3.Event, listed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused || w.epoch != epoch {
		return
	}
	key := string(e.Kv.Key)
	service, addr, _ := strings.Cut(strings.TrimPrefix(key, w.prefix), "/")
	if e.Type == clientv3.EventTypeDelete {
		w.gone = append(w.gone, removal{key, w.now[key], time.Now()})
		delete(w.now, key)
		return
	}
	inst, err := discovery.Decode(service, e.Kv.Value)
	if err != nil || inst.Incarnation == "" {
		return
	}
	inc, rev := inst.Incarnation, e.Kv.ModRevision
	if !w.known[key][inc] {
		putIn(w.known, key, inc, true)
		if len(w.known[key]) > w.starts[key] {
			w.wrong = append(w.wrong, violation("I5", "incarnation %s wrote %q at revision %d over %q; the suite started only %d servers there", inc, key, rev, w.now[key], w.starts[key]))
		}
	}
	w.now[key] = inc
	if w.dead[addr][inc] && !listed {
		w.haunts(key, inc, 0, rev)
	}
	if _, known := w.first[addr][inc]; !known {
		putIn(w.first, addr, inc, rev)
	}
	for _, grave := range w.graves[addr] {
		if w.first[addr][inc] <= grave && rev > grave {
			w.haunts(key, inc, grave, rev)
		}
	}
}

func (w *registryWatch) haunts(key, inc string, since, rev int64) {
	w.wrong = append(w.wrong, violation("I4", "incarnation %s wrote %q at revision %d; it had left cleanly by revision %d", inc, key, rev, since))
}

// verdict tells what was wrong so far.
func (w *registryWatch) verdict() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.wrong...)
}

// removals returns what went away since the last call.
func (w *registryWatch) removals() []removal {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.gone
	w.gone = nil
	return out
}

// ViolationError is an invariant that did not hold.
type ViolationError struct {
	// Invariant is I1 to I8, or what else must be.
	Invariant string
	err       error
}

func (v *ViolationError) Error() string { return v.Invariant + " is violated: " + v.err.Error() }

func (v *ViolationError) Unwrap() error { return v.err }

func violation(invariant, format string, args ...any) error {
	return &ViolationError{Invariant: invariant, err: fmt.Errorf(format, args...)}
}
