// Package fakeetcd is an etcd for tests of what must survive one: the gRPC services KV, Lease, Watch and Auth over memory,
// reached through connections that exist in this process only. The real client speaks to it, so all that lies above the
// client runs unchanged; and since it waits on nothing outside the process, all of it runs in a testing/synctest bubble, where
// hours of leases, probes and outages pass in milliseconds.
//
// It answers as etcd does where that matters for discovery: leases that are granted anew in full when a leader is elected, a
// watch that starts ahead of the store and is never told anything, catching up in batches of a thousand revisions under a header
// that is ahead of them, progress that is reported only for watches that are level, compaction, streams that want a leader. It
// fails on command: see [Server.Network], [Server.SetFault], [Server.SetLeader], [Server.Restore] and what lies beside them.
//
// It is no database: one member, no authorization beyond tokens and what a fault refuses, no ranges within ranges, no nested
// transactions. [New] starts it, [Server.Close] ends it and waits.
package fakeetcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Server is one etcd with one member. Its methods are safe for concurrent use.
type Server struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedWatchServer
	pb.UnimplementedAuthServer

	net   *Network
	grpc  *grpc.Server
	serve *loop.Loop

	mu       sync.Mutex
	cluster  uint64
	store    *store
	leases   map[int64]*lease
	watchers map[*watcher]struct{}
	catching *time.Timer   // set while watchers catch up
	led      chan struct{} // closed while there is a leader
	orphaned *time.Timer   // set when there was none

	followers map[*context.CancelCauseFunc]struct{} // of streams that want a leader
	faults    faults
	requests  map[string]int
	closed    bool
}

// New starts an etcd that is empty and has a leader.
func New() *Server {
	s := &Server{
		net: newNetwork(), cluster: 1, store: newStore(), leases: make(map[int64]*lease), watchers: make(map[*watcher]struct{}),
		led: make(chan struct{}), requests: make(map[string]int), followers: make(map[*context.CancelCauseFunc]struct{}),
	}
	close(s.led)
	s.grpc = grpc.NewServer(
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
	)
	pb.RegisterKVServer(s.grpc, s)
	pb.RegisterLeaseServer(s.grpc, s)
	pb.RegisterWatchServer(s.grpc, s)
	pb.RegisterAuthServer(s.grpc, s)
	s.serve = loop.Start(context.Background(), func(context.Context) { _ = s.grpc.Serve(s.net) })
	return s
}

// Network is what lies between this etcd and its clients.
func (s *Server) Network() *Network { return s.net }

// Close ends everything and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.stopClocks()
	if s.catching != nil {
		s.catching.Stop()
	}
	if s.orphaned != nil {
		s.orphaned.Stop()
	}
	s.mu.Unlock()
	s.net.shut()
	s.grpc.Stop()
	s.serve.Stop()
}

// header is that of an answer; the caller holds mu.
func (s *Server) header(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.cluster, MemberId: 1, Revision: revision, RaftTerm: 2}
}
