package coordination

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// mostNames bounds what is counted by name; further names are counted together, as [OtherNames].
const mostNames = 100

// OtherNames is the name of what is counted without one, since there are too many.
const OtherNames = "(other)"

// Stats is what a [Coordinator] counted of one leadership or lock since it was made.
type Stats struct {
	// Kind is "leader" or "lock".
	Kind string
	Name string
	// Held is how many this process holds at this moment: 0 or 1, but for [OtherNames].
	Held int
	// Waiting is how many of this process wait for their turn.
	Waiting int
	// Terms is how often it was held, Lost how often that ended without having been released.
	Terms, Lost int
	// Waited is the time for which anybody waited, those who still do included. [Coordinator.TryLock] does not wait.
	Waited time.Duration
}

// counts is what Stats tells.
type counts struct {
	mu  sync.Mutex
	all map[[2]string]*count
}

type count struct {
	Stats
	waiting map[*time.Time]struct{} // since when
}

// of returns the count of a thing; mu is held.
func (c *counts) of(t thing) *count {
	if c.all == nil {
		c.all = map[[2]string]*count{}
	}
	key := [2]string{t.kind, t.name}
	if c.all[key] == nil && len(c.all) >= mostNames {
		key[1] = OtherNames
	}
	if c.all[key] == nil {
		c.all[key] = &count{Stats: Stats{Kind: key[0], Name: key[1]}, waiting: map[*time.Time]struct{}{}}
	}
	return c.all[key]
}

// waits counts somebody who waits, until done is called.
func (c *counts) waits(t thing) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, since := c.of(t), time.Now()
	n.waiting[&since] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(n.waiting, &since)
		n.Waited += time.Since(since)
	}
}

// held counts that something is held, until its lease ends.
func (c *counts) held(t thing, l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.of(t)
	n.Held++
	n.Terms++
	l.over = sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.Held--
		if errors.Is(context.Cause(l.ctx), ErrLost) {
			n.Lost++
		}
	})
	context.AfterFunc(l.ctx, l.over)
}

// Stats tells what was counted, by kind and name.
func (c *Coordinator) Stats() []Stats {
	c.counts.mu.Lock()
	defer c.counts.mu.Unlock()
	out := make([]Stats, 0, len(c.counts.all))
	for _, n := range c.counts.all {
		s := n.Stats
		s.Waiting = len(n.waiting)
		for since := range n.waiting {
			s.Waited += time.Since(*since)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Stats) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}
