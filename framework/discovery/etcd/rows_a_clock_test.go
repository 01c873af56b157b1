package etcd_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// begun is an instance that says when it began, and names itself after that.
func begun(addr, when string) *discovery.Instance {
	i := discoverytest.Instance("user", addr)
	i.Incarnation = when
	i.Metadata = map[string]string{"registered_at": when, "started": when}
	return i
}

const (
	longAgo  = "0001-01-01T00:00:00Z"
	farAhead = "9999-12-31T23:59:59Z"
)

// Clocks of hosts differ, so what an instance says of times decides nothing: what etcd was told last does.
func TestA21WhatInstancesSayOfTimesDecidesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ first, second string }{
		"the second one is from the past":   {farAhead, longAgo},
		"the second one is from the future": {longAgo, farAhead},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			w := discoverytest.NewWatcher(t, f.source(), "user", nil)
			inUseNow := func(when string) func(discovery.Update) bool {
				return func(u discovery.Update) bool {
					return slices.ContainsFunc(u.Instances, func(i *discovery.Instance) bool { return i.Addr == addr1 && i.Incarnation == when })
				}
			}
			older := f.register(f.registrar(), begun(addr1, tc.first))
			f.put(begun("10.0.0.2:9000", tc.second)) // beside it
			f.put(begun("10.0.0.3:9000", time.Now().Format(time.RFC3339)))
			w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
			w.Wait("the first one", inUseNow(tc.first))
			newer := f.register(f.registrar(), begun(addr1, tc.second))
			f.await(older, "a conflict", inState(discovery.RegistrationConflict))
			w.Wait("the second one", inUseNow(tc.second))
			f.close(newer)
			f.await(older, "it to take the address again", inState(discovery.RegistrationUp))
			w.Wait("the first one again", inUseNow(tc.first))

			value, err := discovery.Encode(begun(addr1, tc.second)) // and of two keys for one address
			if err != nil {
				t.Fatal(err)
			}
			f.putRaw(f.key("user", "foreign"), string(value))
			w.Wait("the one written last", inUseNow(tc.second))
			w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
		})
	}
}

// Ages and waits are differences of two readings of one process, and of its monotonic clock, which never jumps: each time
// that is handed out carries such a reading. A step of the machine's clock would show the same only in a namespace that
// offsets the wall clock, which Linux has not, or by setting the clock of the machine. So what could drop the reading
// again is looked for in the code.
func TestA21TimesAreThoseOfTheMonotonicClock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.registrar()
	inst := discoverytest.Instance("user", addr1)
	reg := f.register(r, inst)
	src := f.source()
	c := f.cached(src, cache.Options{})
	w := discoverytest.NewWatcher(t, c, "user", nil)
	w.WaitAddrs(addr1)
	u, known := c.Snapshot("user")
	if !known {
		t.Fatal("the cache does not know what its watcher was told")
	}
	for name, at := range map[string]time.Time{
		"Update.AsOf": u.AsOf, "WatchState.LastSeen": src.State()[0].LastSeen, "ServiceState.Began": c.State()[0].Began,
		"ServiceState.Changed": c.State()[0].Changed, "RegistrationStatus.Since": reg.Status().Since, "RegistrationInfo.LeaseEnds": r.State()[0].LeaseEnds,
	} {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s is %v, want a monotonic reading with it", name, at)
		}
	}
	_, first := f.get(f.key("user", addr1))
	f.close(reg)
	f.pass(1100 * time.Millisecond)
	f.register(r, inst)
	if _, second := f.get(f.key("user", addr1)); first != second {
		t.Errorf("the same instance is stored as %s and later as %s", first, second)
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Unix", "UnixNano", "UnixMilli", "UnixMicro", "Date", "Round", "UTC", "Local"}, s.Sel.Name) {
				t.Errorf("%s uses %s, which drops the monotonic clock", file, s.Sel.Name)
			}
			return true
		})
	}
}
