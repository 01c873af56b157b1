package discoverytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// patience bounds every wait of the suites. It is long because it is only waited for when something is broken.
const patience = 20 * time.Second

// Watcher watches one service in the background and remembers all that it was told. It fails its test when an update
// breaks a promise of [discovery.Source]: order, uniqueness, no concurrent yields, and no change to what was handed out before.
type Watcher struct {
	t       *testing.T
	service string
	loop    *loop.Loop
	cancel  context.CancelCauseFunc
	inside  atomic.Int32

	mu      sync.Mutex
	err     error
	updates []discovery.Update
	copies  [][]*discovery.Instance // deep copies made when each update arrived
	changed chan struct{}
}

// NewWatcher starts to watch the service; it is stopped and checked at the end of the test. Each yield first calls
// onYield, when that is not nil, in the watch's own goroutine.
func NewWatcher(t *testing.T, src discovery.Source, service string, onYield func(discovery.Update)) *Watcher {
	t.Helper()
	w := &Watcher{t: t, service: service, changed: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(context.Background())
	w.cancel = cancel
	w.loop = loop.Start(ctx, func(ctx context.Context) {
		err := src.Watch(ctx, service, func(u discovery.Update) {
			if w.inside.Add(1) != 1 {
				t.Errorf("yield was called while an earlier call was still running")
			}
			defer w.inside.Add(-1)
			if onYield != nil {
				onYield(u)
			}
			w.record(u)
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	})
	t.Cleanup(func() { _ = w.Stop(nil) })
	return w
}

func (w *Watcher) record(u discovery.Update) {
	if err := wellFormed(w.service, u); err != nil {
		w.t.Errorf("update of %q: %v", w.service, err)
	}
	deep := make([]*discovery.Instance, len(u.Instances))
	for n, i := range u.Instances {
		deep[n] = i.Clone()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updates = append(w.updates, u)
	w.copies = append(w.copies, deep)
	close(w.changed)
	w.changed = make(chan struct{})
}

func wellFormed(service string, u discovery.Update) error {
	for n, i := range u.Instances {
		if i.Service != service {
			return fmt.Errorf("instance %q is one of service %q", i.Addr, i.Service)
		}
		if n > 0 && u.Instances[n-1].Addr >= i.Addr {
			return fmt.Errorf("%q comes before %q: not sorted or not unique", u.Instances[n-1].Addr, i.Addr)
		}
	}
	return nil
}

// Stop ends the watch with the cause (nil: context.Canceled), waits for it, checks that no update was altered after it was handed out, and returns
// what Watch returned. It is safe to call more than once.
func (w *Watcher) Stop(cause error) error {
	w.cancel(cause)
	w.loop.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, u := range w.updates {
		if !slices.EqualFunc(u.Instances, w.copies[n], (*discovery.Instance).Equal) {
			w.t.Errorf("update %d of %q was altered after it was handed out: it was %v and is %v", n, w.service, brief(w.copies[n]), brief(u.Instances))
		}
	}
	return w.err
}

// Updates returns all updates so far.
func (w *Watcher) Updates() []discovery.Update {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.updates)
}

// Last returns the newest update and how many there have been.
func (w *Watcher) Last() (discovery.Update, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.updates) == 0 {
		return discovery.Update{}, 0
	}
	return w.updates[len(w.updates)-1], len(w.updates)
}

// Wait waits until the newest update satisfies the condition, and fails the test when that takes too long; what names the
// condition in that failure.
func (w *Watcher) Wait(what string, satisfied func(discovery.Update) bool) discovery.Update {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		w.mu.Lock()
		changed, n := w.changed, len(w.updates)
		var u discovery.Update
		if n > 0 {
			u = w.updates[n-1]
		}
		w.mu.Unlock()
		if n > 0 && satisfied(u) {
			return u
		}
		select {
		case <-changed:
		case <-w.loop.Done():
			w.t.Fatalf("waiting for %s: the watch of %q ended: %v", what, w.service, w.err)
		case <-ctx.Done():
			w.t.Fatalf("waiting for %s: not seen within %v; the last of %d updates has %v, error %v", what, patience, n, brief(u.Instances), u.Err)
		}
	}
}

// WaitAddrs waits until exactly these addresses are known.
func (w *Watcher) WaitAddrs(want ...string) discovery.Update {
	w.t.Helper()
	return w.Wait(fmt.Sprintf("addresses %v", want), func(u discovery.Update) bool {
		return u.Known() && slices.Equal(addrs(u.Instances), want)
	})
}

func addrs(instances []*discovery.Instance) []string {
	out := make([]string, len(instances))
	for n, i := range instances {
		out[n] = i.Addr
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

// brief is the addresses for a message that stays readable.
func brief(instances []*discovery.Instance) string {
	const shown = 10
	if len(instances) <= shown {
		return fmt.Sprint(addrs(instances))
	}
	return fmt.Sprintf("%v and %d more", addrs(instances[:shown]), len(instances)-shown)
}
