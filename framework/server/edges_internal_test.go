package server

import (
	"strconv"
	"testing"
	"time"
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
