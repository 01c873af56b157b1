package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// sticky is a registry whose watches take a second to end.
type sticky struct{ *discoverytest.Registry }

func (s sticky) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	err := s.Registry.Watch(ctx, service, yield)
	_ = backoff.Sleep(context.WithoutCancel(ctx), time.Second)
	return err
}

func TestAnEntryThatEndsDoesNotOverwriteWhatItsSuccessorSaved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := discoverytest.NewRegistry()
		c := cache.New(sticky{r}, cache.Options{Linger: -1, HoldTTL: -1, Dir: dir})
		defer c.Close()
		watch := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = c.Watch(ctx, "user", func(discovery.Update) {})
			}()
			synctest.Wait()
			return func() { cancel(); <-done; synctest.Wait() }
		}
		pass := func(d time.Duration) {
			_ = backoff.Sleep(t.Context(), d)
			synctest.Wait()
		}
		r.Put(discoverytest.Instance("user", "10.0.0.1:1"))
		stop := watch()
		pass(time.Second)
		r.Put(discoverytest.Instance("user", "10.0.0.2:1")) // too soon after the last time to be saved at once
		synctest.Wait()
		stop() // the entry has something to save, and a second to live
		r.Put(discoverytest.Instance("user", "10.0.0.3:1"))
		stop = watch()
		pass(10 * time.Second)
		data, err := os.ReadFile(filepath.Join(dir, "user.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), "10.0.0.3:1") {
			t.Errorf("the newest set is not on disk: %s", data)
		}
		stop()
	})
}
