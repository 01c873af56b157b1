//go:build unix

package coordination_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Whatever happens to etcd's members, one of many leads at a time, and somebody does again soon.
func TestOneLeadsAtATimeThroughFaultsOfEtcd(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts an etcd of three processes")
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lab, err := faulttest.NewLab(faulttest.LabOptions{Dir: t.TempDir()})
	must(err)
	t.Cleanup(func() { _ = lab.Close() })
	c, err := lab.StartCluster(ctx, faulttest.ClusterConfig{Members: 3, Slow: true})
	must(err)

	a := &alone{t: t}
	var group loop.Group
	for range 3 {
		// The longer the TTL, the longer a busy machine may hold up whoever has to notice the end of a term.
		leader, _ := instance(t, strings.Join(c.Endpoints(), ","), func(o *coordination.Options) { o.TTL, o.CallTimeout = 6*time.Second, 3*time.Second })
		group.Start(ctx, func(ctx context.Context) {
			for ctx.Err() == nil { // Lead returns when its work is done
				_ = leader.Lead(ctx, "job", func(ctx context.Context, h *coordination.Hold) error {
					defer a.enter(h)()
					return backoff.Sleep(ctx, 10*time.Millisecond)
				})
			}
		})
	}
	defer group.Stop()
	goesOn := func(after string) {
		t.Helper()
		began, terms := time.Now(), a.visits.Load()
		eventually(t, "terms after "+after, func() bool { return a.visits.Load() >= terms+10 })
		t.Logf("ten terms in %v after %s", time.Since(began), after)
	}
	goesOn("the start")
	for what, fault := range map[string]func(*faulttest.Member) (heal func() error){
		"a frozen leader": func(m *faulttest.Member) func() error {
			must(m.Freeze(ctx))
			return m.Thaw
		},
		"a leader that is cut off": func(m *faulttest.Member) func() error {
			m.Isolate()
			return func() error { m.Join(); return nil }
		},
	} {
		n, err := c.Leader(ctx)
		must(err)
		heal := fault(c.Member(n))
		goesOn(what)
		must(heal())
		must(c.WaitHealthy(ctx))
		goesOn("the end of " + what)
	}
	stop()
	group.Stop()
}
