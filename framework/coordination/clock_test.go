package coordination_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/coordination"
)

// A machine that is suspended stops the clock that Go measures time by; only the time of day has moved when it is back.
func TestAHoldEndsWhenTheMachineWasSuspended(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c, _ := instance(t, e.Addr(), func(o *coordination.Options) { o.TTL = 20 * time.Second })
	var suspended atomic.Int64
	coordination.SetTimeOfDay(c, func() time.Time { return time.Now().Add(time.Duration(suspended.Load())) })
	asked, err := c.Lock(limit(t), "asked")
	if err != nil {
		t.Fatal(err)
	}
	watched, err := c.Lock(limit(t), "watched")
	if err != nil {
		t.Fatal(err)
	}
	suspended.Store(int64(-time.Hour)) // set back: the other clock counts
	if asked.Err() != nil {
		t.Errorf("it ended with a clock that was set back: %v", asked.Err())
	}
	suspended.Store(int64(10 * time.Second)) // shorter than the lease
	if asked.Err() != nil {
		t.Errorf("it ended after a short pause: %v", asked.Err())
	}
	began := time.Now()
	suspended.Store(int64(time.Hour))
	if err := asked.Err(); !errors.Is(err, coordination.ErrLost) || time.Since(began) > 400*time.Millisecond {
		t.Errorf("err = %v after %v", err, time.Since(began))
	}
	contains(t, asked.Err(), "suspended")
	until(t, "the end of the context", watched.Context().Done())
	if cause := context.Cause(watched.Context()); !errors.Is(cause, coordination.ErrLost) || time.Since(began) > 8*time.Second {
		t.Errorf("it ended after %v: %v", time.Since(began), cause)
	}
	_, _ = asked.Release(), watched.Release()
}
