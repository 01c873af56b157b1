// Package why finds out why a service can't be called: it asks running callers, by way of their admin servers, what they
// know of its instances, dials the instances itself, and looks for the service below other prefixes. Without a caller that
// answers it looks with a caller of its own, and says so.
//
// It changes nothing: no key in etcd, no setting of a caller.
package why

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/discovery"
)

const (
	askTimeout   = 2 * time.Second
	dialTimeout  = time.Second
	probeTimeout = 2 * time.Second
	freshTimeout = 2 * time.Second // for a caller of our own to connect
	mostCallers  = 64              // that are asked
	mostProbes   = 32              // instances that are dialled
	atOnce       = 8
)

// Query is what is asked.
type Query struct {
	Callee string
	// From limits the callers to those of this service; empty means all.
	From string
	// Admin is the admin address of the one caller to ask; empty means that they are looked for.
	Admin string
	Place locate.Place
	// Timeout bounds what etcd is asked for.
	Timeout time.Duration
}

// Report is the answer.
type Report struct {
	Callee string `json:"callee"`
	Place  string `json:"place"`
	// Prefix is the one that this command looks below.
	Prefix string `json:"prefix"`
	// Etcd is why etcd does not answer this command; empty when it does.
	Etcd    string `json:"etcd_error,omitempty"`
	etcdFix string
	// Asked is how many callers there may be, Silent those of them that did not answer, with the reason.
	Asked  int      `json:"asked"`
	Silent []string `json:"silent,omitempty"`
	// Fresh is set when no running caller answered: the only view is that of a caller that this command started.
	Fresh bool   `json:"fresh"`
	Views []View `json:"views"`
	// Registered is how many instances etcd has of the callee, asked by this command; -1 when it did not answer.
	Registered int `json:"registered"`
	// Names are services with similar names; Elsewhere is where else, below other prefixes, the callee is registered.
	Names     []string             `json:"did_you_mean,omitempty"`
	Elsewhere []registryview.Stray `json:"elsewhere,omitempty"`
	// HTTP is where the callee is reached, when it is known to serve HTTP only.
	HTTP string `json:"http,omitempty"`
}

// View is what one caller sees.
type View struct {
	Caller   string `json:"caller"`
	Instance string `json:"instance"`
	Admin    string `json:"admin"`
	Prefix   string `json:"prefix"`
	// Knowledge says how old it is and, if it is not up to date, why.
	Knowledge string     `json:"knowledge"`
	Stale     bool       `json:"stale"`
	Breaker   string     `json:"breaker,omitempty"`
	Target    string     `json:"target"`
	Known     bool       `json:"known"`
	Usable    int        `json:"usable"`
	Instances []Instance `json:"instances"`
}

// Instance is one instance as a caller sees it.
type Instance struct {
	Address  string `json:"address"`
	Instance string `json:"instance,omitempty"`
	State    string `json:"state"`
	// Connection is the state of the caller's connection, in gRPC's words; empty when it has none.
	Connection string `json:"connection,omitempty"`
	Usable     bool   `json:"usable"`
	// Reason is why it is not used, or what is to be known of it.
	Reason string `json:"reason,omitempty"`
	// Ejected is where an instance stands that was taken out of use: "sentence", "probing" or "trial". EjectedUntil is when its
	// sentence ends, and ProbeError how its last health probe after that failed.
	Ejected      string    `json:"ejected,omitempty"`
	EjectedUntil time.Time `json:"ejected_until,omitzero"`
	ProbeError   string    `json:"probe_error,omitempty"`
	// HeldUntil is how long the guard keeps an instance that has vanished from etcd.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// Error is the connection's last one.
	Error string `json:"error,omitempty"`
	// Reach is what this command found at the address.
	Reach Reach `json:"reach,omitempty"`
	// PID is its process, when a newsvc dev of this machine runs or ran it.
	PID int `json:"pid,omitempty"`
	// Gone is set when its process is known to have ended, or nobody listens where it can only be on this machine.
	Gone bool `json:"gone,omitempty"`
}

// Ask finds out. The errors are those of this side: no caller at Admin, or none called From.
func Ask(ctx context.Context, q Query) (*Report, error) {
	r := &Report{Callee: q.Callee, Place: q.Place.String(), Prefix: q.Place.Prefix, HTTP: registryview.HTTPOnly(q.Place.Devs, q.Callee), Registered: -1, Views: []View{}}
	reg, err := registryview.Open(q.Place)
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	registered, err := r.askEtcd(ctx, q, reg)
	if err != nil {
		return nil, err
	}
	pages, err := r.askCallers(ctx, q, registered)
	if err != nil {
		return nil, err
	}
	if len(pages) == 0 {
		r.Fresh = true
		p, err := fresh(ctx, q)
		if err != nil {
			return nil, err
		}
		pages = []answer{p}
	}
	around := &circumstances{callee: q.Callee, devs: q.Place.Devs, etcd: q.Place.Endpoints(), silent: r.Etcd != "", all: registered, reach: r.dial(ctx, q, pages)}
	around.look(ctx, reg, pages)
	for _, p := range pages {
		r.Views = append(r.Views, view(p, around))
	}
	r.lookElsewhere(ctx, q, reg)
	return r, nil
}

