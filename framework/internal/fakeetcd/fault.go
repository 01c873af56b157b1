package fakeetcd

import (
	"context"
	"maps"
	"path"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

const (
	// leaderTimeout is how long a stream that wants a leader survives without one.
	leaderTimeout = 3 * time.Second
	// requestTimeout is how long etcd itself tries to get a request through.
	requestTimeout = 7 * time.Second
)

// Fault is what happens to one request. The zero value is none.
type Fault struct {
	// Err refuses it: a status of rpctypes, such as rpctypes.ErrGRPCNoSpace. A watch is refused by the text of the error.
	Err error
	// Lose applies it and then resets the connections, so that nobody learns that it was.
	Lose bool
	// Swallow applies it and never answers.
	Swallow bool
	// Late applies it only after that time.
	Late time.Duration
}

// faults is what goes wrong at present; mu guards it.
type faults struct {
	request func(method string) Fault
	drop    func(*mvccpb.Event) bool
	observe func(*mvccpb.Event)
	tokens  map[string]struct{} // nil: anybody may do anything
	issued  int
}

// SetFault has every request ask f what happens to it: f is given the method, such as Range, Txn, LeaseGrant, Watch for each
// watch that is created, and LeaseKeepAlive for each renewal. It must not call the server. Nil ends all faults.
func (s *Server) SetFault(f func(method string) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.request = f
}

// DropEvents loses the events for which f reports true, once for each watch. Nil loses none.
func (s *Server) DropEvents(f func(*mvccpb.Event) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.drop = f
}

// Observe has every change told to f, in order, before anybody else learns of it. f must not call the server.
func (s *Server) Observe(f func(*mvccpb.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.observe = f
}

// meet counts a request and says what happens to it.
func (s *Server) meet(method string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[method]++
	if s.faults.request == nil {
		return Fault{}
	}
	return s.faults.request(method)
}

// Requests is how many requests there were, by method as for [Server.SetFault].
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	act := s.meet(method)
	if act.Err != nil {
		return nil, act.Err
	}
	if method != "Authenticate" {
		if err := s.authorized(ctx); err != nil {
			return nil, err
		}
	}
	if r, ok := req.(*pb.RangeRequest); !ok || !r.Serializable {
		if err := s.awaitLeader(ctx); err != nil {
			return nil, err
		}
	}
	if act.Late > 0 {
		t := time.NewTimer(act.Late)
		defer t.Stop()
		<-t.C // also when the client has given up: etcd applies what was proposed
	}
	resp, err := handle(ctx, req)
	if lost := s.lose(ctx, act); lost != nil {
		return nil, lost
	}
	return resp, err
}

// lose keeps the answer to what was applied from its client.
func (s *Server) lose(ctx context.Context, act Fault) error {
	switch {
	case act.Lose:
		s.net.Reset()
	case act.Swallow:
		<-ctx.Done()
	default:
		return nil
	}
	return rpctypes.ErrGRPCStopped
}
