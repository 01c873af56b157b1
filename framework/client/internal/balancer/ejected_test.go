package balancer_test

import (
	"fmt"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// homesOf tells where the calls of each of n keys go.
func homesOf(t *testing.T, w *world, n int) []string {
	t.Helper()
	homes := make([]string, n)
	for k := range homes {
		addr, done, err := w.pick(balancer.WithKey(t.Context(), fmt.Sprint("key ", k)))
		if err != nil {
			t.Fatal(err)
		}
		if done != nil {
			done(grpcbalancer.DoneInfo{BytesSent: true})
		}
		homes[k] = addr
	}
	return homes
}

func TestOnlyTheKeysOfWhoIsEjectedMoveAndAllOfThemReturn(t *testing.T) {
	t.Parallel()
	for _, weight := range []uint32{0, 300} {
		f := &recorder{active: true, out: map[string]bool{}}
		w := newWorld(balancer.Config{Rule: balancer.RingHash}, f)
		all := addrs(7)
		w.weight[all[2]] = weight
		w.set(all...)
		before := homesOf(t, w, 500)
		f.out[all[2]] = true
		f.changed()
		moved, at := 0, map[string]int{}
		for k, home := range homesOf(t, w, 500) {
			switch {
			case home == all[2]:
				t.Errorf("key %d is called at who is ejected", k)
			case before[k] == all[2]:
				moved++
				at[home]++
			case home != before[k]:
				t.Errorf("key %d moved from %s to %s though neither was ejected", k, before[k], home)
			}
		}
		if moved < 20 || len(at) != 6 {
			t.Errorf("%d keys of the ejected went to %v, want some at each of the others", moved, at)
		}
		// It leaves while it is ejected, comes back as it was, and is let in.
		w.set(append(addrs(2), all[3:]...)...)
		f.out = map[string]bool{}
		f.changed()
		w.set(all...)
		for k, home := range homesOf(t, w, 500) {
			if home != before[k] {
				t.Errorf("key %d is at %s after all, and was at %s", k, home, before[k])
			}
		}
		w.policy.Close()
	}
}
