package faulttest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// What is asked of servers and clients over the line.
const (
	opStats    = "stats"
	opMark     = "mark"
	opReport   = "report"
	opAnswered = "answered"
	opStop     = "stop"
)

// wantedKey is the metadata in which clients say which service they mean to call.
const wantedKey = "probe-service"

// drainKey is the trailer of a stream that ended because its server drains. It is what tells the server's own word
// from what a client's transport makes of a connection that broke.
const drainKey = "probe-draining"

// Stats is what a process says of itself.
type Stats struct {
	// Goroutines is their number.
	Goroutines int
	// HeapBytes is what is in use after a garbage collection.
	HeapBytes int64
	// FDs is the number of open files and RSS the memory that the process holds, in bytes; 0 where the system does not
	// tell.
	FDs, RSS int64
	// Executed counts the calls and streams whose handlers ran, Foreign those of them that were meant for another
	// service. Servers only.
	Executed, Foreign int64
	// InFlight is the number of calls under way. Clients only.
	InFlight int64
	// Stalled is the longest time that the process had to wait for its turn on the machine, as its own clock saw it.
	// What takes longer than a busy machine leaves it is no fault of an implementation.
	Stalled time.Duration
}

// selfStats is what a process knows of itself.
func selfStats() Stats {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := Stats{Goroutines: runtime.NumGoroutine(), HeapBytes: int64(m.HeapAlloc)} //nolint:gosec // a heap fits
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.FDs = int64(len(entries))
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64) // 0 is what is said where it is not known
			s.RSS = pages * int64(os.Getpagesize())
		}
	}
	return s
}

// stallInterval is how often a process looks whether it gets its turns.
const stallInterval = 20 * time.Millisecond

// stalls measures Stats.Stalled.
type stalls struct{ worst atomic.Int64 }

func (s *stalls) run(ctx context.Context) {
	for last := time.Now(); backoff.Sleep(ctx, stallInterval) == nil; {
		now := time.Now()
		if late := now.Sub(last) - stallInterval; late > time.Duration(s.worst.Load()) {
			s.worst.Store(int64(late))
		}
		last = now
	}
}

func (s *stalls) stats() Stats {
	out := selfStats()
	out.Stalled = time.Duration(s.worst.Load())
	return out
}

// handlers answer questions by their op.
type handlers map[string]func(ctx context.Context, body json.RawMessage) (any, error)

func (h handlers) handle(ctx context.Context, op string, body json.RawMessage) (any, error) {
	f, ok := h[op]
	if !ok {
		return nil, fmt.Errorf("nothing is known of %q", op)
	}
	return f(ctx, body)
}
