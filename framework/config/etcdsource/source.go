// Package etcdsource reads settings below a prefix of etcd, as a layer of package config: once at the start, and again with
// each change.
//
// A key below the prefix is a key of the configuration with "/" for ".": <prefix>/clients/user-service/timeout holds 2s, as
// text, converted as the environment is. A key that names a group holds the keys of that group as YAML, and
// <prefix>/config.yaml the whole; the longer key wins.
//
// Its care is that a process never loses settings by a fault of etcd: while etcd is away, or after it was wiped, what was
// known stays, and a process that starts then takes the copy on disk. While a wiped etcd is being filled again, each key that
// is not there yet is held: it stays as it was known, until it is written, or seen being deleted, or until the key
// <prefix>/config.complete says that what is there is all.
//
// It knows nothing of keys and types, and so not whether a setting is good; that tells whoever loads the layer, with
// [Source.Keep]. It owns no client.
package etcdsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/etcdlink"
	"github.com/newsvc/newsvc/framework/internal/hedge"
)

const (
	// firstWait is how long a start waits for etcd before it takes the copy on disk.
	firstWait = 3 * time.Second
	// firstCalls and firstPace say how often a start asks within that time: one member may be silent, the first two calls may both
	// meet it, and the third is the next one's turn.
	firstCalls, firstPace = 3, 600 * time.Millisecond
	// maxKeys tells a prefix of settings from one that was given by mistake.
	maxKeys = 1000
	// whole is the key, below the prefix, of a document with everything.
	whole = "config.yaml"
	// complete is the key, below the prefix, that says that nothing is missing from what is there. It is no setting.
	complete = "config.complete"

	retryBase, retryMax = 100 * time.Millisecond, 3 * time.Second
)

// Options says what a [Source] reads.
type Options struct {
	// Prefix is what all keys begin with, without the slash at its end: "/newsvc/config/user-service". Required.
	Prefix string
	// Service names the copy on disk. Required with Dir.
	Service string
	// Dir is where the last good settings are kept for a start without etcd. Empty: they are not.
	Dir string
	// CallTimeout bounds each call to etcd. Default 3s.
	CallTimeout time.Duration
	// Resync is how often everything is read anew, in case a watch has missed something. Default 30s.
	Resync time.Duration
	// Log may be nil for silence. Values are never logged.
	Log *zap.Logger
}

// Source reads settings from etcd. Its methods are safe for concurrent use; one Watch at a time.
type Source struct {
	opt Options

	mu      sync.Mutex // guards what follows; nothing is called under it
	started bool
	current map[string]string // what was handed out, by key of etcd: what etcd holds, and what is held
	held    map[string]bool   // the keys of current that etcd has lost
	last    listing           // what etcd held as far as it was told; without versions when that is known from a copy
	kept    *copied           // what the copy on disk holds; nil when that is not known
	state   State
}

// State tells how a source is doing.
type State struct {
	// Prefix is where the settings lie, Keys how many are in use.
	Prefix string
	Keys   int
	// Revision is etcd's revision of them, AsOf when etcd was last heard of; both are those of the copy until etcd was.
	Revision int64
	AsOf     time.Time
	// FromCopy says that all that is in use was read from disk.
	FromCopy bool
	// Held are the keys that etcd has lost: they are not there although nobody was seen deleting them, and etcd was wiped or
	// restored, or all is gone at once. What was known of them stays in use. See [HeldHint].
	Held []string
	// Err is why etcd can't be read at present; nil when it can.
	Err error
}

