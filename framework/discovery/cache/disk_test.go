package cache_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

func TestTheLastGoodSetSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "made", "when", "missing")
		r := discoverytest.NewRegistry()
		want := discoverytest.Instance("user", "10.0.0.1:9000")
		want.Weight, want.Zone, want.Metadata = 3, "z1", map[string]string{"team": "blue"}
		r.Put(want, discoverytest.Instance("user", "10.0.0.2:9000"))
		first := newCache(t, r, cache.Options{Dir: dir})
		discoverytest.NewWatcher(t, first, "user", nil).WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
		saved := time.Now()
		wait(t, time.Second)
		first.Close()
		wait(t, time.Hour)

		r.SetErr(errAway)
		second := newCache(t, r, cache.Options{Dir: dir})
		w := discoverytest.NewWatcher(t, second, "user", nil)
		u := w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
		if u.Err == nil || !u.AsOf.Equal(saved) {
			t.Errorf("the update has error %v and is as of %v, want a reason and %v", u.Err, u.AsOf, saved)
		}
		if !u.Instances[0].Equal(want) {
			t.Errorf("instance = %+v, want %+v", u.Instances[0], want)
		}
		r.SetErr(nil)
		w.Wait("the source's answer", func(u discovery.Update) bool { return u.Err == nil && len(u.Instances) == 2 })
	})
}

func TestAChangeStormIsFewWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := discoverytest.NewRegistry()
		c := newCache(t, r, cache.Options{Dir: dir})
		w := discoverytest.NewWatcher(t, c, "user", nil)
		w.WaitAddrs()
		name := filepath.Join(dir, "user.json")
		wait(t, 6*time.Second)
		r.Put(discoverytest.Instance("user", addr(0)))
		synctest.Wait()
		before := size(t, name)
		r.Put(discoverytest.Instance("user", addr(1)))
		synctest.Wait()
		if size(t, name) != before {
			t.Error("the second change was written at once")
		}
		wait(t, 6*time.Second)
		if size(t, name) <= before {
			t.Error("the second change has not been written after 6 s")
		}
		for n := range 2 {
			i := discoverytest.Instance("user", addr(n))
			i.State = discovery.StateDraining
			r.Put(i)
		}
		synctest.Wait()
		r.DropAll("user")
		wait(t, 6*time.Second)
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Errorf("the file of a service without instances is still there: %v", err)
		}
	})
}

func size(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestABadFileIsIgnoredWithOneLine(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"no JSON":       "{",
		"empty":         "",
		"other service": `{"service":"order","instances":[]}`,
		"bad instance":  `{"service":"user","instances":[{"Op":0,"Addr":"nonsense"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "user.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.InfoLevel)
			r := discoverytest.NewRegistry()
			r.Put(discoverytest.Instance("user", "10.0.0.1:9000"))
			c := newCache(t, r, cache.Options{Dir: dir, Log: zap.New(core)})
			w := discoverytest.NewWatcher(t, c, "user", nil)
			w.WaitAddrs("10.0.0.1:9000")
			if n := len(w.Updates()); n != 1 || logs.Len() != 1 {
				t.Errorf("%d updates and %d log lines, want one of each", n, logs.Len())
			}
		})
	}
}

func TestADirectoryThatCannotBeWrittenIsSaidOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a-file")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		core, logs := observer.New(zap.InfoLevel)
		r := discoverytest.NewRegistry()
		c := newCache(t, r, cache.Options{Dir: dir, Log: zap.New(core)})
		discoverytest.NewWatcher(t, c, "user", nil).WaitAddrs()
		for n := range 3 {
			r.Put(discoverytest.Instance("user", addr(n)))
			wait(t, 10*time.Second)
		}
		if n := logs.FilterMessageSnippet("cannot keep").Len(); n != 1 {
			t.Errorf("%d log lines, want 1", n)
		}
	})
}

func TestASetThatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a-file")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r := discoverytest.NewRegistry()
		r.Put(discoverytest.Instance("user", addr(0)))
		c := newCache(t, r, cache.Options{Dir: dir})
		discoverytest.NewWatcher(t, c, "user", nil).WaitAddrs(addr(0))
		wait(t, time.Minute)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		wait(t, time.Minute)
		if _, err := os.Stat(filepath.Join(dir, "user.json")); err != nil {
			t.Errorf("no file a minute after the directory could be made: %v", err)
		}
	})
}