// askEtcd notes what etcd has of the callee, and returns everything that is registered, for the admin addresses.
func (r *Report) askEtcd(ctx context.Context, q Query, reg *registryview.Registry) ([]*discovery.Instance, error) {
	within, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	all, err := reg.List(within, "")
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		r.Etcd, r.etcdFix = firstLines(err), "newsvc doctor"
		if p := (*problem.Error)(nil); errors.As(err, &p) {
			r.etcdFix = p.Fix // it knows where the address is from
		}
		return nil, nil
	}
	r.Registered = 0
	var names []string
	for _, i := range all {
		names = append(names, i.Service)
		if i.Service == q.Callee {
			r.Registered++
		}
	}
	r.Names = registryview.Near(q.Callee, slices.Compact(names))
	return all, nil
}

// answer is a page and where it came from.
type answer struct {
	*page
	admin string
}

// askCallers returns the pages of those that call the callee.
func (r *Report) askCallers(ctx context.Context, q Query, registered []*discovery.Instance) ([]answer, error) {
	admins := candidates(q, registered)
	r.Asked = len(admins)
	var (
		g     errgroup.Group
		mu    sync.Mutex
		pages []answer
		calls []string // what those call that do not call the callee
	)
	g.SetLimit(atOnce)
	for _, admin := range admins[:min(len(admins), mostCallers)] {
		g.Go(func() error {
			p, err := ask(ctx, admin)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				r.Silent = append(r.Silent, admin+": "+err.Error())
			case q.From != "" && p.Service != q.From:
			case p.of(q.Callee) != nil:
				pages = append(pages, answer{p, admin})
			default:
				calls = append(calls, p.callees()...)
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	slices.Sort(r.Silent)
	slices.SortFunc(pages, func(a, b answer) int {
		return strings.Compare(a.Service+a.Incarnation, b.Service+b.Incarnation)
	})
	if len(pages) > 0 || q.From == "" && q.Admin == "" {
		return pages, nil
	}
	return nil, r.nobody(q, calls)
}

// candidates are the admin addresses of processes that may call the callee.
func candidates(q Query, registered []*discovery.Instance) []string {
	if q.Admin != "" {
		return []string{q.Admin}
	}
	var out []string
	add := func(service, admin string) {
		if admin != "" && (q.From == "" || q.From == service) && !slices.Contains(out, admin) {
			out = append(out, admin)
		}
	}
	eachOfDev(q.Place.Devs, func(service string, i devrecord.Instance) { add(service, i.Admin) })
	for _, i := range registered {
		add(i.Service, i.Admin)
	}
	return out
}

func eachOfDev(devs []devrecord.Record, yield func(service string, i devrecord.Instance)) {
	for _, d := range devs {
		for service, s := range d.Services {
			for _, i := range s.Instances {
				yield(service, i)
			}
		}
	}
}

// fresh is the view of a caller that lives as long as it takes to ask it.
func fresh(ctx context.Context, q Query) (answer, error) {
	c, err := call.Open(ctx, q.Place, q.Callee, call.Options{Admin: true})
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	within, cancel := context.WithTimeout(ctx, freshTimeout)
	defer cancel()
	_ = c.Conn.WaitInstances(within, 1) // its page tells more
	if ctx.Err() != nil {
		return answer{}, context.Cause(ctx)
	}
	_, _, admin := c.Stack.Addresses()
	p, err := ask(ctx, admin)
	return answer{p, admin}, err
}

// dial finds out what is at each address that somebody sees.
func (r *Report) dial(ctx context.Context, q Query, pages []answer) map[string]Reach {
	var addrs []string
	for _, p := range pages {
		if c := p.of(q.Callee); c != nil {
			for _, i := range c.Instances {
				if !slices.Contains(addrs, i.Addr) {
					addrs = append(addrs, i.Addr)
				}
			}
		}
	}
	out := map[string]Reach{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, addr := range addrs[:min(len(addrs), mostProbes)] {
		g.Go(func() error {
			found, detail := probe(ctx, q.Place, q.Callee, addr)
			if detail != "" {
				found += Reach(": " + detail)
			}
			mu.Lock()
			defer mu.Unlock()
			out[addr] = found
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	return out
}

// lookElsewhere looks for the callee below other prefixes when somebody sees none of it.
func (r *Report) lookElsewhere(ctx context.Context, q Query, reg *registryview.Registry) {
	if r.Etcd != "" {
		return
	}
	for _, v := range r.Views {
		if len(v.Instances) > 0 {
			continue
		}
		strays, err := reg.Elsewhere(ctx, v.Prefix, q.Callee)
		if err == nil {
			r.Elsewhere = strays
			return
		}
	}
}

// firstLines is a problem without its remedy, in one line.
func firstLines(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n  fix:")
	return strings.ReplaceAll(text, "\n   at: ", ": ")
}

var errNoCaller = errors.New("no caller")

func ago(t, now time.Time) string {
	d := now.Sub(t)
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs ago", d.Seconds())
	}
	return d.Round(time.Second).String() + " ago"
}
