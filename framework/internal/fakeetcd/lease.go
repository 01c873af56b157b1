package fakeetcd

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// minTTL is what etcd makes of shorter leases with its default election timeout.
const minTTL = 2

// lease is one lease. Its clock stands still while there is no leader.
type lease struct {
	id    int64
	ttl   int64 // seconds
	end   time.Time
	clock *time.Timer // nil: stopped
}

// wind gives a lease its whole time. The caller holds mu.
func (s *Server) wind(l *lease) {
	if l.clock != nil {
		l.clock.Stop()
		l.clock = nil
	}
	d := time.Duration(l.ttl) * time.Second
	l.end = time.Now().Add(d)
	if s.ledLocked() && !s.closed {
		l.clock = time.AfterFunc(d, func() { s.expire(l) })
	}
}

// stopClocks makes no lease run out. The caller holds mu.
func (s *Server) stopClocks() {
	for _, l := range s.leases {
		if l.clock != nil {
			l.clock.Stop()
			l.clock = nil
		}
	}
}

func (s *Server) expire(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.id] == l && l.clock != nil && !time.Now().Before(l.end) {
		s.drop(l)
	}
}

// drop ends a lease and deletes its keys. The caller holds mu.
func (s *Server) drop(l *lease) {
	if l.clock != nil {
		l.clock.Stop()
	}
	delete(s.leases, l.id)
	s.commit(func(revision int64) (events []*mvccpb.Event) {
		for _, key := range s.attached(l.id) {
			events = append(events, s.store.remove(key, revision))
		}
		return events
	})
}

func (s *Server) attached(id int64) (keys []string) {
	all, _ := s.store.at([]byte{0}, []byte{0}, 0)
	for _, kv := range all {
		if kv.Lease == id {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys
}

// LeaseGrant implements etcd's Lease.
func (s *Server) LeaseGrant(_ context.Context, req *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := req.ID
	for id == 0 || req.ID == 0 && s.leases[id] != nil {
		id = s.store.revision<<20 + int64(len(s.leases)) + 1
	}
	if s.leases[id] != nil {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	l := &lease{id: id, ttl: max(req.TTL, minTTL)}
	s.leases[id] = l
	s.wind(l)
	return &pb.LeaseGrantResponse{Header: s.header(s.store.revision), ID: id, TTL: l.ttl}, nil
}

// LeaseRevoke implements etcd's Lease.
func (s *Server) LeaseRevoke(_ context.Context, req *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[req.ID]
	if l == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	s.drop(l)
	return &pb.LeaseRevokeResponse{Header: s.header(s.store.revision)}, nil
}

// LeaseTimeToLive implements etcd's Lease.
func (s *Server) LeaseTimeToLive(_ context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &pb.LeaseTimeToLiveResponse{Header: s.header(s.store.revision), ID: req.ID, TTL: -1}
	if l := s.leases[req.ID]; l != nil {
		resp.TTL, resp.GrantedTTL = int64(time.Until(l.end)/time.Second), l.ttl
		if req.Keys {
			for _, key := range s.attached(l.id) {
				resp.Keys = append(resp.Keys, []byte(key))
			}
		}
	}
	return resp, nil
}

// LeaseLeases implements etcd's Lease.
func (s *Server) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &pb.LeaseLeasesResponse{Header: s.header(s.store.revision)}
	for id := range s.leases {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// LeaseKeepAlive implements etcd's Lease.
func (s *Server) LeaseKeepAlive(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	ended := make(chan error, 1)
	loop.Start(stream.Context(), func(context.Context) { ended <- s.renewAll(stream) }) // ends with the stream
	select {
	case err := <-ended:
		return err
	case <-stream.Context().Done():
		return context.Cause(stream.Context())
	}
}

func (s *Server) renewAll(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp, err := s.renew(stream.Context(), req.ID)
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// renew is one renewal. Like etcd's it looks at the stream's token again.
func (s *Server) renew(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	act := s.meet("LeaseKeepAlive")
	if act.Err != nil {
		return nil, act.Err
	}
	if err := s.authorized(ctx); err != nil {
		return nil, err
	}
	if err := s.awaitLeader(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	resp := &pb.LeaseKeepAliveResponse{Header: s.header(s.store.revision), ID: id}
	if l := s.leases[id]; l != nil {
		s.wind(l)
		resp.TTL = l.ttl
	}
	s.mu.Unlock()
	return resp, s.lose(ctx, act)
}
