// Package etcdsource reads settings below a prefix of etcd, as a layer of package config: once at the start, and again with
// each change.
//
// A key below the prefix is a key of the configuration with "/" for ".": <prefix>/clients/user-service/timeout holds 2s, as
// text, converted as the environment is. A key that names a group holds the keys of that group as YAML, and
// <prefix>/config.yaml the whole; the longer key wins.
//
// Its care is that a process never loses settings by a fault of etcd: while etcd is away, or after it was wiped, what was
// known stays, and a process that starts then takes the copy on disk. It knows nothing of keys and types, and so not whether
// a setting is good; that tells whoever loads the layer, with [Source.Keep]. It owns no client.
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

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const (
	// firstWait is how long a start waits for etcd before it takes the copy on disk.
	firstWait = 3 * time.Second
	// maxKeys tells a prefix of settings from one that was given by mistake.
	maxKeys = 1000
	// whole is the key, below the prefix, of a document with everything.
	whole = "config.yaml"

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
	current map[string]string // what was handed out, by key of etcd
	kept    map[string]string // what the copy on disk holds; nil when that is not known
	state   State
}

// State tells how a source is doing.
type State struct {
	// Prefix is where the settings lie, Keys how many are in use.
	Prefix string
	Keys   int
	// Revision is etcd's revision of them, AsOf when etcd was last heard of; both are those of the copy while FromCopy.
	Revision int64
	AsOf     time.Time
	// FromCopy says that what is in use was read from disk.
	FromCopy bool
	// Held says that etcd holds nothing although nobody was seen deleting it; what was known stays in use.
	Held bool
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
// error when there is neither. An etcd that holds nothing while the copy holds something counts as one that was wiped:
// the copy is taken, and a warning is due, which [State.Held] tells.
func (s *Source) First(ctx context.Context, cli *clientv3.Client) (config.Layer, error) {
	limited, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	bo := backoff.New(retryBase, time.Second)
	l, err := s.list(limited, cli)
	for err != nil && bo.Wait(limited) == nil {
		if again, aerr := s.list(limited, cli); aerr == nil || limited.Err() == nil {
			l, err = again, aerr // a last attempt that was cut short says less than the one before
		}
	}
	c, cerr := s.readCopy()
	switch {
	case err == nil && (len(l.settings) > 0 || cerr != nil || len(c.Settings) == 0):
		return s.take(l, false), nil
	case err == nil:
		layer := s.takeCopy(c, nil)
		s.mu.Lock()
		s.state.Held = true
		s.mu.Unlock()
		return layer, nil
	case ctx.Err() != nil:
		return config.Layer{}, context.Cause(ctx)
	case cerr == nil && c.Settings != nil:
		return s.takeCopy(c, s.explain(cli, err)), nil
	}
	text := "start etcd, or unset app.config_prefix"
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
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Unavailable {
		err = fmt.Errorf("it does not answer: %w", err)
	}
	return fmt.Errorf("read the configuration below %q from etcd at %q: %w", s.opt.Prefix, strings.Join(cli.Endpoints(), ", "), err)
}

// listing is everything below the prefix at one revision.
type listing struct {
	settings map[string]string
	revision int64
}

func (s *Source) list(ctx context.Context, cli *clientv3.Client) (listing, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.CallTimeout)
	defer cancel()
	resp, err := cli.Get(ctx, s.opt.Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(maxKeys+1))
	if err != nil {
		return listing{}, err
	}
	if len(resp.Kvs) > maxKeys {
		return listing{}, fmt.Errorf("there are more than %d keys below it; app.config_prefix is to name a prefix that holds settings of this service only", maxKeys)
	}
	l := listing{settings: make(map[string]string, len(resp.Kvs)), revision: resp.Header.GetRevision()}
	for _, kv := range resp.Kvs {
		l.settings[string(kv.Key)] = string(kv.Value)
	}
	return l, nil
}

// take makes l what is in use and returns it as a layer. With hold, a list that is empty all at once is not believed.
func (s *Source) take(l listing, hold bool) config.Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	s.state.Revision, s.state.AsOf, s.state.Err = l.revision, time.Now(), nil
	if hold && len(l.settings) == 0 && len(s.current) > 0 {
		s.state.Held = true
		return s.layer(s.current)
	}
	s.current = l.settings
	s.state.Held, s.state.FromCopy, s.state.Keys = false, false, len(l.settings)
	return s.layer(s.current)
}

func (s *Source) takeCopy(c copied, why error) config.Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.current, s.kept = true, c.Settings, c.Settings
	s.state.FromCopy, s.state.Keys, s.state.Revision, s.state.AsOf, s.state.Err = true, len(c.Settings), c.Revision, c.AsOf, why
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
		return strings.Count(key, "/")
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
const HeldHint = "write the settings again; to do without them, write any key below the prefix and delete it again"

var errEnded = errors.New("the watch ended without a reason")
