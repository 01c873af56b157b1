package fakeetcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Stop is the end of the process: connections are reset and refused, and time stands still for leases until Start.
func (s *Server) Stop() {
	s.net.Cut()
	s.SetLeader(false)
}

// Start undoes Stop.
func (s *Server) Start() {
	s.SetLeader(true)
	s.net.Heal()
}

// SetLeader takes the leader away or elects one. Without a leader nothing is written, linearizable reads wait, streams that
// want a leader are ended after three seconds, and no lease runs out; with a new one all leases have all their time.
func (s *Server) SetLeader(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on == s.ledLocked():
	case on:
		s.orphaned.Stop()
		close(s.led)
		for _, l := range s.leases {
			s.wind(l)
		}
	default:
		s.led = make(chan struct{})
		s.stopClocks()
		s.orphaned = time.AfterFunc(leaderTimeout, s.orphan)
	}
}

func (s *Server) ledLocked() bool {
	select {
	case <-s.led:
		return true
	default:
		return false
	}
}

func (s *Server) leader() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.led
}

// awaitLeader holds up a request that only a leader can answer.
func (s *Server) awaitLeader(ctx context.Context) error {
	led := s.leader()
	select {
	case <-led:
		return nil
	default:
	}
	t := time.NewTimer(requestTimeout)
	defer t.Stop()
	select {
	case <-led:
		return nil
	case <-t.C:
		return rpctypes.ErrGRPCTimeoutDueToLeaderFail
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stream ends streams that want a leader some time after there is none.
func (s *Server) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	md, _ := metadata.FromIncomingContext(ss.Context())
	if len(md.Get(rpctypes.MetadataRequireLeaderKey)) == 0 {
		return handle(srv, ss)
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	s.mu.Lock()
	led := s.ledLocked()
	s.followers[&cancel] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.followers, &cancel)
	}()
	if !led {
		return rpctypes.ErrGRPCNoLeader
	}
	return handle(srv, ledStream{ss, ctx})
}

// orphan ends the streams that want a leader if there still is none.
func (s *Server) orphan() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ledLocked() || s.closed {
		return
	}
	for cancel := range s.followers {
		(*cancel)(rpctypes.ErrGRPCNoLeader)
	}
}

// ledStream is a stream under another context.
type ledStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (l ledStream) Context() context.Context { return l.ctx }
