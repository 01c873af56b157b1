// Package registryview reads what is registered, with the same source that services find each other by. It never writes
// to etcd: no lease, no key. It does not call instances; packages call and why do.
package registryview

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// SinceKey is the key in an instance's metadata that says since when it has been serving, in RFC 3339.
const SinceKey = "since"

// atOnce is how many services are read at the same time.
const atOnce = 16

// Registry is one place in etcd. It is safe for concurrent use.
type Registry struct {
	Place  locate.Place
	cli    *clientv3.Client
	source *etcd.Source
	knock  sync.Once
	closed error // why no endpoint could be dialled
}

// Open makes a registry of a place; etcd is not asked yet. The error is a [*problem.Error] about files of TLS.
func Open(place locate.Place) (*Registry, error) {
	cli, err := etcdclient.New(place.Etcd, nil)
	if err != nil {
		return nil, &problem.Error{Exit: problem.Environment, What: "no client for etcd can be made: " + err.Error(), At: place.String(), Err: err}
	}
	source, err := etcd.NewSource(cli, etcd.Options{Prefix: place.Prefix, CallTimeout: place.Etcd.CallTimeout})
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return &Registry{Place: place, cli: cli, source: source}, nil
}

// Close ends the connection to etcd.
func (r *Registry) Close() error { return r.cli.Close() }

// knockTimeout is how long an endpoint may take to accept a connection.
const knockTimeout = time.Second

// talkTimeout is how long the endpoints may take to show that they can't be talked to.
const talkTimeout = 3 * time.Second

// Reachable tells, once and for all, whether an endpoint of etcd accepts connections and can be talked to: the client would
// go on trying for as long as it is given.
func (r *Registry) Reachable(ctx context.Context) error {
	r.knock.Do(func() {
		if r.closed = r.dial(ctx); r.closed == nil {
			r.closed = r.talk(ctx)
		}
	})
	if r.closed != nil {
		return r.unreachable(ctx, r.closed)
	}
	return nil
}

// dial knocks at all endpoints; one that opens is enough.
func (r *Registry) dial(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	ends := make(chan error, len(r.Place.Endpoints()))
	for _, addr := range r.Place.Endpoints() {
		if i := strings.Index(addr, "://"); i >= 0 {
			addr = addr[i+3:]
		}
		go func() {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err == nil {
				err = conn.Close()
			}
			ends <- err
		}()
	}
	for range r.Place.Endpoints() {
		if err = <-ends; err == nil {
			return nil
		}
	}
	return err
}

// talk returns an error when nobody at the endpoints will ever answer as they are spoken to, and nil once one did, or when
// that takes too long to be told by who only knocks.
func (r *Registry) talk(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, talkTimeout)
	defer cancel()
	hopeless := make(chan error, 1)
	go func() {
		defer cancel()
		if t := etcdclient.Hopeless(ctx, r.cli); t != nil {
			hopeless <- t
		}
		close(hopeless)
	}()
	conn := r.cli.ActiveConnection()
	for st := conn.GetState(); st != connectivity.Ready && conn.WaitForStateChange(ctx, st); {
		st = conn.GetState()
	}
	cancel()
	return <-hopeless
}

// Services returns the names of all services that have a key, sorted.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	if err := r.Reachable(ctx); err != nil {
		return nil, err
	}
	counts, err := r.source.Services(ctx)
	if err != nil {
		return nil, r.unreachable(ctx, err)
	}
	all := make([]string, len(counts))
	for n, c := range counts {
		all[n] = c.Service
	}
	return all, nil
}

// Instances returns the instances of a service, those that drain included.
func (r *Registry) Instances(ctx context.Context, service string) ([]*discovery.Instance, error) {
	if err := r.Reachable(ctx); err != nil {
		return nil, err
	}
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	var got discovery.Update
	err := r.source.Watch(ctx, service, func(u discovery.Update) {
		if u.Known() || u.Err != nil {
			got = u
			done(errSeen)
		}
	})
	switch {
	case got.Known():
		return got.Instances, nil
	case got.Err != nil:
		err = got.Err
	}
	return nil, r.unreachable(ctx, err)
}

// errSeen ends a watch that has told what was asked.
var errSeen = errors.New("seen")