// New returns a source. It reads nothing yet.
func New(opt Options) (*Source, error) {
	if !strings.HasPrefix(opt.Prefix, "/") || strings.HasSuffix(opt.Prefix, "/") {
		return nil, fmt.Errorf(`%q is no prefix for settings in etcd; write for example "/newsvc/config/user-service"`, opt.Prefix)
	}
	if opt.CallTimeout <= 0 {
		opt.CallTimeout = 3 * time.Second
	}
	if opt.Resync <= 0 {
		opt.Resync = 30 * time.Second
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	return &Source{opt: opt, state: State{Prefix: opt.Prefix}}, nil
}

// SetLog replaces the logger, before Watch: what the log looks like may stand in etcd.
func (s *Source) SetLog(log *zap.Logger) { s.opt.Log = log }

// Name is the name of the layers.
func (s *Source) Name() string { return "etcd " + s.opt.Prefix }

// State tells how the source is doing.
func (s *Source) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// First returns the settings for a start: those of etcd if it answers within three seconds, else the copy on disk. It is an
// error when there is neither. When the copy shows that etcd was wiped or restored since it was written, the keys that etcd
// does not have are taken from the copy, and a warning is due, which [State.Held] tells.
func (s *Source) First(ctx context.Context, cli *clientv3.Client) (config.Layer, error) {
	limited, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	bo := backoff.New(retryBase, time.Second)
	ask := hedge.Plan{Calls: firstCalls, Pace: firstPace, If: func() bool { return cli.ActiveConnection().GetState() == connectivity.Ready }}
	l, err := s.list(limited, cli, ask)
	for err != nil && bo.Wait(limited) == nil {
		if again, aerr := s.list(limited, cli, ask); aerr == nil || limited.Err() == nil {
			l, err = again, aerr // a last attempt that was cut short says less than the one before
		}
	}
	c, cerr := s.readCopy()
	switch {
	case err == nil:
		lost := false
		if cerr == nil && c.Settings != nil {
			lost = len(l.settings) == 0 || l.before(listing{revision: c.Revision, cluster: c.Cluster})
			s.believe(c, lost)
		}
		return s.take(l, nil, lost), nil
	case ctx.Err() != nil:
		return config.Layer{}, context.Cause(ctx)
	case cerr == nil && c.Settings != nil:
		return s.takeCopy(c, s.explain(cli, err)), nil
	}
	text := "start etcd, or unset app.config_prefix"
	switch {
	case refused(err):
		text = "give its user what it needs, or unset app.config_prefix"
	case etcdlink.Of(cli).Failure(cli.Endpoints()...).Certain():
		text = "or unset app.config_prefix"
	}
	switch {
	case cerr != nil:
		text = cerr.Error() + "; " + text
	case s.opt.Dir == "":
		text += "; with discovery.cache_dir set, a copy is kept for starts without etcd"
	default:
		text = fmt.Sprintf("there is no copy in %q yet; %s", s.opt.Dir, text)
	}
	return config.Layer{}, fmt.Errorf("%w; %s", s.explain(cli, err), text)
}

// Copy returns the settings of the copy on disk, for a start at which those of etcd are no good. false is none.
func (s *Source) Copy() (config.Layer, bool) {
	c, err := s.readCopy()
	if err != nil || c.Settings == nil {
		return config.Layer{}, false
	}
	return s.takeCopy(c, nil), true
}

func (s *Source) explain(cli *clientv3.Client, err error) error {
	switch code := status.Code(err); {
	case refused(err):
		err = fmt.Errorf("it refuses this user: %w; \"newsvc etcd-roles %s --config-prefix %s\" prints what the user needs", err, s.opt.Service, s.opt.Prefix)
	case errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded || code == codes.Unavailable:
		err = fmt.Errorf("it %w", etcdlink.Silent(cli, err))
	}
	return fmt.Errorf("read the configuration below %q from etcd at %q: %w", s.opt.Prefix, strings.Join(cli.Endpoints(), ", "), err)
}

// refused says whether etcd answered, and that this user may not read.
func refused(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// listing is everything below the prefix at one revision.
type listing struct {
	settings map[string]string
	versions map[string]int64 // the revision that wrote each key; nil when that is not known
	complete bool             // the key that says so is there
	revision int64
	cluster  uint64
}

// before says whether l, which was read later than o, is from an etcd that does not go on from there: one that was wiped,
// restored, or set up anew. Its revision is lower then, or it is another cluster; or, when it has written much since, it holds
// keys that were written at a time that o should have seen.
func (l listing) before(o listing) bool {
	if o.cluster != 0 && l.cluster != o.cluster || l.revision < o.revision {
		return true
	}
	if o.versions == nil {
		return false
	}
	for key, at := range l.versions {
		if at <= o.revision && o.versions[key] != at {
			return true
		}
	}
	return false
}

func (s *Source) list(ctx context.Context, cli *clientv3.Client, how hedge.Plan) (listing, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.CallTimeout)
	defer cancel()
	resp, err := hedge.First(ctx, how, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return cli.Get(ctx, s.opt.Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(maxKeys+1))
	})
	if err != nil {
		return listing{}, err
	}
	if len(resp.Kvs) > maxKeys {
		return listing{}, fmt.Errorf("there are more than %d keys below it; app.config_prefix is to name a prefix that holds settings of this service only", maxKeys)
	}
	l := listing{
		settings: make(map[string]string, len(resp.Kvs)), versions: make(map[string]int64, len(resp.Kvs)),
		revision: resp.Header.GetRevision(), cluster: resp.Header.GetClusterId(),
	}
	for _, kv := range resp.Kvs {
		s.put(&l, kv)
	}
	return l, nil
}

