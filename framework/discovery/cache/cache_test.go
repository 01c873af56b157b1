package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
)

func TestMain(m *testing.M) {
	fakeetcd.AllowBubbles()
	goleak.VerifyTestMain(m)
}

var errAway = errors.New("the registry is away")

func newCache(t *testing.T, src discovery.Source, opt cache.Options) *cache.Cache {
	t.Helper()
	c := cache.New(src, opt)
	t.Cleanup(c.Close)
	return c
}

func addrs(instances []*discovery.Instance) []string {
	out := []string{}
	for _, i := range instances {
		out = append(out, i.Addr)
	}
	return out
}

func TestCacheIsASource(t *testing.T) {
	t.Parallel()
	discoverytest.TestSource(t, func(t *testing.T) discoverytest.SourceHarness {
		r := discoverytest.NewRegistry()
		c := newCache(t, r, cache.Options{})
		return discoverytest.SourceHarness{
			Source: c,
			Put:    func(_ *testing.T, i *discovery.Instance) { r.Put(i) },
			Remove: func(t *testing.T, service, addr string) { leave(t, r, c, service, addr) },
			Break: func(*testing.T) func() {
				r.SetErr(errAway)
				return func() { r.SetErr(nil) }
			},
		}
	})
}

// leave takes an instance away as a graceful stop does: it is marked first, and removed once the cache has seen that.
func leave(t *testing.T, r *discoverytest.Registry, c *cache.Cache, service, addr string) {
	t.Helper()
	for _, i := range r.Instances(service) {
		if i.Addr == addr {
			marked := i.Clone()
			marked.State = discovery.StateDraining
			r.Put(marked)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_ = c.Watch(ctx, service, func(u discovery.Update) {
		if !slices.ContainsFunc(u.Instances, func(i *discovery.Instance) bool {
			return i.Addr == addr && i.State == discovery.StateUp
		}) {
			cancel()
		}
	})
	r.Drop(service, addr)
}

// counting counts the watches that are opened at the source below it, and the hints.
type counting struct {
	discovery.Source
	opened, hints atomic.Int32
}

func (c *counting) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	c.opened.Add(1)
	return c.Source.Watch(ctx, service, yield)
}

func (c *counting) Refresh(string) { c.hints.Add(1) }

func TestManyWatchersShareOneWatch(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	src := &counting{Source: r}
	c := newCache(t, src, cache.Options{})
	r.Put(discoverytest.Instance("user", "10.0.0.1:9000"))
	watchers := make([]*discoverytest.Watcher, 500)
	for n := range watchers {
		watchers[n] = discoverytest.NewWatcher(t, c, "user", nil)
	}
	for _, w := range watchers {
		w.WaitAddrs("10.0.0.1:9000")
	}
	r.Put(discoverytest.Instance("user", "10.0.0.2:9000"))
	for _, w := range watchers {
		w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
	}
	if n := src.opened.Load(); n != 1 {
		t.Errorf("%d watches were opened at the source, want 1", n)
	}
	if st := c.State(); len(st) != 1 || st[0].Watchers != 500 || st[0].Service != "user" {
		t.Errorf("state = %+v, want one service with 500 watchers", st)
	}
}

func TestTheWatchLingers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := discoverytest.NewRegistry()
		src := &counting{Source: r}
		c := newCache(t, src, cache.Options{Linger: time.Minute})
		r.Put(discoverytest.Instance("user", "10.0.0.1:9000"))
		if _, known := c.Snapshot("user"); known || r.Watches("user") != 0 {
			t.Error("Snapshot of a service nobody watches is known, or has started something")
		}
		w := discoverytest.NewWatcher(t, c, "user", nil)
		w.WaitAddrs("10.0.0.1:9000")
		_ = w.Stop(nil)

		wait(t, 59*time.Second)
		r.Put(discoverytest.Instance("user", "10.0.0.2:9000"))
		synctest.Wait()
		if u, known := c.Snapshot("user"); !known || len(u.Instances) != 2 {
			t.Errorf("snapshot after 59 s = %v, %v, want both instances", addrs(u.Instances), known)
		}
		again := discoverytest.NewWatcher(t, c, "user", nil)
		again.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
		wait(t, time.Hour)
		if n := src.opened.Load(); n != 1 || r.Watches("user") != 1 {
			t.Errorf("%d watches opened, %d open, want one for all that time", n, r.Watches("user"))
		}
		_ = again.Stop(nil)
		wait(t, 61*time.Second)
		if _, known := c.Snapshot("user"); known || r.Watches("user") != 0 || len(c.State()) != 0 {
			t.Error("the watch goes on although nobody has wanted it for a minute")
		}
	})
}

