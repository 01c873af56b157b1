package ejection_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

// TestACallAllocatesNothing runs alone: what other tests allocate would count.
func TestACallAllocatesNothing(t *testing.T) {
	now := time.Now()
	m := ejection.New(defaults(), now)
	i := m.Add("a")
	m.Connected([]*ejection.Instance{i, m.Add("b")}, now)
	var c ejection.Call
	if n := testing.AllocsPerRun(100, func() {
		m.Canary(true, now)
		i.Begin(&c, "/method", true, false, now)
		c.End(ejection.Answered, codes.OK, time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCall is a call, without its two looks at the clock.
func BenchmarkCall(b *testing.B) {
	now := time.Now()
	m := ejection.New(defaults(), now)
	i := m.Add("a")
	m.Connected([]*ejection.Instance{i, m.Add("b")}, now)
	b.RunParallel(func(pb *testing.PB) {
		var c ejection.Call
		for pb.Next() {
			i.Begin(&c, "/method", true, false, now)
			c.End(ejection.Answered, codes.OK, time.Millisecond)
		}
	})
}

// BenchmarkTick is a tick with 100 instances of which each has had calls of 20 methods.
func BenchmarkTick(b *testing.B) {
	now := time.Now()
	m := ejection.New(defaults(), now)
	var all []*ejection.Instance
	for range 100 {
		all = append(all, m.Add("a"))
	}
	m.Connected(all, now)
	calls := func() {
		for _, i := range all {
			for n := range 20 {
				var c ejection.Call
				i.Begin(&c, string(rune('a'+n)), true, false, now)
				c.End(ejection.Answered, codes.OK, time.Millisecond)
			}
		}
	}
	for range 5 {
		calls()
	}
	for b.Loop() {
		now = now.Add(100 * time.Millisecond)
		m.Tick(now)
	}
}