// List returns the instances of all services whose name matches a pattern of path.Match, sorted by service and address;
// an empty pattern matches all.
func (r *Registry) List(ctx context.Context, pattern string) ([]*discovery.Instance, error) {
	names := []string{pattern}
	if IsPattern(pattern) {
		all, err := r.Services(ctx)
		if err != nil {
			return nil, err
		}
		names = slices.DeleteFunc(all, func(name string) bool { return !Matches(pattern, name) })
	}
	var (
		g   errgroup.Group
		mu  sync.Mutex
		out []*discovery.Instance
	)
	g.SetLimit(atOnce)
	for _, name := range names {
		g.Go(func() error {
			found, err := r.Instances(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, found...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b *discovery.Instance) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return discovery.ByAddr(a, b)
	})
	return out, nil
}

// IsPattern reports whether text stands for any number of services, rather than for the one of that name.
func IsPattern(text string) bool { return text == "" || strings.ContainsAny(text, `*?[\`) }

// Matches reports whether a pattern, or name, means a service.
func Matches(pattern, service string) bool {
	ok, err := path.Match(pattern, service)
	return pattern == "" || err == nil && ok
}

// Unknown is the error about a service that is not registered here: what is near, here and below other prefixes.
func (r *Registry) Unknown(ctx context.Context, service, retry string) error {
	p := &problem.Error{Exit: problem.NotFound, What: "no instance of " + service + " is registered", At: r.Place.String()}
	names, err := r.Services(ctx)
	if err != nil {
		return err
	}
	p.At += ": " + fewNames(names)
	strays, _ := r.Elsewhere(ctx, r.Place.Prefix, service) // a hint; that it can't be given is no reason to fail otherwise
	near := Near(service, names)
	if url := HTTPOnly(r.Place.Devs, service); url != "" {
		p.What, p.At, p.Fix = service+" serves HTTP only, so it is not registered and takes no calls by name", "newsvc dev runs it: "+url, "curl "+url
		return p
	}
	switch {
	case slices.Contains(names, service):
		p.What = service + " has a key in etcd, and what stands there is no instance"
		p.Fix = "etcdctl --endpoints=" + strings.Join(r.Place.Endpoints(), ",") + " get --prefix " + discovery.ServicePrefix(r.Place.Prefix, service)
	case len(strays) > 0:
		p.At += fmt.Sprintf("; below prefix %s there is %s", strays[0].Prefix, strays[0].Addr)
		p.Fix = retry + " --prefix " + strays[0].Prefix
	case len(near) > 0:
		p.Fix = strings.ReplaceAll(retry, service, near[0])
	case slices.ContainsFunc(r.Place.Devs, func(d devrecord.Record) bool { return !d.Complete }):
		p.Fix = "wait a moment: newsvc dev is still starting what it runs"
	case r.Place.How == locate.HowDefault:
		p.Fix = "newsvc dev      or name the etcd that it is registered in: --etcd HOST:PORT"
	default:
		p.Fix = "start it, or look elsewhere with --prefix and --etcd; newsvc ls shows what there is"
	}
	return p
}

// HTTPOnly returns the URL of a service that a newsvc dev runs and that serves HTTP and no gRPC; empty for any other.
func HTTPOnly(devs []devrecord.Record, service string) string {
	for _, d := range devs {
		for _, i := range d.Services[service].Instances {
			if i.GRPC == "" && i.HTTP != "" {
				return "http://" + i.HTTP
			}
		}
	}
	return ""
}

// fewNames is a list for an error.
func fewNames(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "no service"
	}
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Near returns those of names that a service's name may be a slip of, at most three: slips of the pen, and names with one
// part more or less at an end.
func Near(service string, names []string) []string {
	var out []string
	left := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == service })
	for len(out) < 3 {
		best := nearest.Word(service, left)
		if best == "" {
			break
		}
		out = append(out, best)
		left = slices.DeleteFunc(left, func(n string) bool { return n == best })
	}
	for _, n := range left {
		if len(out) < 3 && (extends(n, service) || extends(service, n)) {
			out = append(out, n)
		}
	}
	return out
}

func extends(long, short string) bool {
	return strings.HasPrefix(long, short+"-") || strings.HasSuffix(long, "-"+short)
}

// unreachable is the error when etcd did not tell.
func (r *Registry) unreachable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return cause
	}
	text := strings.TrimPrefix(err.Error(), "rpc error: ")
	p := &problem.Error{
		Exit: problem.Environment, What: fmt.Sprintf("no answer from etcd at %s (%s)", strings.Join(r.Place.Endpoints(), ", "), r.Place.How),
		At: lastWords(text), Fix: "name the etcd that services are registered in: --etcd HOST:PORT", Err: err,
	}
	trouble := etcdclient.Why(r.cli)
	switch {
	case trouble != nil && trouble.Certain:
		p.What = fmt.Sprintf("etcd at %s (%s) can't be talked to", strings.Join(r.Place.Endpoints(), ", "), r.Place.How)
		p.At, p.Fix = trouble.Err.Error(), r.remedy(trouble)
	case strings.Contains(text, " refuses: "):
		p.What = fmt.Sprintf("etcd at %s (%s) refuses to tell what is registered", strings.Join(r.Place.Endpoints(), ", "), r.Place.How)
		p.Fix = "-C the directory of a service whose config.yaml has etcd.username or etcd.tls, with --env NAME for config.NAME.yaml"
	case r.Place.How == locate.HowDefault:
		p.Fix, p.Err = "newsvc dev      or name an etcd that runs: --etcd HOST:PORT", errors.Join(ErrAway, err)
	default:
		p.Err = errors.Join(ErrAway, err)
	}
	return p
}

// remedy is what to do about an etcd that will never answer as it is spoken to.
func (r *Registry) remedy(t *etcdclient.ConnError) string {
	fix := "--etcd "
	switch {
	case r.Place.How == locate.HowEnv:
		fix = "export " + locate.EnvEtcd + "="
	case r.Place.How != locate.HowFlag:
		return t.Remedy + " (" + r.Place.How + ")"
	}
	if t.Scheme != "" {
		return fix + t.Scheme + "://" + t.Endpoint
	}
	return "-C the directory of a service whose config.yaml has etcd.tls, with --env NAME for config.NAME.yaml; " + t.Remedy
}

// ErrAway is part of the errors about an etcd that does not answer, and may do so later.
var ErrAway = errors.New("etcd does not answer")

// lastWords leaves out of an error that is known already: which etcd, and what to do.
func lastWords(text string) string {
	text, _, _ = strings.Cut(text, "; is it running")
	return text
}

// Since is when an instance began to serve; zero when it does not say.
func Since(i *discovery.Instance) time.Time {
	t, err := time.Parse(time.RFC3339, i.Metadata[SinceKey])
	if err != nil {
		return time.Time{}
	}
	return t
}
