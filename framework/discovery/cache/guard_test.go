package cache_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// world is a registry, a cache over it and fake time.
type world struct {
	t *testing.T
	*discoverytest.Registry
	cache *cache.Cache
}

func addr(n int) string { return fmt.Sprintf("10.0.0.%d:9000", 10+n) }

func (w *world) join(from, to int) {
	for n := from; n < to; n++ {
		w.Put(discoverytest.Instance("user", addr(n)))
	}
	synctest.Wait()
}

func (w *world) drain(n int) {
	i := discoverytest.Instance("user", addr(n))
	i.State = discovery.StateDraining
	w.Put(i)
	synctest.Wait()
}

func (w *world) die(from, to int) {
	for n := from; n < to; n++ {
		w.Drop("user", addr(n))
	}
	synctest.Wait()
}

// wipe lets all vanish at one moment.
func (w *world) wipe() {
	w.DropAll("user")
	synctest.Wait()
}

// want checks what is published: the instances with these numbers.
func (w *world) want(when string, numbers ...int) {
	w.t.Helper()
	want := []string{}
	for _, n := range numbers {
		want = append(want, addr(n))
	}
	slices.Sort(want)
	u, known := w.cache.Snapshot("user")
	if got := addrs(u.Instances); !known || !slices.Equal(got, want) {
		w.t.Errorf("%s: published %v, want %v", when, got, want)
	}
}

func span(from, to int) []int {
	var out []int
	for n := from; n < to; n++ {
		out = append(out, n)
	}
	return out
}

func (w *world) state() cache.ServiceState { return w.cache.State()[0] }

func TestGuard(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]func(*world){
		"a service that never had instances is empty": func(w *world) {
			w.want("at the start")
			if w.state().Guarding {
				w.t.Error("the guard holds although there is nothing to hold")
			}
		},
		"a deleted prefix is held, and let go in the end": func(w *world) {
			w.join(0, 10)
			w.wipe()
			w.want("after the deletion", span(0, 10)...)
			if st := w.state(); !st.Guarding || len(st.Held) != 10 || st.Held[0].Until.Sub(st.Held[0].Since) != 5*time.Minute {
				w.t.Errorf("state = %+v, want a guard that holds 10 for 5 minutes", st)
			}
			wait(w.t, 5*time.Minute-time.Second)
			w.want("a second before the end", span(0, 10)...)
			wait(w.t, 2*time.Second)
			w.want("after the end")
			if st := w.state(); st.Guarding || len(st.Held) != 0 {
				w.t.Errorf("state = %+v, want nothing held", st)
			}
		},
		"the return of most ends the alarm": func(w *world) {
			w.join(0, 10)
			w.wipe()
			w.join(0, 7)
			w.want("with 7 of 10 back", span(0, 10)...)
			w.join(7, 8)
			w.want("with 8 of 10 back", span(0, 8)...)
			if st := w.state(); st.Guarding || len(st.Held) != 2 {
				w.t.Errorf("state = %+v, want no alarm and 2 remembered", st)
			}
		},
		"half of them vanishing within a minute is an alarm": func(w *world) {
			w.join(0, 10)
			w.die(0, 4)
			w.want("after 4 of 10", span(4, 10)...)
			wait(w.t, 50*time.Second)
			w.die(4, 5)
			w.want("after 5 of 10", span(0, 10)...)
		},
		"half of them vanishing slowly is none": func(w *world) {
			w.join(0, 10)
			for n := range 5 {
				w.die(n, n+1)
				wait(w.t, 61*time.Second)
			}
			w.want("after 5 of 10", span(5, 10)...)
		},
		"half of what has grown since the first death is an alarm": func(w *world) {
			w.join(0, 3)
			w.die(0, 1)
			wait(w.t, time.Second)
			w.join(3, 23)
			w.die(3, 20)
			w.want("after most vanished", span(0, 23)...)
		},
		"a rolling restart on new addresses is none": func(w *world) {
			w.join(0, 10)
			for n := range 10 {
				w.die(n, n+1)
				w.join(10+n, 11+n)
				w.want("during the restart", span(n+1, 11+n)...)
				wait(w.t, time.Second)
			}
		},
		"a restart on the same addresses is none": func(w *world) {
			w.join(0, 4)
			for n := range 4 {
				w.die(n, n+1)
				w.join(n, n+1)
			}
			w.want("at the end", span(0, 4)...)
			if st := w.state(); st.Guarding || len(st.Held) != 0 {
				w.t.Errorf("state = %+v, want nothing held", st)
			}
		},
		"one of several leaving without a mark goes at once": func(w *world) {
			w.join(0, 3)
			w.die(1, 2)
			w.want("after the death", 0, 2)
		},
		"one of two that drains goes at once": func(w *world) {
			w.join(0, 2)
			w.drain(0)
			w.want("while it drains", 1)
			w.die(0, 1)
			w.want("after it left", 1)
			if st := w.state(); len(st.Held) != 0 {
				w.t.Errorf("held = %v, want nothing", st.Held)
			}
		},
		"the only one stays in use while it drains and then goes at once": func(w *world) {
			w.join(0, 1)
			w.drain(0)
			w.want("while it drains", 0)
			w.die(0, 1)
			w.want("after it left")
		},
		"the only one is held when it vanishes": func(w *world) {
			w.join(0, 1)
			w.die(0, 1)
			w.want("after it vanished", 0)
			wait(w.t, 6*time.Minute)
			w.want("after the end")
		},
		"all draining is all in use": func(w *world) {
			w.join(0, 3)
			for n := range 3 {
				w.drain(n)
			}
			w.want("while all drain", span(0, 3)...)
		},
		"a held one is not preferred to one that drains": func(w *world) {
			w.join(0, 2)
			w.die(0, 1)
			w.drain(1)
			w.want("held and draining", 0, 1)
		},
		"those that left gracefully do not come back with the alarm": func(w *world) {
			w.join(0, 4)
			w.drain(0)
			w.die(0, 1)
			w.wipe()
			w.want("after the rest vanished", span(1, 4)...)
		},
		"a newcomer takes no place of those that vanished": func(w *world) {
			w.join(0, 4)
			w.wipe()
			w.join(4, 5)
			w.want("beside the four that vanished", span(0, 5)...)
		},
		"no more are held in use than there ever were at once": func(w *world) {
			w.join(0, 4)
			for n := 4; n < 24; n += 4 { // they come and die, always on new addresses
				w.join(n, n+4)
				wait(w.t, time.Second)
				w.die(n, n+4)
			}
			w.want("after five times four", append(span(0, 4), span(16, 24)...)...)
		},
		"a held one that returns draining is forgotten": func(w *world) {
			w.join(0, 2)
			w.wipe()
			w.join(1, 2)
			w.drain(0)
			w.die(0, 1)
			w.want("after it left", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := discoverytest.NewRegistry()
				w := &world{t: t, Registry: r, cache: newCache(t, r, cache.Options{})}
				discoverytest.NewWatcher(t, w.cache, "user", nil).WaitAddrs()
				story(w)
			})
		})
	}
}

func TestTheGuardCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r, cache.Options{HoldTTL: -1})
	r.Put(discoverytest.Instance("user", addr(0)))
	w := discoverytest.NewWatcher(t, c, "user", nil)
	w.WaitAddrs(addr(0))
	r.Drop("user", addr(0))
	w.WaitAddrs()
}

// The log names what vanished, and when; it speaks of many only where many did.
func TestWhatTheGuardSays(t *testing.T) {
	t.Parallel()
	const stay = "; they stay in use until they return or their time is up"
	for name, tc := range map[string]struct {
		story    func(*world)
		level    zapcore.Level
		text     string
		vanished []any
	}{
		"half of them": {func(w *world) { w.join(0, 4); w.die(0, 2) }, zapcore.WarnLevel,
			"many instances vanished at once without draining", []any{addr(0) + " (0s ago)", addr(1) + " (0s ago)"}},
		"the only one": {func(w *world) { w.join(0, 1); w.die(0, 1) }, zapcore.WarnLevel,
			"no instance is left, and the last vanished without draining", []any{addr(0) + " (0s ago)"}},
		"one died, the rest left in order": {func(w *world) {
			w.join(0, 3)
			w.die(0, 1)
			wait(w.t, 2*time.Minute)
			w.drain(1)
			w.drain(2)
			w.die(1, 3)
			w.want("after all left: it may have lost only its way to etcd", 0)
		}, zapcore.InfoLevel, "the last instance left; those that vanished earlier without draining are tried again", []any{addr(0) + " (2m0s ago)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zapcore.InfoLevel)
				r := discoverytest.NewRegistry()
				w := &world{t: t, Registry: r, cache: newCache(t, r, cache.Options{Log: zap.New(core)})}
				discoverytest.NewWatcher(t, w.cache, "user", nil).WaitAddrs()
				tc.story(w)
				all := logs.All()
				if len(all) != 1 || all[0].Level != tc.level || all[0].Message != tc.text+stay {
					t.Fatalf("the log: %+v, want %q", all, tc.text)
				}
				if got := all[0].ContextMap()["vanished"]; !reflect.DeepEqual(got, tc.vanished) {
					t.Errorf("it names %v, want %v", got, tc.vanished)
				}
			})
		})
	}
}
