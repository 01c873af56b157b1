package server

import (
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// Callers that come once each, as from an IPv6 network, after the map is full.
func TestManyCallersAreCheap(t *testing.T) {
	l := newLimiter("*", RateLimit{Rate: 0.0001, Burst: 2, PerCaller: true})
	cost := func(from, n int) time.Duration {
		begin := time.Now()
		for i := range n {
			l.of(strconv.Itoa(from + i)).Allow()
		}
		return time.Since(begin) / time.Duration(n)
	}
	empty := cost(0, maxCallers)
	full := cost(maxCallers, 300)
	t.Logf("a new caller costs %s while there is room, %s then, under the lock of all callers", empty, full)
	if full > 100*empty {
		t.Errorf("a new caller costs %d times as much when the map is full", full/empty)
	}
}

// The access log tells why calls were refused in the words of the metric.
func TestTheReasonOfARefusalIsKnownByItsError(t *testing.T) {
	t.Parallel()
	tell := func(metadata.MD) {}
	m := &method{name: "/a.B/C"}
	l := &limited{limiter: newLimiter("/a.B/C", RateLimit{Rate: 5}), account: m}
	for want, err := range map[string]error{
		"overload":   (&shedded{account: m}).refuse(tell),
		"rate_limit": l.refuse(tell, time.Second),
		"(other)":    notprocessed.Later("somebody else's", time.Second),
	} {
		if got := refusedBy(err); got != want || !pushedBack(err) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestTheKindsOfRefusedCallsAreBounded(t *testing.T) {
	t.Parallel()
	var r refusedCalls
	for i := range 3 * mostRefusedKinds {
		r.add(strconv.Itoa(i), notprocessed.Later("too many", time.Second))
	}
	told := r.take(func() bool { return true })
	if n := told[refusedKind{"(other)", "(other)"}].calls; len(told) != mostRefusedKinds+1 || n != 2*mostRefusedKinds || r.waiting.Load() {
		t.Errorf("%d kinds, %d calls together", len(told), n)
	}
}
