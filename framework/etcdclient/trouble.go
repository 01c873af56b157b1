package etcdclient

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/etcdlink"
)

// ConnError is why the endpoints of etcd can't be talked to: what the last connection to one of them ended with, such as a
// certificate that is not trusted.
type ConnError struct {
	// Endpoint is host:port.
	Endpoint string
	// Err is the cause.
	Err error
	// Remedy is what to do, in terms of a service's settings.
	Remedy string
	// Scheme is https or http when etcd was spoken to in the other way, else empty.
	Scheme string
	// Certain is true when it stays so until somebody changes the settings, or etcd.
	Certain bool
}

// Error is the cause and what to do.
func (t *ConnError) Error() string { return t.Err.Error() + "; " + t.Remedy }

// Unwrap returns the cause.
func (t *ConnError) Unwrap() error { return t.Err }

// Why returns what the last connections of a client made by [New] failed with; nil when one of the endpoints was reached,
// or none was tried yet. Without endpoints it is about all of the client's.
func Why(cli *clientv3.Client, endpoints ...string) *ConnError {
	return trouble(etcdlink.Of(cli).Failure(orAll(cli, endpoints)...))
}

// Hopeless connects, and waits until each of the endpoints failed in a way that no repetition mends; it says why. It returns
// nil when ctx ends before. A call waits for a connection as long as its context lets it; this tells when to end it.
func Hopeless(ctx context.Context, cli *clientv3.Client, endpoints ...string) *ConnError {
	cli.ActiveConnection().Connect()
	return trouble(etcdlink.Of(cli).Hopeless(ctx, orAll(cli, endpoints)...))
}

func orAll(cli *clientv3.Client, endpoints []string) []string {
	if len(endpoints) == 0 {
		return cli.Endpoints()
	}
	return endpoints
}

func trouble(f *etcdlink.ConnError) *ConnError {
	if f == nil {
		return nil
	}
	return &ConnError{Endpoint: f.Endpoint, Err: f.Err, Remedy: f.Remedy(), Scheme: f.Scheme(), Certain: f.Certain()}
}
