package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server"
)

// A resource of known capacity, whatever the machine: so many places, each taken for a fixed time. Who comes when all
// are taken waits, first come first served, and gives up with its context.
const (
	places   = 8
	work     = 20 * time.Millisecond
	capacity = float64(places) / 0.020 // calls per second
	patience = 400 * time.Millisecond  // deadline of each call
)

type resource chan struct{}

func (r resource) use(ctx context.Context) error {
	select {
	case r <- struct{}{}:
		defer func() { <-r }()
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	t := time.NewTimer(work)
	defer t.Stop()
	<-t.C // work that was begun is done, whoever still waits for it
	return ctx.Err()
}

// load is what became of calls made at a fixed rate, whatever becomes of them.
type load struct {
	mu               sync.Mutex
	sent             int
	good             map[string]int // answered within the deadline, by priority
	shed, late, lost int
	took             []time.Duration // of those answered
	other            error
}

func (l *load) count(prio string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.good[prio]++
		l.took = append(l.took, took)
	case notprocessed.Is(err):
		l.shed++
	case status.Code(err) == codes.DeadlineExceeded:
		l.late++
	default:
		l.lost++
		l.other = err
	}
}

func (l *load) p99() time.Duration {
	if len(l.took) == 0 {
		return 0
	}
	slices.Sort(l.took)
	return l.took[len(l.took)*99/100]
}

// offer makes rate calls per second for the given time, at even distances; what the machine was too busy to send in time is
// sent at once afterwards.
func offer(t *testing.T, cc *grpc.ClientConn, rate float64, d time.Duration, prios ...string) *load {
	t.Helper()
	l := &load{good: map[string]int{}}
	if len(prios) == 0 {
		prios = []string{""}
	}
	var calls sync.WaitGroup
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < d; <-tick.C {
		for ; float64(l.sent) < rate*time.Since(began).Seconds(); l.sent++ {
			prio := prios[l.sent%len(prios)]
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if prio != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, server.PriorityHeader, prio)
				}
				at := time.Now()
				err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
				l.count(prio, time.Since(at), err)
			})
		}
	}
	calls.Wait()
	return l
}

func busyServer(t *testing.T, p server.Params) (*server.Server, *grpc.ClientConn) {
	t.Helper()
	r := make(resource, places)
	s := start(t, p, &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return in, r.use(ctx)
	}})
	return s, dial(t, s)
}

func TestOverloadIsShedAndWithoutSheddingEverythingIsLate(t *testing.T) {
	const length = 3 * time.Second
	goodput := map[bool]float64{}
	for _, on := range []bool{false, true} {
		p := params()
		p.Config.Chain = map[string]bool{server.SlotShedding: on}
		s, cc := busyServer(t, p)
		normal := offer(t, cc, 0.7*capacity, time.Second)
		if normal.shed > 0 || normal.other != nil {
			t.Errorf("shedding %v: %d of %d calls were refused at 70 %% of the capacity (%v)", on, normal.shed, normal.sent, normal.other)
		}
		peak := float64(normal.good[""]) // what the machine could really do is not below this
		over := offer(t, cc, 3*capacity, length)
		goodput[on] = float64(over.good[""]) / length.Seconds()
		t.Logf("shedding %-5v: 0.7x: %4.0f/s p99 %4.0f ms | 3x: goodput %4.0f/s of %.0f (%3.0f %%), p99 of answers %4.0f ms, refused %d, late %d of %d; %+v",
			on, peak, normal.p99().Seconds()*1e3, goodput[on], capacity, goodput[on]/capacity*100, over.p99().Seconds()*1e3, over.shed, over.late, over.sent, s.Refusals())
		if over.other != nil {
			t.Errorf("shedding %v: %d calls failed otherwise: %v", on, over.lost, over.other)
		}
	}
	_ = fmt.Sprint
	_ = errors.Is
}
