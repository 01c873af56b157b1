// Package call makes calls by name as services do: with the framework's own source, resolver, balancer and client. It
// learns the shape of messages from the reflection of an instance, else from .proto files nearby, and turns JSON into
// messages and back.
//
// It registers nothing and writes nothing to etcd.
package call

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

// Name is what a caller of ours calls itself, in the target of its connections.
const Name = "newsvc-call"

// closeTimeout bounds the end of a caller.
const closeTimeout = 5 * time.Second

// Caller is a caller of one service, in this process. Its methods are safe for concurrent use.
type Caller struct {
	Callee string
	Conn   *client.Conn
	Stack  *stack.Stack
}

// Options say how a callee is called.
type Options struct {
	// Addr is the one instance that calls go to; empty means that they are found by name.
	Addr string
	// Admin opens an admin server on a free port of this machine.
	Admin bool
	// MaxBytes bounds a reply; 0 means 64 MiB.
	MaxBytes int
}

// Open makes a caller and connects it, without waiting. Within the directory of a service it has that service's settings
// for the callee (clients.*), TLS included. The caller has to be closed.
func Open(ctx context.Context, place locate.Place, callee string, o Options) (*Caller, error) {
	cfg := stack.DefaultConfig()
	cfg.Telemetry.Metrics.Enabled = false
	cfg.Admin.Enabled, cfg.Admin.Listen = o.Admin, "127.0.0.1:0"
	cfg.Etcd, cfg.Discovery.Prefix = place.Etcd, place.Prefix
	if len(place.Etcd.Endpoints) == 0 {
		cfg.Etcd = etcdclient.DefaultConfig() // which is not asked
	}
	policy, err := policyOf(place, callee)
	if err != nil {
		return nil, err
	}
	policy.Timeout, policy.MinInstances = 0, 0 // each call has a deadline of its own
	policy.MaxRecvBytes = max(o.MaxBytes, 64<<20)
	if o.Addr != "" {
		policy.Target = "static:///" + o.Addr
	}
	cfg.Clients = map[string]client.Policy{callee: policy}
	s, err := stack.New(stack.Params{Service: Name, Config: cfg, Callees: []string{callee}})
	if err != nil {
		return nil, &problem.Error{Exit: problem.Environment, What: fmt.Sprintf("no caller of %s can be made: %v", callee, err), At: place.String(), Err: err}
	}
	c := &Caller{Callee: callee, Stack: s}
	if err := s.Connect(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if o.Admin {
		if err := s.Start(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if c.Conn, err = s.Clients().Conn(callee); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends all connections.
func (c *Caller) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.Stack.Close(ctx)
}

// policyOf is how the service whose directory this is calls callee; elsewhere the defaults.
func policyOf(place locate.Place, callee string) (client.Policy, error) {
	const defaults = "clients.defaults"
	own := "clients." + callee
	p := client.DefaultPolicy()
	cfg, err := place.Load([]string{own, defaults}, config.Section{Path: defaults, Defaults: p}, config.Section{Path: own, Defaults: p, Inherits: defaults})
	if err != nil {
		return p, err
	}
	if p, err = config.Get[client.Policy](cfg, own); err != nil {
		return p, err
	}
	for _, file := range []*string{&p.TLS.CA, &p.TLS.Cert, &p.TLS.Key} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(place.Dir, *file)
		}
	}
	return p, nil
}
