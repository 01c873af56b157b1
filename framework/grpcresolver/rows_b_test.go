package grpcresolver_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// The tests named TestB.. show the failure modes of resolving one by one: those between a cache and gRPC here, those
// between etcd and a cache beside discovery/etcd.

// rowsFull makes the tests named after rows as large as the table of failure modes has them.
var rowsFull = flag.Bool("rows.full", false, "repeat as often as the table of failure modes asks for")

// rowsStrict takes away what a busy machine is excused for.
var rowsStrict = flag.Bool("rows.strict", false, "give a busy machine no more time than a quiet one")

// full is the first number with -rows.full, else the second.
func full(table, usual int) int {
	if *rowsFull {
		return table
	}
	return usual
}

// overheard counts what resolvers ask of a cache.
type overheard struct {
	grpcresolver.Cache
	watches, hints atomic.Int32
}

func (o *overheard) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	o.watches.Add(1)
	return o.Cache.Watch(ctx, service, yield)
}

func (o *overheard) Refresh(service string) {
	o.hints.Add(1)
	o.Cache.Refresh(service)
}

// gRPC answers each state with ErrBadResolverState here, as round_robin does when it dislikes one.
func TestB16AStateThatGRPCDislikesIsNoReasonToAskAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c := primed(t, instance("10.0.0.1:9000"))
		o := &overheard{Cache: c}
		cc, _ := build(t, o, grpcresolver.Options{})
		for n := range 20 {
			r.Put(instance(fmt.Sprintf("10.0.1.%d:9000", n)))
			wait(t, time.Second)
		}
		wait(t, time.Hour)
		states, errs := cc.seen()
		if len(states) != 21 || len(errs) != 0 {
			t.Errorf("%d updates and errors %v, want one for each of 21 sets, and none", len(states), errs)
		}
		if w, h := o.watches.Load(), o.hints.Load(); w != 1 || h != 0 {
			t.Errorf("%d watches and %d hints, want one and none", w, h)
		}
	})
}

// The outage of the registry is not why a call to a dead instance fails.
func TestB17AnOutageDoesNotHideWhyAnInstanceFails(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r)
	s := serve(t, "127.0.0.1:0")
	r.Put(instance(s.addr))
	conn := dial(t, c)
	callUntil(t, conn, s)
	w := discoverytest.NewWatcher(t, c, callee, nil)
	r.SetErr(errors.New("etcd is away"))
	w.Wait("the outage", func(u discovery.Update) bool { return u.Err != nil })
	callUntil(t, conn, s)
	s.Stop()
	<-s.ended
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		_, err := call(ctx, conn)
		if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "etcd is away") {
			t.Fatalf("err = %v, want UNAVAILABLE because of the instance", err)
		}
		if strings.Contains(err.Error(), "connection refused") {
			return
		}
	}
}

// Attempts to reconnect are an hour apart here: only a new connection is of use.
func TestB19ARestartedInstanceIsReachedAtOnce(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r)
	s := serve(t, "127.0.0.1:0")
	r.Put(instance(s.addr))
	conn := dial(t, c, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: time.Hour, Multiplier: 1, MaxDelay: time.Hour},
		MinConnectTimeout: 3 * time.Second,
	}))
	callUntil(t, conn, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var took []time.Duration
	for n := range 50 {
		s.Stop()
		<-s.ended
		for st := conn.GetState(); st != connectivity.TransientFailure; st = conn.GetState() {
			conn.Connect()
			if !conn.WaitForStateChange(ctx, st) {
				t.Fatalf("the connection is %v, want it to notice the death", st)
			}
		}
		s = serve(t, s.addr)
		start := time.Now()
		next := instance(s.addr)
		next.Incarnation = fmt.Sprint("process", n)
		r.Put(next)
		if _, err := call(ctx, conn, grpc.WaitForReady(true)); err != nil {
			t.Fatalf("call: %v", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	const limit = 300 * time.Millisecond
	worst := limit
	if !*rowsStrict && took[49] > limit {
		worst *= 5
		t.Logf("excused: single ones that took up to %v, of a machine that may be busy", took[49])
	}
	t.Logf("from listening to the first call: median %v, worst %v", took[25], took[49])
	if took[25] > limit || took[49] > worst {
		t.Errorf("from listening to the first call: median %v, worst %v, want %v at most", took[25], took[49], limit)
	}
}

func TestB20AStormIsFewUpdatesForEachConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const keys, conns = 1000, 200
		r, c := primed(t, fleet(keys)...)
		ccs := make([]*stub, conns)
		for n := range ccs {
			ccs[n], _ = build(t, c, grpcresolver.Options{Seed: fmt.Sprint(n)})
		}
		wait(t, time.Minute)
		all := fleet(keys)
		for n := range 50 { // 20 keys each 20 ms
			var changed []*discovery.Instance
			for k := range keys / 50 {
				i := all[n*keys/50+k].Clone()
				i.Weight = 7
				changed = append(changed, i)
			}
			r.Put(changed...)
			wait(t, 20*time.Millisecond)
		}
		wait(t, time.Second)
		for n, cc := range ccs {
			states, _ := cc.seen()
			if told := len(states) - 1; told < 1 || told > 15 {
				t.Errorf("connection %d: %d updates for a storm of a second, want 15 at most", n, told)
			}
			last := cc.last()
			if len(last.Endpoints) != grpcresolver.DefaultSubset {
				t.Errorf("connection %d: %d endpoints, want %d", n, len(last.Endpoints), grpcresolver.DefaultSubset)
			}
			for _, e := range last.Endpoints {
				if i, _ := grpcresolver.InstanceOf(e); i.Weight != 7 {
					t.Fatalf("connection %d: %s has weight %d in the end, want the new one", n, i.Addr, i.Weight)
				}
			}
		}
	})
}

// A scheme with capitals would never match, since URLs have none; and what is registered for all is registered too late.
func TestB33TheSchemeIsOneThatMatchesAndIsGivenToEachConnection(t *testing.T) {
	t.Parallel()
	if u, err := url.Parse("ETCD://caller/callee"); err != nil || u.Scheme != grpcresolver.Scheme || strings.ToLower(grpcresolver.Scheme) != grpcresolver.Scheme {
		t.Errorf("a target's scheme is read as %q (%v), and ours is %q", u.Scheme, err, grpcresolver.Scheme)
	}
	if resolver.Get(grpcresolver.Scheme) != nil {
		t.Error("the resolver is registered for all connections of the process")
	}
	r := discoverytest.NewRegistry()
	s := serve(t, "127.0.0.1:0")
	r.Put(instance(s.addr))
	for _, target := range []string{"etcd://gateway/" + callee, "ETCD://gateway/" + callee, "etcd:///" + callee} {
		conn, err := grpc.NewClient(target, grpc.WithResolvers(grpcresolver.NewBuilder(newCache(t, r), grpcresolver.Options{})),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
		callUntil(t, conn, s)
	}
}
