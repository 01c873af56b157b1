package registryview

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/framework/discovery"
)

// look is how often services are looked for that were not there before.
const look = time.Second

// What can happen to an instance.
const (
	Present   = "present"               // it was there when the watch began
	Joined    = "joined"                // it was registered
	Changed   = "changed"               // what it says of itself changed
	Left      = "gone after draining"   // it said that it would leave
	Lost      = "gone without draining" // its lease ended or its key was deleted: it was killed, cut off, or frozen
	NoAnswer  = "etcd does not answer"  // what follows may come late
	Answering = "etcd answers again"
)

// Event is one thing that happened.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	// Row is the instance, as it is or as it was last; empty for events of etcd.
	Row
	// Change says what changed, for people.
	Change string `json:"change,omitempty"`
}

// String is the event in a line.
func (e Event) String() string {
	at := e.Time.Local().Format(time.TimeOnly)
	who := strings.Join([]string{e.Service, orDash(e.Version), Short(e.Instance, shortest), e.Address}, " ")
	switch e.Event {
	case Present:
		return fmt.Sprintf("%s  = %s %s", at, who, e.State)
	case Joined:
		return fmt.Sprintf("%s  + %s %s", at, who, e.State)
	case Changed:
		return fmt.Sprintf("%s  ~ %s %s", at, who, e.Change)
	case Left, Lost:
		return fmt.Sprintf("%s  - %s %s", at, who, e.Event)
	}
	return fmt.Sprintf("%s  ! %s %s: %s", at, e.Service, e.Event, e.Change)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Follow calls yield for each instance that is there and then for each event of a service that matches the pattern, until
// ctx ends; never concurrently. It returns the context's cause, or an error when etcd can't be asked at the beginning.
func (r *Registry) Follow(ctx context.Context, pattern string, yield func(Event)) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	begun := map[string]bool{}
	begin := func(service string) {
		if begun[service] {
			return
		}
		begun[service] = true
		f := &following{service: service}
		g.Go(func() error {
			return r.source.Watch(ctx, service, func(u discovery.Update) {
				mu.Lock()
				defer mu.Unlock()
				for _, e := range f.take(u, time.Now()) {
					yield(e)
				}
			})
		})
	}
	if !IsPattern(pattern) {
		begin(pattern)
		return g.Wait()
	}
	names, err := r.Services(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		for _, name := range names {
			if Matches(pattern, name) {
				begin(name)
			}
		}
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-tick.C:
		}
		if names, err = r.Services(ctx); err != nil {
			names = nil // the watches tell that etcd is away
		}
	}
}

// following is what is known of one service.
type following struct {
	service string
	known   bool
	failing bool
	last    []*discovery.Instance
}

// take turns an update into events.
func (f *following) take(u discovery.Update, now time.Time) []Event {
	var out []Event
	add := func(event string, i *discovery.Instance, change string) {
		e := Event{Time: now, Event: event, Change: change, Row: Row{Service: f.service}}
		if i != nil {
			e.Row = RowOf(i)
		}
		out = append(out, e)
	}
	if failing := u.Err != nil; failing != f.failing {
		f.failing = failing
		if failing {
			add(NoAnswer, nil, u.Err.Error())
		} else {
			add(Answering, nil, "what changed meanwhile follows")
		}
	}
	if !u.Known() {
		return out
	}
	for _, was := range f.last {
		if at, stays := find(u.Instances, was); !stays || u.Instances[at].Incarnation != was.Incarnation {
			how := Lost
			if was.State == discovery.StateDraining {
				how = Left
			}
			add(how, was, "")
		}
	}
	for _, i := range u.Instances {
		at, was := find(f.last, i)
		switch {
		case !f.known:
			add(Present, i, "")
		case !was || f.last[at].Incarnation != i.Incarnation:
			add(Joined, i, "")
		case !f.last[at].Equal(i):
			add(Changed, i, change(f.last[at], i))
		}
	}
	f.known, f.last = true, u.Instances
	return out
}

func find(in []*discovery.Instance, i *discovery.Instance) (int, bool) {
	return slices.BinarySearchFunc(in, i, discovery.ByAddr)
}

// change names what differs.
func change(a, b *discovery.Instance) string {
	var parts []string
	for _, f := range []struct{ name, was, is string }{
		{"", string(a.State), string(b.State)},
		{"version ", a.Version, b.Version},
		{"zone ", a.Zone, b.Zone},
		{"weight ", fmt.Sprint(a.Weight), fmt.Sprint(b.Weight)},
		{"admin ", a.Admin, b.Admin},
	} {
		if f.was != f.is {
			parts = append(parts, fmt.Sprintf("%s%s -> %s", f.name, orDash(f.was), orDash(f.is)))
		}
	}
	if len(parts) == 0 {
		return "metadata changed"
	}
	return strings.Join(parts, ", ")
}
