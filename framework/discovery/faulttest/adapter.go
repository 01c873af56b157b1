// Package faulttest puts implementations of discovery under the faults of etcd, of networks and of processes, and
// watches what callers notice: how many calls fail, and how long it takes until everybody knows everybody again. etcd
// runs as real processes of one or three members, the services and their callers are real processes too, and between
// them and etcd stand proxies that cut, swallow or delay what passes.
//
// An implementation takes part by an [Adapter]: how a server announces itself, and how a caller gets a connection by
// name. The suite knows nothing else of it, so that newsvc, etcd's own resolver and anything else stand side by side.
//
// A program that uses the suite gives [Main] the first word: the suite starts that program again for each process that
// it needs. Nothing is started by itself, and Close of a [Lab] ends all that it started.
package faulttest

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
)

// Adapter is one implementation of discovery. Its functions are called in processes of their own, never in the one that
// runs the suite.
type Adapter struct {
	// Name tells adapters apart in tables; lower case, no spaces.
	Name string
	// Keys is the prefix, with its trailing slash, below which the keys of a service lie in etcd. It is called in the
	// process that runs the suite.
	Keys func(service string) string
	// Serve starts a gRPC server and announces it. It returns when the server answers calls; the announcement may still
	// be under way, since etcd may be away.
	Serve func(ctx context.Context, cfg ServeConfig) (Server, error)
	// Dial returns a connection to a service by its name. It may block while etcd is away, if that is what the
	// implementation does; ctx bounds it then.
	Dial func(ctx context.Context, cfg DialConfig) (Conn, error)
}

// Etcd is where a process finds etcd: through a proxy, perhaps.
type Etcd struct {
	// Endpoints are host:port each.
	Endpoints []string
	// Username and Password are empty when authentication is off.
	Username, Password string
}

// ServeConfig is what a server is told.
type ServeConfig struct {
	// Service is its name, Listen the host:port to listen on (port 0 for a free one); what it listens on is what it
	// announces.
	Service, Listen string
	// Etcd is the registry.
	Etcd Etcd
	// TTL is how long its announcement shall outlive it; whole seconds.
	TTL time.Duration
	// Register mounts the handlers.
	Register func(grpc.ServiceRegistrar)
}

// Server is a server that runs.
type Server interface {
	// Addr is the host:port on which it listens.
	Addr() string
	// Stop is what the implementation does at SIGTERM: leave the registry, let running calls end, close. It is called
	// once. When the registry could not confirm that the server left, so that its announcement ends by itself later, the
	// error is [ErrLeaveUnconfirmed]; that is no failure.
	Stop(ctx context.Context) error
}

// ErrLeaveUnconfirmed says that a server stopped in good order, but does not know whether it is out of the registry.
var ErrLeaveUnconfirmed = errors.New("the registry has not confirmed that the server left")

// DialConfig is what a caller is told.
type DialConfig struct {
	// Caller is its own name, Service the one it calls.
	Caller, Service string
	// Etcd is the registry.
	Etcd Etcd
	// Hold bounds how long an implementation may keep using instances that vanished from the registry all at once; 0
	// means its default. Those that have no such protection ignore it.
	Hold time.Duration
	// CacheDir is where an implementation may keep what it needs to start while etcd is away; empty means nowhere.
	CacheDir string
}

// Conn is a connection by name.
type Conn interface {
	grpc.ClientConnInterface
	// Close ends it.
	Close() error
}
