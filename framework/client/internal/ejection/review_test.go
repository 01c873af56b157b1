package ejection_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

// The filter does not ask the machine about a single instance: nothing would ever let that one in again.
func TestTheLastOneIsNotLeftEjectedThoughItIsNotConnected(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := ejection.New(ejection.Config{Consecutive: 3, SlowAfter: time.Second, BaseTime: time.Second, MaxTime: time.Second, MaxShare: 0.5}, now)
	sick, other := m.Add("sick"), m.Add("other")
	m.Connected([]*ejection.Instance{sick, other}, now)
	for range 3 {
		var c ejection.Call
		now = now.Add(time.Millisecond)
		sick.Begin(&c, "/s/M", true, false, now)
		c.End(ejection.Failed, codes.Unavailable, time.Millisecond)
	}
	if sick.Takes() {
		t.Fatal("not ejected")
	}
	m.Connected([]*ejection.Instance{other}, now)
	m.Remove(other, now)
	m.Tick(now)
	if !sick.Takes() || m.Active() {
		t.Errorf("the only instance takes calls: %v, and ticks go on: %v; want true and false", sick.Takes(), m.Active())
	}
}

// SIGSTOP of the caller: calls in flight on one instance, a pause, a tick, before answers are read.
func TestAPauseOfTheCallerEjectsNobody(t *testing.T) {
	t.Parallel()
	for after, pause := range map[time.Duration]time.Duration{
		500 * time.Millisecond: 5 * time.Second, 2 * time.Second: 5 * time.Second,
		200 * time.Millisecond: 300 * time.Millisecond, 50 * time.Millisecond: 60 * time.Millisecond,
	} {
		t.Run(fmt.Sprintf("%v of %v", pause, after), func(t *testing.T) {
			t.Parallel()
			pauseOfTheCaller(t, after, pause)
		})
	}
}

func pauseOfTheCaller(t *testing.T, after, pause time.Duration) {
	t.Helper()
	now := time.Now()
	m := ejection.New(ejection.Config{Consecutive: 3, SlowFactor: 5, SlowMargin: 5 * time.Millisecond, SlowAfter: after, BaseTime: time.Second, MaxTime: time.Second, MaxShare: 0.5}, now)
	a, b, x := m.Add("a"), m.Add("b"), m.Add("x")
	all := []*ejection.Instance{a, b, x}
	m.Connected(all, now)
	for range 20 {
		for _, i := range all {
			var c ejection.Call
			i.Begin(&c, "/s/M", true, false, now)
			c.End(ejection.Answered, codes.OK, time.Millisecond)
		}
		now = now.Add(50 * time.Millisecond)
		m.Tick(now)
	}
	var cs [3]ejection.Call
	for n := range cs { // the three that run at the moment of the pause happen to be on one
		a.Begin(&cs[n], "/s/M", true, false, now)
	}
	now = now.Add(pause)
	for _, c := range m.Tick(now) {
		t.Errorf("ejected by the caller's own pause: %v", c.Reason)
	}
	for range 30 { // they have no answer after it either
		now = now.Add(100 * time.Millisecond)
		for _, c := range m.Tick(now) {
			if c.Instance == a {
				return
			}
		}
	}
	t.Error("an instance that does not answer is kept for the caller's pause")
}
