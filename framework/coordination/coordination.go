// Package coordination has one process at a time do something: [Coordinator.Lead] runs a function on one of many
// instances and hands it over when that one stops, [Coordinator.Lock] and [Coordinator.TryLock] guard a short piece of
// work. It is thin over etcd's client/v3/concurrency, whose keys it shares: etcdctl elect -l and etcdctl lock see them.
//
// Neither is proof against two at work at once. A process that is frozen, or whose machine is, does not know that its
// time is over, and goes on where it was when it thaws. What protects then is the token of a [Hold], which grows with
// each new holder: pass it on with each write, and have the storage refuse a lower one than it has seen. For writes into
// the same etcd [Hold.Commit] does that. Work that nobody checks a token for is done once as a rule, not for certain.
//
// Nothing runs before Lead, Lock or TryLock is called, and nothing after they, or [Hold.Release], have returned.
package coordination

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// The defaults of [Options].
const (
	DefaultPrefix      = "/newsvc/default-coordination"
	DefaultTTL         = 15 * time.Second
	DefaultCallTimeout = 3 * time.Second
)

var (
	// ErrLost says that something is no longer held: the lease was not renewed in time, or its key is gone.
	ErrLost = errors.New("it is no longer held")
	// ErrReleased says that something is no longer held because its holder released it.
	ErrReleased = errors.New("it was released")
	// ErrLocked says that somebody else holds a lock.
	ErrLocked = errors.New("somebody else holds it")
)

// Options say where and for how long things are held. The zero value stands for the defaults.
type Options struct {
	// Prefix is where keys are kept in etcd; processes that are to agree must have the same. It must not lie in the
	// prefix of a discovery.Source, which would take names for services. Default [DefaultPrefix].
	Prefix string
	// TTL is how long what is held outlives a process that was killed or cut off, whole seconds, at least 1s. The holder
	// gives up a fifth of it earlier than etcd does, or when its time of day has moved that far. Default [DefaultTTL]: longer rides out longer outages of etcd,
	// shorter lets somebody else take over sooner. Below 5s a busy machine or an election of etcd ends terms.
	TTL time.Duration
	// CallTimeout bounds one call to etcd. Default [DefaultCallTimeout].
	CallTimeout time.Duration
	// Identity says who holds something, for people. Default the host's name and the process' id.
	Identity string
	// Log is told when a term begins and ends, and when etcd can't be asked. Nil for silence.
	Log *zap.Logger
}

func (o Options) filled() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if o.Identity == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown host"
		}
		o.Identity = host + "/" + strconv.Itoa(os.Getpid())
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	switch {
	case !strings.HasPrefix(o.Prefix, "/") || strings.HasSuffix(o.Prefix, "/") || strings.Contains(o.Prefix, "//"):
		return o, fmt.Errorf("coordination: prefix %q is none; write for example %q", o.Prefix, DefaultPrefix)
	case o.TTL < time.Second || o.TTL%time.Second != 0:
		return o, fmt.Errorf("coordination: ttl %q is not whole seconds; write for example %q", o.TTL, DefaultTTL)
	case o.CallTimeout < 0:
		return o, fmt.Errorf("coordination: call timeout %q is negative; write for example %q", o.CallTimeout, DefaultCallTimeout)
	}
	return o, nil
}

// Coordinator leads and locks. It has nothing to close; it is safe for concurrent use.
type Coordinator struct {
	cli       *clientv3.Client
	opt       Options
	timeOfDay func() time.Time // [time.Now] but in tests
	counts    counts
}

// New checks the options. The client stays its caller's and must outlive what is held.
func New(cli *clientv3.Client, opt Options) (*Coordinator, error) {
	opt, err := opt.filled()
	if err != nil {
		return nil, err
	}
	if cli == nil || cli.ActiveConnection() == nil {
		return nil, errors.New("coordination: there is no connection to etcd; pass a client that clientv3.New made")
	}
	return &Coordinator{cli: cli, opt: opt, timeOfDay: time.Now}, nil
}

// What is held; it is part of the key.
const (
	leadership = "leader"
	lock       = "lock"
)

// nameForm leaves out the slash: a name must not be the beginning of another one's keys.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// thing is a leadership or a lock.
type thing struct {
	kind, name string
	prefix     string // of the keys of those who hold it or wait for it
}

func (t thing) String() string {
	if t.kind == leadership {
		return fmt.Sprintf("the leadership of %q", t.name)
	}
	return fmt.Sprintf("the lock %q", t.name)
}

func (c *Coordinator) thing(kind, name string) (thing, error) {
	if len(name) > 200 || !nameForm.MatchString(name) {
		return thing{}, fmt.Errorf("%q is no name for a %s; write lower-case letters, digits, dots and dashes, for example \"nightly-report\"", name, kind)
	}
	return thing{kind, name, c.opt.Prefix + "/" + kind + "/" + name}, nil
}

// Holder is who holds something.
type Holder struct {
	// Identity is what the holder calls itself; empty for a moment while it takes over.
	Identity string
	// Token is the holder's.
	Token int64
}

// Leader tells who leads under a name; false when nobody does.
func (c *Coordinator) Leader(ctx context.Context, name string) (Holder, bool, error) {
	return c.holder(ctx, leadership, name)
}

// LockedBy tells who holds a lock; false when nobody does.
func (c *Coordinator) LockedBy(ctx context.Context, name string) (Holder, bool, error) {
	return c.holder(ctx, lock, name)
}

func (c *Coordinator) holder(ctx context.Context, kind, name string) (Holder, bool, error) {
	of, err := c.thing(kind, name)
	if err != nil {
		return Holder{}, false, err
	}
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), c.opt.CallTimeout)
	defer cancel()
	got, err := c.cli.Get(ctx, of.prefix+"/", clientv3.WithFirstCreate()...)
	switch {
	case err != nil:
		return Holder{}, false, fmt.Errorf("asking etcd who holds the %s %q: %w", kind, name, err)
	case len(got.Kvs) == 0:
		return Holder{}, false, nil
	}
	return Holder{Identity: string(got.Kvs[0].Value), Token: got.Kvs[0].CreateRevision}, true, nil
}
