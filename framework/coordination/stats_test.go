package coordination_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func TestStatsTellWhoHoldsAndWaits(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c, cli := instance(t, e.Addr(), nil)
	is := func(want ...coordination.Stats) {
		t.Helper()
		got := func() string {
			return cmp.Diff(want, c.Stats(), cmpopts.IgnoreFields(coordination.Stats{}, "Waited"))
		}
		eventually(t, "these numbers", func() bool { return got() == "" })
	}
	h, err := c.TryLock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	is(coordination.Stats{Kind: "lock", Name: "import", Held: 1, Terms: 1})
	second := make(chan *coordination.Hold, 1)
	waits := loop.Start(limit(t), func(ctx context.Context) {
		h, err := c.Lock(ctx, "import")
		if err != nil {
			t.Error(err)
		}
		second <- h
	})
	defer waits.Stop()
	is(coordination.Stats{Kind: "lock", Name: "import", Held: 1, Waiting: 1, Terms: 1})
	before := c.Stats()[0].Waited
	eventually(t, "that waiting is counted while it lasts", func() bool { return c.Stats()[0].Waited > before })
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	h = until(t, "the second", second)
	is(coordination.Stats{Kind: "lock", Name: "import", Held: 1, Terms: 2})
	if after := c.Stats()[0].Waited; after <= before || after != c.Stats()[0].Waited {
		t.Errorf("waited %v, then %v", before, after)
	}
	if _, err := cli.Delete(limit(t), h.Key()); err != nil {
		t.Fatal(err)
	}
	is(coordination.Stats{Kind: "lock", Name: "import", Terms: 2, Lost: 1})
	_ = h.Release()

	k := lead(t, c, "report")
	until(t, "the leadership", k.terms)
	is(coordination.Stats{Kind: "leader", Name: "report", Held: 1, Terms: 1}, coordination.Stats{Kind: "lock", Name: "import", Terms: 2, Lost: 1})
	k.loop.Stop()
	is(coordination.Stats{Kind: "leader", Name: "report", Terms: 1}, coordination.Stats{Kind: "lock", Name: "import", Terms: 2, Lost: 1})
}

// Names may come from data.
func TestStatsOfManyNamesAreBounded(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c, _ := instance(t, e.Addr(), func(o *coordination.Options) { o.TTL = time.Minute })
	for i := range 110 {
		h, err := c.TryLock(limit(t), fmt.Sprint("order-", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
	}
	all := c.Stats()
	if len(all) != 101 || all[0].Name != coordination.OtherNames || all[0].Terms != 10 || all[0].Held != 0 {
		t.Errorf("%d names, the first is %+v", len(all), all[0])
	}
}