// put adds a key to a listing.
func (s *Source) put(l *listing, kv *mvccpb.KeyValue) {
	l.versions[string(kv.Key)] = kv.ModRevision
	if string(kv.Key) == s.opt.Prefix+"/"+complete {
		l.complete = true
		return
	}
	l.settings[string(kv.Key)] = string(kv.Value)
}

// take makes what etcd holds what is in use, together with what is held, and returns it as a layer. deleted are keys that were
// seen being deleted; with lost, keys that are not there are held from now on.
func (s *Source) take(l listing, deleted []string, lost bool) config.Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]bool{}
	for key := range s.current {
		if _, there := l.settings[key]; !there && !l.complete && (lost || s.held[key]) && !slices.Contains(deleted, key) {
			held[key] = true
		}
	}
	use := maps.Clone(l.settings)
	for key := range held {
		use[key] = s.current[key]
	}
	s.started, s.last, s.current, s.held = true, l, use, held
	s.state.Revision, s.state.AsOf, s.state.Err = l.revision, time.Now(), nil
	s.state.Keys, s.state.Held = len(use), slices.Sorted(maps.Keys(held))
	s.state.FromCopy = s.state.FromCopy && len(held) > 0 && len(held) == len(use)
	return s.layer(use)
}

// believe takes over, before the first list, what the copy knows of keys that etcd has lost, or all of it.
func (s *Source) believe(c copied, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept, s.state.FromCopy = &c, all
	s.current, s.held = c.Settings, map[string]bool{}
	for _, key := range c.Held {
		s.held[key] = true
	}
}

func (s *Source) takeCopy(c copied, why error) config.Layer {
	s.believe(c, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	s.last = listing{revision: c.Revision, cluster: c.Cluster} // so that the next list tells what was lost since
	s.state.Keys, s.state.Revision, s.state.AsOf, s.state.Err, s.state.Held = len(c.Settings), c.Revision, c.AsOf, why, c.Held
	return s.layer(c.Settings)
}

// layer orders the settings so that those of a longer key come later and win.
func (s *Source) layer(settings map[string]string) config.Layer {
	l := config.Layer{Name: s.Name(), Documents: true, Refused: map[string]string{
		"app":                 "it is read before etcd is; set it in a file, the environment or a flag",
		"etcd":                "it is needed to reach etcd; set it in a file, the environment or a flag",
		"discovery.prefix":    "callers and callees must agree on it before they meet; set it in a file, the environment or a flag",
		"discovery.cache_dir": "the copy for starts without etcd lies there; set it in a file, the environment or a flag",
	}}
	rank := func(key string) int {
		if key == s.opt.Prefix+"/"+whole {
			return -1
		}
		return strings.Count(key, "/") + strings.Count(key, ".") // a dot parts a key of the configuration just as well
	}
	for _, key := range slices.SortedFunc(maps.Keys(settings), func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	}) {
		name := strings.ReplaceAll(strings.TrimPrefix(key, s.opt.Prefix+"/"), "/", ".")
		if rank(key) < 0 {
			name = ""
		}
		l.Settings = append(l.Settings, config.Setting{Key: name, Text: settings[key], Position: config.Position{Name: "etcd " + key}})
	}
	return l
}

// HeldHint says what to do about [State.Held].
const HeldHint = "write them again; when what is in etcd is all there is to be, write the key config.complete below the prefix, with any value"

var (
	errEnded  = errors.New("the watch ended without a reason")
	errSilent = errors.New("the watch was not answered")
)
