package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Registrar announces instances in etcd. Each registration has a lease of its own; all leases of a Registrar are renewed
// on one stream. It is safe for concurrent use.
type Registrar struct {
	cli     *clientv3.Client
	opt     Options
	renewer renewer

	mu        sync.Mutex
	open      map[owned]*registration
	announced map[owned]struct{} // what was in etcd once: an incarnation that comes back is no newcomer
	closed    bool
}

// owned is what only one registration of a Registrar may have.
type owned struct{ service, addr, incarnation string }

var _ discovery.Registrar = (*Registrar)(nil)

// NewRegistrar returns a registrar that writes below opt.Prefix. It starts nothing. The client must outlive it.
func NewRegistrar(cli *clientv3.Client, opt Options) (*Registrar, error) {
	opt, err := opt.withDefaults(cli, 2*time.Second)
	if err != nil {
		return nil, fmt.Errorf("etcd registrar: %w", err)
	}
	return &Registrar{cli: cli, opt: opt, renewer: renewer{cli: cli}, open: make(map[owned]*registration), announced: make(map[owned]struct{})}, nil
}

// Register implements [discovery.Registrar]. An empty incarnation is drawn, an empty state means up. The same
// service, address and incarnation can't be registered twice at the same time.
//
// The first announcement of an incarnation takes the address over from whoever holds it: who can listen on it is the
// one to be found there. Later ones, also those of a registration that follows one that was closed, yield to a process that
// took it over since, and report [discovery.RegistrationConflict] until the key is gone.
func (r *Registrar) Register(ctx context.Context, instance discovery.Instance) (discovery.Registration, error) {
	inst := instance.Clone()
	if inst.Incarnation == "" {
		inst.Incarnation = discovery.NewIncarnation()
	}
	if inst.State == "" {
		inst.State = discovery.StateUp
	}
	value, err := check(inst)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("registering %s of %q: the registrar was closed: %w", inst.Addr, inst.Service, discovery.ErrClosed)
	}
	id := owned{inst.Service, inst.Addr, inst.Incarnation}
	before := r.open[id]
	if before != nil && !before.isClosing() {
		return nil, fmt.Errorf("%s of %q is registered already by this process; close that registration first", inst.Addr, inst.Service)
	}
	g := newRegistration(r, id, inst, value)
	g.before = before // its Close was cut off; what it left is ours to go on with
	_, g.announced = r.announced[id]
	r.open[id] = g
	// Not ctx: it bounds this call only, the registration lives until it is closed.
	g.loop = loop.Start(context.WithoutCancel(ctx), g.run)
	return g, nil
}

// check returns the value to store.
func check(inst *discovery.Instance) ([]byte, error) {
	if err := discovery.CheckService(inst.Service); err != nil {
		return nil, err
	}
	value, err := discovery.Encode(inst)
	if err != nil {
		return nil, err
	}
	if _, err := discovery.Decode(inst.Service, value); err != nil {
		return nil, fmt.Errorf("instance %s of %q could not be read by others: %w", inst.Addr, inst.Service, err)
	}
	return value, nil
}

// Close closes every open registration, at the same time, and refuses new ones. It may be called again to go on where
// ctx had ended the call before.
func (r *Registrar) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	open := slices.Collect(maps.Values(r.open))
	r.mu.Unlock()
	errs := make([]error, len(open))
	closers := make([]*loop.Loop, len(open))
	for i, g := range open {
		closers[i] = loop.Start(ctx, func(ctx context.Context) { errs[i] = g.Close(ctx) })
	}
	for _, l := range closers {
		<-l.Done() // each is bounded by ctx
	}
	r.renewer.close()
	return errors.Join(errs...)
}

// remember notes that a registration was in etcd.
func (r *Registrar) remember(id owned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced[id] = struct{}{}
}

// forget drops a registration whose goroutine has ended. With the last one the stream for renewals is closed too.
func (r *Registrar) forget(g *registration) {
	r.mu.Lock()
	if r.open[g.id] == g {
		delete(r.open, g.id)
	}
	idle := len(r.open) == 0
	r.mu.Unlock()
	if idle {
		r.renewer.close()
	}
}

// RegistrationInfo tells how one registration is doing.
type RegistrationInfo struct {
	Service, Addr, Incarnation string
	// Key is where the instance is kept.
	Key string
	// Lease is the lease the key hangs on; 0 when there is none at present.
	Lease int64
	// LeaseEnds is when the lease runs out if no renewal follows the last acknowledged one; zero without a lease. etcd
	// itself may keep it for longer: an election prolongs all leases.
	LeaseEnds time.Time
	// Status is where it stands.
	Status discovery.RegistrationStatus
}

// State tells how every open registration is doing, ordered by key.
func (r *Registrar) State() []RegistrationInfo {
	r.mu.Lock()
	open := slices.Collect(maps.Values(r.open))
	r.mu.Unlock()
	out := make([]RegistrationInfo, 0, len(open))
	for _, g := range open {
		out = append(out, g.info())
	}
	slices.SortFunc(out, func(a, b RegistrationInfo) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// renewer is the stream on which leases are renewed. It can be replaced: a stream is bound to one connection, and
// when that connection swallows everything, only a new stream finds another one.
type renewer struct {
	cli *clientv3.Client

	mu    sync.Mutex
	lease clientv3.Lease
	gen   int
}

// keepAlive renews the lease until ctx ends. The generation names the stream that does.
func (n *renewer) keepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lease == nil {
		n.lease = clientv3.NewLease(n.cli)
		n.gen++
	}
	ch, err := n.lease.KeepAlive(ctx, id)
	return ch, n.gen, err
}

// replace gives up the stream of that generation; the next keepAlive opens another one.
func (n *renewer) replace(gen int) {
	n.mu.Lock()
	if n.gen != gen {
		n.mu.Unlock()
		return // somebody else did
	}
	old := n.lease
	n.lease = nil
	n.mu.Unlock()
	if old != nil {
		_ = old.Close() // it reports nothing
	}
}

func (n *renewer) close() {
	n.mu.Lock()
	gen := n.gen
	n.mu.Unlock()
	n.replace(gen)
}
