package ejection_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

// The filter does not ask the machine about a single instance: nothing would ever let that one in again.
func TestTheLastOneIsNotLeftEjectedThoughItIsNotConnected(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := ejection.New(ejection.Config{Consecutive: 3, BaseTime: time.Second, MaxTime: time.Second, MaxShare: 0.5}, now)
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
