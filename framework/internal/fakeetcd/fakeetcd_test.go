package fakeetcd_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
)

func TestMain(m *testing.M) {
	fakeetcd.AllowBubbles()
	goleak.VerifyTestMain(m)
}

func start(t *testing.T) (*fakeetcd.Server, *clientv3.Client) {
	t.Helper()
	s := fakeetcd.New()
	t.Cleanup(s.Close)
	cli, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return s, cli
}

func TestAnHourOfRenewalsPassesInNoTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, cli := start(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		lease, err := cli.Grant(ctx, 15)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Put(ctx, "/a", "1", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		kctx, stop := context.WithCancel(ctx)
		defer stop()
		acks, err := cli.KeepAlive(kctx, lease.ID)
		if err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(59 * time.Minute)
		n := 0
		for time.Now().Before(end) {
			if _, ok := <-acks; !ok {
				t.Fatal("renewals ended")
			}
			n++
		}
		if n < 600 || s.Get("/a") == nil {
			t.Fatalf("%d renewals", n)
		}
		stop()
		gone := cli.Watch(ctx, "/a", clientv3.WithRev(s.Revision()+1))
		begin := time.Now()
		if wr := <-gone; len(wr.Events) != 1 || time.Since(begin) > 16*time.Second {
			t.Fatalf("got %+v after %v, want that the key is gone with its lease", wr, time.Since(begin))
		}
	})
}
