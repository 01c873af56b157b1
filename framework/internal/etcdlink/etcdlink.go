// Package etcdlink remembers why the last connection to each of etcd's endpoints failed. A call to etcd waits for a
// connection until its deadline, and what clientv3 then returns is the deadline alone: that a certificate was refused, or
// that the port speaks TLS, is known only to who dials.
//
// A [Link] travels in the context of the client that it watches, so that everybody who has the client can ask [Of]. It
// only listens: it repeats no connection, but for a port that hangs up at once, which is asked whether it speaks TLS.
package etcdlink

import (
	"context"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Link knows of the connections of one client. It is safe for concurrent use; the zero value is ready.
type Link struct {
	mu      sync.Mutex
	ends    map[string]*end
	changed chan struct{} // closed at each change, nil while nobody waits
}

// end is what is known of one endpoint. It was never heard of while both are unset.
type end struct {
	good    bool // the last connection got an answer
	failure *ConnError
}

type key struct{}

// Context returns a context that carries the link, for [clientv3.Config].
func (l *Link) Context(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, l) }

// Of returns the link of a client that was made with one. Of another client nothing is known, and its link says so.
func Of(cli *clientv3.Client) *Link {
	if l, ok := cli.Ctx().Value(key{}).(*Link); ok {
		return l
	}
	return &Link{}
}

// Failure is why none of the endpoints can be talked to: of those that failed the one that tells most. It is nil when one of
// them was reached at the last attempt, or none was tried yet. Endpoints may have a scheme.
func (l *Link) Failure(endpoints ...string) *ConnError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worst(endpoints)
}

func (l *Link) worst(endpoints []string) *ConnError {
	var found *ConnError
	for _, ep := range endpoints {
		switch e := l.ends[address(ep)]; {
		case e == nil:
		case e.good:
			return nil
		case found == nil, e.failure.Certain() && !found.Certain():
			found = e.failure
		}
	}
	return found
}

// Hopeless waits until each of the endpoints failed in a way that no repetition mends, and returns one of the failures. It
// returns nil when ctx ends before.
func (l *Link) Hopeless(ctx context.Context, endpoints ...string) *ConnError {
	for {
		l.mu.Lock()
		f, all := l.worst(endpoints), true
		for _, ep := range endpoints {
			e := l.ends[address(ep)]
			all = all && e != nil && e.failure.Certain()
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		if all && f != nil {
			return f
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// reached notes that an endpoint answered.
func (l *Link) reached(addr string) { l.note(addr, &end{good: true}) }

// failed notes why a connection to an endpoint came to nothing.
func (l *Link) failed(f *ConnError) { l.note(f.Endpoint, &end{failure: f}) }

func (l *Link) note(addr string, e *end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends == nil {
		l.ends = map[string]*end{}
	}
	l.ends[addr] = e
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// last is the failure of an endpoint as it stands.
func (l *Link) last(addr string) *ConnError {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.ends[addr]; e != nil {
		return e.failure
	}
	return nil
}

// address is an endpoint without its scheme.
func address(endpoint string) string {
	if _, after, ok := strings.Cut(endpoint, "://"); ok {
		return after
	}
	return endpoint
}
