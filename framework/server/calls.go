package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// ErrDraining is the cause of the end of a stream's context when the server stops: [context.Cause] of the handler's
// context returns it.
var ErrDraining = errors.New("the server is draining")

// errDrained is what a peer is told whose stream was ended by the stop.
var errDrained = status.Error(codes.Unavailable, "this instance is shutting down; open the stream anew, other instances take it")

// errLeft is what a peer is told whose handler left by runtime.Goexit.
var errLeft = status.Error(codes.Internal, "internal error")

// method counts the calls of one method that are running.
type method struct {
	name   string
	active atomic.Int64
	// system methods (health, reflection) are nobody's work: they neither count as calls nor keep the server from
	// stopping.
	system bool
	// shed and limited count the calls that were refused before the handler ran.
	shed, limited atomic.Int64
}

// calls is the account of what is running. The map is complete before the server serves and never changes after.
type calls struct {
	methods map[string]*method
	other   *method // methods that no registered service has
	last    atomic.Int64
}

func newCalls(services map[string]grpc.ServiceInfo, system func(service string) bool) *calls {
	c := &calls{methods: map[string]*method{}, other: &method{name: "(unknown method)"}}
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			c.methods[full] = &method{name: full, system: system(service)}
		}
	}
	return c
}

func (c *calls) enter(full string) *method {
	m, known := c.methods[full]
	if !known {
		m = c.other
	}
	m.active.Add(1)
	if !m.system {
		c.last.Store(time.Now().UnixNano())
	}
	return m
}

func (m *method) leave() { m.active.Add(-1) }

// active counts the calls that are running.
func (c *calls) active() int {
	n := c.other.active.Load()
	for _, m := range c.methods {
		if !m.system {
			n += m.active.Load()
		}
	}
	return int(n)
}

// running names the methods that have calls running, sorted.
func (c *calls) running() []string {
	var names []string
	for _, m := range c.methods {
		if !m.system && m.active.Load() > 0 {
			names = append(names, m.name)
		}
	}
	if c.other.active.Load() > 0 {
		names = append(names, c.other.name)
	}
	slices.Sort(names)
	return names
}

// streams knows the streams that are open, to end them when the server stops.
type streams struct {
	mu   sync.Mutex
	open map[*stream]struct{}
	cut  bool // streams that come now are refused
	// abandoned is closed when streams whose handlers did not take the end of their context are ended over their
	// heads.
	abandoned chan struct{}
}

// stream is a [grpc.ServerStream] whose context the server can end.
type stream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
	system bool
}

func (s *stream) Context() context.Context { return s.ctx }

// add takes a stream into the account; it returns nil when streams have been ended already.
func (s *streams) add(ss grpc.ServerStream, system bool) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return nil
	}
	st := &stream{ServerStream: ss, system: system}
	st.ctx, st.cancel = context.WithCancelCause(ss.Context())
	s.open[st] = struct{}{}
	return st
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
	st.cancel(nil)
}

// cancelAll ends the contexts of all streams and refuses those to come; when all is false, it ends system streams
// only.
func (s *streams) cancelAll(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = s.cut || all
	for st := range s.open {
		if all || st.system {
			st.cancel(ErrDraining)
		}
	}
}

// serve runs the chain of one stream. A handler that waits in RecvMsg for a client that sends nothing, or in SendMsg for
// one that reads nothing, does not see the end of its context, because gRPC waits there for its own. So the chain runs
// beside this function, which can return for it: that ends the stream, and with it every RecvMsg and SendMsg.
func (s *streams) serve(srv any, ss grpc.ServerStream, m *method, chain func(any, grpc.ServerStream) error) error {
	st := s.add(ss, m.system)
	if st == nil {
		m.leave()
		return notprocessed.Error("this instance is shutting down; other instances take the call")
	}
	end := errLeft
	handler := loop.Start(context.WithoutCancel(st.ctx), func(context.Context) {
		defer m.leave()
		defer s.remove(st)
		end = chain(srv, st)
	})
	select {
	case <-handler.Done():
		return end
	case <-s.abandoned:
		return errDrained
	}
}

// drainStatus must be deferred directly. It corrects what a handler makes of a context that the stop ended.
func drainStatus(ctx context.Context, err *error) {
	if *err == nil || !errors.Is(context.Cause(ctx), ErrDraining) {
		return
	}
	if errors.Is(*err, context.Canceled) || status.Code(*err) == codes.Canceled || errors.Is(*err, ErrDraining) {
		*err = errDrained
	}
}
