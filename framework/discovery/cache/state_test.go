package cache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

func TestLookupTellsSinceWhenAndWhoIsLeaving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := discoverytest.NewRegistry()
		leaving := discoverytest.Instance("user", addr(1))
		leaving.State = discovery.StateDraining
		r.Put(discoverytest.Instance("user", addr(0)), leaving)
		c := newCache(t, r, cache.Options{})
		if _, known := c.Lookup("user"); known {
			t.Error("Lookup knows a service that nobody watches")
		}
		began := time.Now()
		discoverytest.NewWatcher(t, c, "user", nil).WaitAddrs(addr(0))
		wait(t, time.Minute)
		st, known := c.Lookup("user")
		if !known || !st.Began.Equal(began) || !st.Failing.IsZero() || len(st.Leaving) != 1 || st.Leaving[0].Addr != addr(1) {
			t.Errorf("state = %+v, want it from %v on with %s leaving", st, began, addr(1))
		}
		failed := time.Now()
		r.SetErr(errAway)
		wait(t, time.Minute)
		if !st.Changed.Equal(began) {
			t.Errorf("changed at %v, want %v", st.Changed, began)
		}
		if st, _ = c.Lookup("user"); !st.Failing.Equal(failed) || st.Update.Err == nil {
			t.Errorf("failing since %v (%v), want since %v", st.Failing, st.Update.Err, failed)
		}
		r.SetErr(nil)
		wait(t, time.Minute)
		if st, _ = c.Lookup("user"); !st.Failing.IsZero() {
			t.Errorf("failing since %v though all is well", st.Failing)
		}
	})
}
