package client_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// homes returns who answers each key.
func homes(t *testing.T, c *client.Conn, keys int) map[string]string {
	t.Helper()
	at := map[string]string{}
	for n := range keys {
		key := fmt.Sprintf("user-%d", n)
		addr, err := call(client.WithHashKey(t.Context(), key), c, methodPut)
		if err != nil {
			t.Fatal(err)
		}
		at[key] = addr
	}
	return at
}

func TestCallsOfOneKeyGoToOneInstanceFromAllCallers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.start(t, 4, "", nil)
	_, c := f.connect(t, 4, rule(client.RingHash))
	_, other := f.connect(t, 4, func(p *client.Policy) { p.Balancer, p.RingHash.Header = client.RingHash, "x-user-id" })
	at := homes(t, c, 60)
	if again := homes(t, c, 60); !maps.Equal(at, again) {
		t.Error("keys did not stay where they were")
	}
	by := map[string]int{}
	for key, addr := range at {
		by[addr]++
		got, err := call(metadata.AppendToOutgoingContext(t.Context(), "X-User-Id", key), other, methodPut)
		if err != nil || got != addr {
			t.Errorf("with the key %s in a header another caller was answered by %s, %v; want %s", key, got, err, addr)
		}
	}
	if len(by) != 4 {
		t.Errorf("60 keys are at %d of 4 instances: %v", len(by), by)
	}
}

func TestOnlyTheKeysOfWhoComesOrGoesMove(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	servers := f.start(t, 4, "", nil)
	_, c := f.connect(t, 4, rule(client.RingHash))
	before := homes(t, c, 100)
	f.Drop("user-service", servers[0].addr)
	awaitTakers(t, c, 3)
	without := homes(t, c, 100)
	for key, addr := range before {
		if moved := without[key] != addr; moved != (addr == servers[0].addr) {
			t.Errorf("the key %s was at %s and is at %s, after %s went", key, addr, without[key], servers[0].addr)
		}
	}
	f.put(servers[0], "", 0)
	awaitTakers(t, c, 4)
	if back := homes(t, c, 100); !maps.Equal(before, back) {
		t.Error("keys did not return with their instance")
	}
}

func TestARepeatOfACallWithAKeyGoesToAnotherInstance(t *testing.T) {
	t.Parallel()
	unavailable := func(*server, string, string, grpc.ServerStream) error {
		return status.Error(codes.Unavailable, "broken")
	}
	for name, c := range map[string]struct {
		h      handler
		method string
	}{
		"after a refusal": {func(*server, string, string, grpc.ServerStream) error { return notprocessed.Error("not now") }, methodPut},
		"by gRPC":         {unavailable, methodGet},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			good, bad := f.start(t, 1, "", nil)[0], f.start(t, 1, "", c.h)[0]
			_, conn := f.connect(t, 2, rule(client.RingHash))
			for n := range 20 {
				addr, err := call(client.WithHashKey(t.Context(), fmt.Sprint(n)), conn, c.method)
				if err != nil || addr != good.addr {
					t.Errorf("key %d: %q, %v; want the answer of the other instance", n, addr, err)
				}
			}
			if bad.runs.Load() == 0 {
				t.Error("no key was at the bad instance")
			}
		})
	}
}

// Two of three refuse, and many call: without a memory of who refused it one call in five would meet nobody else in four
// attempts.
func TestRepeatsGoToInstancesThatHaveNotRefusedTheCallYet(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			busy := func(*server, string, string, grpc.ServerStream) error { return notprocessed.Error("busy") }
			good := f.start(t, 1, "", nil)[0]
			f.start(t, 2, "", busy)
			_, c := f.connect(t, 3, func(p *client.Policy) {
				p.Balancer, p.NotProcessed.BudgetRatio, p.Ejection.Enabled = name, 4, false
			})
			var callers loop.Group
			defer callers.Stop()
			failed := make(chan error, 80)
			for range 8 {
				callers.Start(t.Context(), func(ctx context.Context) {
					for range 5 {
						addr, err := call(ctx, c, methodPut)
						if err == nil && addr != good.addr {
							err = fmt.Errorf("answered by %s", addr)
						}
						failed <- err
						s, err := list(ctx, c)
						if err == nil {
							err = s.RecvMsg(&wrapperspb.StringValue{})
						}
						failed <- err
					}
				})
			}
			for range cap(failed) {
				if err := <-failed; err != nil {
					t.Errorf("a call that another instance could have answered: %v", err)
				}
			}
		})
	}
}

func TestMaxLoadSendsTheCallsOfAHotKeyElsewhere(t *testing.T) {
	t.Parallel()
	for load, spread := range map[float64]bool{0: false, 1.25: true} {
		t.Run(fmt.Sprint(load), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			servers := f.start(t, 4, "", hang)
			_, c := f.connect(t, 4, func(p *client.Policy) { p.Balancer, p.RingHash.MaxLoad = client.RingHash, load })
			ctx, cancel := context.WithCancel(client.WithHashKey(t.Context(), "hot"))
			var streams []grpc.ClientStream
			for range 12 {
				s, err := list(ctx, c)
				if err != nil {
					t.Fatal(err)
				}
				streams = append(streams, s)
			}
			total, most := int64(0), int64(0)
			eventually(t, "all calls run", func() bool {
				total, most = 0, 0
				for _, s := range servers {
					total += s.runs.Load()
					most = max(most, s.runs.Load())
				}
				return total == 12
			})
			if most > 4 == spread {
				t.Errorf("with max_load %v one instance has %d of 12 calls of one key", load, most)
			}
			cancel()
			for _, s := range streams {
				_ = s.RecvMsg(nil)
			}
		})
	}
}
