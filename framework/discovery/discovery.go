// Package discovery is the vocabulary of service discovery: what an instance is, how instances are announced and how
// they are read. It holds no transport; discovery/etcd speaks to etcd, discovery/cache shares one watch among many
// readers, discoverytest keeps everything in memory. All of them pass the conformance suite of discoverytest.
//
// A service is a name; an instance is one process that serves it; a source is where instances are read; a registrar is
// where they are announced.
package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"time"
)

// State is what an instance says of itself.
type State string

const (
	// StateUp is an instance that takes calls. It is also the state of an instance that does not say.
	StateUp State = "up"
	// StateDraining is an instance that is about to leave: it still answers, but should be picked no more.
	StateDraining State = "draining"
)

// Instance is one process that serves a service. Once handed to or out of this package's interfaces an Instance is
// shared and must not be changed; Clone gives a copy that may be.
type Instance struct {
	// Service is the name callers use. See [CheckService].
	Service string
	// Addr is the host:port where the instance takes calls. It identifies the instance within its service.
	Addr string
	// Incarnation is drawn anew by every start of a process, so that a new process on an old address is told from the
	// old one. Empty for foreign instances that do not say.
	Incarnation string
	// State is StateUp unless the instance says otherwise.
	State State
	// Version is the instance's own version, for people.
	Version string
	// Weight is its share of the traffic relative to others; 0 means that it does not say.
	Weight int
	// Zone is where it runs; empty means that it does not say.
	Zone string
	// Admin is the host:port of its admin server; empty when it has none.
	Admin string
	// Metadata is what else it says. Values of foreign instances that are no strings are left out.
	Metadata map[string]string
}

// Clone returns a deep copy.
func (i *Instance) Clone() *Instance {
	c := *i
	c.Metadata = maps.Clone(i.Metadata)
	return &c
}

// Equal reports whether both say the same.
func (i *Instance) Equal(o *Instance) bool {
	return i.Service == o.Service && i.Addr == o.Addr && i.Incarnation == o.Incarnation && i.State == o.State &&
		i.Version == o.Version && i.Weight == o.Weight && i.Zone == o.Zone && i.Admin == o.Admin &&
		maps.Equal(i.Metadata, o.Metadata)
}

// Update is everything a source knows of one service at one moment: a full snapshot, never a difference.
type Update struct {
	// Instances is sorted by Addr, holds no address twice, and is shared: neither the slice nor what it points to may
	// be changed. It is nil until the source has had a first answer, and empty when the answer was that there are none.
	Instances []*Instance
	// Revision is the source's own count of changes; a larger one is newer unless the source was reset.
	Revision int64
	// AsOf is when the source was last known to agree with Instances. Its age is the staleness.
	AsOf time.Time
	// Err is why the source can't refresh at present; Instances is then the last good set. It is nil when all is well.
	Err error
}

// Known reports whether the source has had a first answer.
func (u Update) Known() bool { return u.Instances != nil }

// Source reads instances. Implementations are safe for concurrent use.
type Source interface {
	// Watch calls yield with the present state as soon as it is known and then after each change, from the caller's
	// goroutine and never concurrently, until ctx ends; it then returns the context's cause. It survives outages by
	// itself: while the source can't be reached the last set stays, and an Update with Err set says why. The only
	// errors it returns besides the context's are those of a wrong service name, at once.
	// A yield that blocks delays only its own caller; it then sees the newest state, not each one in between.
	Watch(ctx context.Context, service string, yield func(Update)) error
}

// RegistrationState is where a registration stands.
type RegistrationState string

const (
	// RegistrationPending has not been announced yet; it is being tried.
	RegistrationPending RegistrationState = "pending"
	// RegistrationUp is announced and kept announced.
	RegistrationUp RegistrationState = "up"
	// RegistrationSuspect was announced; whether it still is can't be told at present.
	RegistrationSuspect RegistrationState = "suspect"
	// RegistrationLost was announced and is known to be gone; it is being announced anew.
	RegistrationLost RegistrationState = "lost"
	// RegistrationConflict yields to another process that announced the same address later.
	RegistrationConflict RegistrationState = "conflict"
	// RegistrationClosed was withdrawn.
	RegistrationClosed RegistrationState = "closed"
)

// Registrar announces instances. Implementations are safe for concurrent use.
type Registrar interface {
	// Register announces the instance and keeps it announced until the Registration is closed. It checks its argument
	// and returns at once; the announcement itself is made in the background and retried for ever. ctx bounds only
	// this call. The error is that of a wrong argument.
	Register(ctx context.Context, instance Instance) (Registration, error)
}

// Registration is one announced instance. Its methods are safe for concurrent use.
type Registration interface {
	// Update changes what is announced; the function is called once with a copy it may change. Service, Addr and
	// Incarnation stay as they are. It returns when the change is stored, or with ctx, and then goes on trying.
	Update(ctx context.Context, change func(*Instance)) error
	// Status says where the registration stands.
	Status() RegistrationStatus
	// Changed is closed at the next change of the status; ask again for the one after that.
	Changed() <-chan struct{}
	// Close withdraws the announcement: it stops all background work, waits for it, and only then removes what this
	// registration wrote, never what another process wrote. It is safe to call more than once. An error means that
	// the removal could not be confirmed within ctx; the announcement then ends with its lease.
	Close(ctx context.Context) error
}

// RegistrationStatus is a registration's state at one moment.
type RegistrationStatus struct {
	State RegistrationState
	// Err is why the state is not RegistrationUp; nil when there is no reason to tell.
	Err error
	// Since is when the state was entered.
	Since time.Time
	// Count is how often the instance has been announced; more than one means that it was lost in between.
	Count int
}

// WaitUp returns when the registration has been announced, or with the context's cause and the registration's own
// error when ctx ends first.
func WaitUp(ctx context.Context, r Registration) error {
	for {
		changed := r.Changed()
		st := r.Status()
		switch st.State {
		case RegistrationUp:
			return nil
		case RegistrationClosed:
			return ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), st.Err)
		}
	}
}

// ErrClosed is returned by methods of what was closed before.
var ErrClosed = errors.New("discovery: closed")

// NewIncarnation draws an identifier for one start of a process.
func NewIncarnation() string { return rand.Text()[:16] }