// wait lets fake time pass and everything settle.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
	synctest.Wait()
}

func TestRefreshIsPassedOnNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src := &counting{Source: discoverytest.NewRegistry()}
		c := newCache(t, src, cache.Options{})
		c.Refresh("user")
		if n := src.hints.Load(); n != 0 {
			t.Errorf("%d hints for a service nobody watches, want none", n)
		}
		discoverytest.NewWatcher(t, c, "user", nil).WaitAddrs()
		for range 10_000 {
			c.Refresh("user")
		}
		wait(t, 6*time.Second)
		c.Refresh("user")
		if n := src.hints.Load(); n != 2 {
			t.Errorf("%d hints reached the source, want 2", n)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r, cache.Options{})
	returned := make(chan error, 1)
	started := discoverytest.NewWatcher(t, c, "other", nil)
	started.WaitAddrs()
	_ = started.Stop(nil)
	entered := make(chan struct{})
	go func() {
		returned <- c.Watch(t.Context(), "user", func(discovery.Update) { close(entered) })
	}()
	<-entered
	c.Close()
	if err := <-returned; !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("Watch = %v, want ErrClosed", err)
	}
	if n := r.Watches("user") + r.Watches("other"); n != 0 {
		t.Errorf("%d watches of the source are left, want none", n)
	}
	if err := c.Watch(t.Context(), "user", func(discovery.Update) {}); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("Watch after Close = %v, want ErrClosed", err)
	}
	c.Close()
}

// fickle is a source that breaks its contract: its watches end by themselves.
type fickle struct{ calls atomic.Int32 }

func (f *fickle) Watch(_ context.Context, service string, yield func(discovery.Update)) error {
	n := f.calls.Add(1)
	if n > 3 {
		yield(discovery.Update{Instances: []*discovery.Instance{discoverytest.Instance(service, fmt.Sprintf("10.0.0.%d:1", n))}})
	}
	return errAway
}

func TestASourceThatGivesUpIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src := &fickle{}
		c := newCache(t, src, cache.Options{})
		w := discoverytest.NewWatcher(t, c, "user", nil)
		w.Wait("the reason why nothing is known", func(u discovery.Update) bool { return !u.Known() && errors.Is(u.Err, errAway) })
		w.WaitAddrs("10.0.0.4:1")
		_ = w.Stop(nil)
		c.Close()
	})
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r, cache.Options{Linger: -1, Dir: t.TempDir()})
	r.Put(discoverytest.Instance("user", "10.0.0.1:9000"))
	ends := make(chan struct{})
	const workers = 8
	for n := range workers {
		go func() {
			defer func() { ends <- struct{}{} }()
			for k := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				_ = c.Watch(ctx, "user", func(u discovery.Update) {
					if u.Known() {
						cancel()
					}
				})
				cancel()
				c.Refresh("user")
				c.Snapshot("user")
				c.State()
				r.Put(discoverytest.Instance("user", fmt.Sprintf("10.1.%d.%d:9000", n, k)))
			}
		}()
	}
	for range workers {
		<-ends
	}
	discoverytest.NewWatcher(t, c, "user", nil).Wait("all", func(u discovery.Update) bool { return len(u.Instances) == workers*200+1 })
}

// fed is a source that a benchmark feeds by hand.
type fed chan discovery.Update

func (f fed) Watch(ctx context.Context, _ string, yield func(discovery.Update)) error {
	for {
		select {
		case u := <-f:
			yield(u)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			src := make(fed)
			c := cache.New(src, cache.Options{})
			defer c.Close()
			all := make([]*discovery.Instance, 0, size+1)
			for n := range size {
				all = append(all, discoverytest.Instance("user", fmt.Sprintf("10.0.%03d.%03d:9000", n/250, n%250)))
			}
			seen, ended := make(chan struct{}), make(chan struct{})
			ctx, cancel := context.WithCancel(b.Context())
			go func() {
				defer close(ended)
				_ = c.Watch(ctx, "user", func(discovery.Update) { seen <- struct{}{} })
			}()
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				joined := discoverytest.Instance("user", fmt.Sprintf("10.9.0.%03d:9000", n%250))
				src <- discovery.Update{Instances: append(slices.Clone(all), joined), Revision: int64(n)}
				<-seen
			}
			cancel()
			<-ended
		})
	}
}
