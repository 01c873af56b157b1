package grpcresolver_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/resolver"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// move is one thing that happens to a callee, some time after the one before.
type move struct {
	wait time.Duration
	kind string
	n    int
}

// clock is gRPC's side: it notes when it is told what, and takes its time with it.
type clock struct {
	resolver.ClientConn
	slow time.Duration

	mu     sync.Mutex
	at     []time.Time // of each UpdateState
	last   resolver.State
	errs   []error
	nested bool // it was called while it was working
	busy   bool
}

func (c *clock) UpdateState(st resolver.State) error {
	c.mu.Lock()
	c.nested = c.nested || c.busy
	c.busy, c.last = true, st
	c.at = append(c.at, time.Now())
	c.mu.Unlock()
	_ = backoff.Sleep(context.Background(), c.slow)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	return nil
}

func (c *clock) ReportError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// judge says what was wrong about how gRPC was told, and whether it has what the cache has.
func (c *clock) judge(want []*discovery.Instance, subset int, gap time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nested {
		return fmt.Errorf("gRPC was called while it was working")
	}
	for n := 1; n < len(c.at); n++ {
		if d := c.at[n].Sub(c.at[n-1]); d < gap {
			return fmt.Errorf("two updates within %v, want at least %v between them", d, gap)
		}
	}
	if len(want) == 0 {
		if len(c.at) > 0 && len(c.last.Endpoints) > 0 {
			return fmt.Errorf("gRPC has %d instances, there are none", len(c.last.Endpoints))
		}
		if len(c.errs) == 0 {
			return fmt.Errorf("nobody told gRPC why there is nothing")
		}
		return nil
	}
	have := addrsOf(c.last)
	if len(have) != min(len(want), subset) || len(c.last.Addresses) != len(have) || !slices.IsSorted(have) {
		return fmt.Errorf("gRPC has %v, there are %d", have, len(want))
	}
	for _, e := range c.last.Endpoints {
		i, ok := grpcresolver.InstanceOf(e)
		if !ok || !slices.ContainsFunc(want, i.Equal) {
			return fmt.Errorf("gRPC has %+v, which is not so", i)
		}
	}
	return nil
}

func drawMoves(t *rapid.T) []move {
	one := rapid.Custom(func(t *rapid.T) move {
		unit := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 20 * time.Millisecond, time.Second}).Draw(t, "unit")
		return move{
			unit * time.Duration(rapid.IntRange(1, 9).Draw(t, "times")),
			rapid.SampledFrom([]string{"join", "join", "change", "drain", "die", "storm", "all", "away", "back", "resolve", "rebuild"}).Draw(t, "kind"),
			rapid.IntRange(0, 99).Draw(t, "n"),
		}
	})
	return rapid.SliceOfN(one, 1, 30).Draw(t, "moves")
}

func TestModelResolverTellsLittleAndEndsUpRight(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	var virtual time.Duration
	rapid.Check(t, func(rt *rapid.T) {
		moves := drawMoves(rt)
		subset := rapid.SampledFrom([]int{3, 100}).Draw(rt, "subset")
		slow := time.Duration(rapid.SampledFrom([]int{0, 1, 200}).Draw(rt, "slow")) * time.Millisecond
		var err error
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			err = runResolver(t, moves, subset, slow)
			virtual += time.Since(start)
		})
		if err != nil {
			rt.Fatalf("%v\nafter %v", err, moves)
		}
	})
	took := time.Since(begin)
	t.Logf("%.2f virtual hours in %v: %.1f in a second", virtual.Hours(), took.Round(time.Millisecond), virtual.Hours()/took.Seconds())
}

func runResolver(t *testing.T, moves []move, subset int, slow time.Duration) error {
	const gap = 50 * time.Millisecond
	r := discoverytest.NewRegistry()
	c := cache.New(r, cache.Options{HoldTTL: time.Minute})
	defer c.Close()
	cc := &clock{slow: slow}
	b := grpcresolver.NewBuilder(c, grpcresolver.Options{Subset: subset, Seed: "caller"})
	u := target(t, "etcd://gateway/"+callee)
	build := func() (resolver.Resolver, error) { return b.Build(u, cc, resolver.BuildOptions{}) }
	res, err := build()
	if err != nil {
		return err
	}
	for _, m := range moves {
		if err := backoff.Sleep(t.Context(), m.wait); err != nil {
			return err
		}
		addr := fmt.Sprintf("10.0.0.%d:9000", m.n%12)
		i := instance(addr)
		switch m.kind {
		case "join":
			r.Put(i)
		case "change":
			i.Weight = 1 + m.n
			r.Put(i)
		case "drain":
			i.State = discovery.StateDraining
			r.Put(i)
		case "die":
			r.Drop(callee, addr)
		case "storm":
			for n := range 200 {
				i := instance(fmt.Sprintf("10.0.1.%d:9000", n%(1+m.n)))
				i.Weight = 1 + n
				r.Put(i)
				if n%5 == 0 {
					_ = backoff.Sleep(t.Context(), time.Millisecond)
				}
			}
		case "all":
			for _, i := range r.Instances(callee) {
				r.Drop(callee, i.Addr)
			}
		case "away":
			r.SetErr(fmt.Errorf("the registry is away"))
		case "back":
			r.SetErr(nil)
		case "resolve":
			for range 100 {
				res.ResolveNow(resolver.ResolveNowOptions{})
			}
		case "rebuild": // as gRPC does after it was idle; it starts with an empty mind
			res.Close()
			fresh := &clock{slow: slow}
			cc = fresh
			if res, err = build(); err != nil {
				return err
			}
		}
	}
	r.SetErr(nil)
	defer func() { res.Close() }()
	_ = backoff.Sleep(t.Context(), 2*time.Second+2*slow)
	synctest.Wait()
	snap, _ := c.Snapshot(callee)
	return cc.judge(snap.Instances, subset, gap)
}
