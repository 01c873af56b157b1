package cache

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// recovered is the share of the instances there were before a mass disappearance that ends the guard's alarm.
const recovered = 0.8

// guard tells the leave of instances from a registry that lost them. It holds back what vanished without having drained:
// normally only to remember it, but when much of a service vanished at once, or all of it, the held instances stay
// published until they return, or for ttl. Keeping a dead address costs gRPC a connection attempt now and then;
// dropping living ones costs every call. It is a state machine without a clock or a lock of its own.
type guard struct {
	share  float64
	window time.Duration
	ttl    time.Duration // <= 0: nothing is ever held

	up       []*discovery.Instance // the source's last set without those that drain, sorted
	draining []*discovery.Instance
	held     map[string]held // by address; never an address of up or draining
	opened   time.Time       // when the present window began, with the first one to vanish; zero: no window
	base     int             // how many were up before it
	alarm    bool
	orderly  bool // the alarm began when the last instance left in order: what is held vanished earlier
}

// held is an instance that vanished.
type held struct {
	instance *discovery.Instance
	since    time.Time
}

// fold takes the source's newest set.
func (g *guard) fold(now time.Time, all []*discovery.Instance) {
	before, was := len(g.up), g.alarm
	up, draining, gone := diff(g.up, all)
	g.up, g.draining = up, draining
	if g.ttl > 0 && len(gone) > 0 {
		if !g.alarm && (g.opened.IsZero() || now.Sub(g.opened) >= g.window) {
			g.opened, g.base = now, 0
		}
		g.base = max(g.base, before) // it may have grown since the window began
		for _, i := range gone {
			g.held[i.Addr] = held{instance: i, since: now}
		}
	}
	for addr := range g.held {
		if contains(all, addr) {
			delete(g.held, addr)
		}
	}
	g.assess(now)
	if !was {
		g.orderly = g.alarm && len(gone) == 0
	}
}

// expire lets go of what has been held for too long and reports whether that was anything.
func (g *guard) expire(now time.Time) bool {
	n := len(g.held)
	for addr, h := range g.held {
		if now.Sub(h.since) >= g.ttl {
			delete(g.held, addr)
		}
	}
	if len(g.held) == n {
		return false
	}
	g.assess(now)
	return true
}

// assess raises or ends the alarm. That enough are up decides before how many vanished: a rolling restart on new addresses
// makes many vanish, and is none.
func (g *guard) assess(now time.Time) {
	was := g.alarm
	recent := 0
	for _, h := range g.held {
		if !h.since.Before(g.opened) {
			recent++
		}
	}
	switch base := float64(g.base); {
	case len(g.held) == 0:
		g.alarm = false
	case len(g.up) == 0:
		g.alarm = true
	case float64(len(g.up)) >= recovered*base:
		g.alarm = false
	case !g.opened.IsZero() && now.Sub(g.opened) < g.window && float64(recent) >= g.share*base:
		g.alarm = true
	}
	if was && !g.alarm {
		g.opened, g.base = time.Time{}, 0
	}
}

// publish is the set to be used. Those that drain still answer, so they are used when the registry has nothing better.
func (g *guard) publish() []*discovery.Instance {
	switch {
	case len(g.up) > 0 && !g.alarm:
		return g.up
	case len(g.up) > 0:
		return g.with(g.up)
	default:
		return g.with(g.draining)
	}
}

// with adds the held ones to those that are present, but no more than there were at once before: where instances come and
// die on ever new addresses the dead would crowd out the living, of whom a caller takes a subset. The last to vanish are
// the likeliest to live. Those that are present take nobody's place: they may be new ones beside all that vanished.
func (g *guard) with(present []*discovery.Instance) []*discovery.Instance {
	keep := slices.Collect(maps.Values(g.held))
	if g.base > 0 && g.base < len(keep) {
		slices.SortFunc(keep, func(a, b held) int {
			return cmp.Or(b.since.Compare(a.since), strings.Compare(a.instance.Addr, b.instance.Addr))
		})
		keep = keep[:g.base]
	}
	out := make([]*discovery.Instance, 0, len(present)+len(keep))
	out = append(out, present...)
	for _, h := range keep {
		out = append(out, h.instance)
	}
	slices.SortFunc(out, func(a, b *discovery.Instance) int { return strings.Compare(a.Addr, b.Addr) })
	return out
}

// vanished names the held instances, the last to vanish first, and says how long ago that was.
func (g *guard) vanished(now time.Time) []string {
	all := slices.SortedFunc(maps.Values(g.held), func(a, b held) int {
		return cmp.Or(b.since.Compare(a.since), strings.Compare(a.instance.Addr, b.instance.Addr))
	})
	var out []string
	for _, h := range all[:min(len(all), mostNamed)] {
		out = append(out, fmt.Sprintf("%s (%v ago)", h.instance.Addr, now.Sub(h.since).Round(time.Second)))
	}
	return out
}

// deadline is when expire has work next; zero: not at present.
func (g *guard) deadline() time.Time {
	var first time.Time
	for _, h := range g.held {
		if end := h.since.Add(g.ttl); first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// diff compares what was up with a new set, both sorted by address. gone are those that were up and are not in the new
// set in any state. What both begin and end with is only skipped, which keeps one change among ten thousand cheap; when
// nothing drains, up is the new set itself.
func diff(before, all []*discovery.Instance) (up, draining, gone []*discovery.Instance) {
	head, tail := unchanged(before, all)
	up, draining, gone = compare(before[head:len(before)-tail], all[head:len(all)-tail])
	if len(draining) == 0 {
		return all, nil, gone
	}
	return slices.Concat(all[:head], up, all[len(all)-tail:]), draining, gone
}

// unchanged returns how many of the same pointers both begin with, and how many more they end with.
func unchanged(a, b []*discovery.Instance) (head, tail int) {
	n := min(len(a), len(b))
	for head < n && a[head] == b[head] {
		head++
	}
	a, b = a[len(a)-n+head:], b[len(b)-n+head:]
	for tail < len(a) && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	return head, tail
}

// compare is diff, one by one. Unchanged instances are not looked into.
func compare(before, all []*discovery.Instance) (up, draining, gone []*discovery.Instance) {
	b := 0
	for _, i := range all {
		for b < len(before) && before[b] != i && before[b].Addr < i.Addr {
			gone = append(gone, before[b])
			b++
		}
		same := b < len(before) && before[b] == i
		if same || b < len(before) && before[b].Addr == i.Addr {
			b++
		}
		if !same && i.State == discovery.StateDraining {
			draining = append(draining, i)
		} else {
			up = append(up, i)
		}
	}
	return up, draining, append(gone, before[b:]...)
}

func contains(sorted []*discovery.Instance, addr string) bool {
	_, found := slices.BinarySearchFunc(sorted, addr, func(i *discovery.Instance, addr string) int {
		return strings.Compare(i.Addr, addr)
	})
	return found
}
