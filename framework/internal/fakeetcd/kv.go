package fakeetcd

import (
	"bytes"
	"cmp"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Range implements etcd's KV.
func (s *Server) Range(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rangeLocked(req)
}

func (s *Server) rangeLocked(req *pb.RangeRequest) (*pb.RangeResponse, error) {
	kvs, err := s.store.at(req.Key, req.RangeEnd, req.Revision)
	if err != nil {
		return nil, err
	}
	resp := &pb.RangeResponse{Header: s.header(s.store.revision), Count: int64(len(kvs))}
	if req.Limit > 0 && int64(len(kvs)) > req.Limit {
		kvs, resp.More = kvs[:req.Limit], true
	}
	if req.CountOnly {
		return resp, nil
	}
	for _, kv := range kvs {
		if req.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp, nil
}

// Put implements etcd's KV.
func (s *Server) Put(_ context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Lease != 0 && s.leases[req.Lease] == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	s.commit(func(revision int64) []*mvccpb.Event {
		return []*mvccpb.Event{s.store.put(string(req.Key), req.Value, req.Lease, revision)}
	})
	return &pb.PutResponse{Header: s.header(s.store.revision)}, nil
}

// DeleteRange implements etcd's KV.
func (s *Server) DeleteRange(_ context.Context, req *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []*mvccpb.Event
	s.commit(func(revision int64) []*mvccpb.Event {
		events = s.removeRange(req, revision)
		return events
	})
	return &pb.DeleteRangeResponse{Header: s.header(s.store.revision), Deleted: int64(len(events))}, nil
}

func (s *Server) removeRange(req *pb.DeleteRangeRequest, revision int64) (events []*mvccpb.Event) {
	kvs, _ := s.store.at(req.Key, req.RangeEnd, 0)
	for _, kv := range kvs {
		events = append(events, s.store.remove(string(kv.Key), revision))
	}
	return events
}

// Compact implements etcd's KV.
func (s *Server) Compact(_ context.Context, req *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.store.compact(req.Revision); err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: s.header(s.store.revision)}, nil
}

// Txn implements etcd's KV, without transactions in transactions.
func (s *Server) Txn(_ context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := true
	for _, c := range req.Compare {
		ok = ok && s.holds(c)
	}
	ops := req.Failure
	if ok {
		ops = req.Success
	}
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil && put.Lease != 0 && s.leases[put.Lease] == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
	}
	resp := &pb.TxnResponse{Succeeded: ok}
	var err error
	s.commit(func(revision int64) (events []*mvccpb.Event) {
		for _, op := range ops {
			var answer *pb.ResponseOp
			var made []*mvccpb.Event
			answer, made, err = s.operate(op, revision)
			if err != nil {
				return events
			}
			resp.Responses = append(resp.Responses, answer)
			events = append(events, made...)
		}
		return events
	})
	resp.Header = s.header(s.store.revision)
	return resp, err
}

func (s *Server) operate(op *pb.RequestOp, revision int64) (*pb.ResponseOp, []*mvccpb.Event, error) {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		got, err := s.rangeLocked(r.RequestRange)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: got}}, nil, err
	case *pb.RequestOp_RequestPut:
		ev := s.store.put(string(r.RequestPut.Key), r.RequestPut.Value, r.RequestPut.Lease, revision)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}, []*mvccpb.Event{ev}, nil
	case *pb.RequestOp_RequestDeleteRange:
		events := s.removeRange(r.RequestDeleteRange, revision)
		answer := &pb.DeleteRangeResponse{Deleted: int64(len(events))}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: answer}}, events, nil
	}
	return nil, nil, rpctypes.ErrGRPCNotCapable
}

// holds decides one comparison of a transaction.
func (s *Server) holds(c *pb.Compare) bool {
	kv := s.store.now(string(c.Key))
	if kv == nil {
		if _, value := c.TargetUnion.(*pb.Compare_Value); value {
			return false // etcd: a key that is not there has no value, not an empty one
		}
		kv = &mvccpb.KeyValue{}
	}
	var order int
	switch t := c.TargetUnion.(type) {
	case *pb.Compare_ModRevision:
		order = cmp.Compare(kv.ModRevision, t.ModRevision)
	case *pb.Compare_CreateRevision:
		order = cmp.Compare(kv.CreateRevision, t.CreateRevision)
	case *pb.Compare_Version:
		order = cmp.Compare(kv.Version, t.Version)
	case *pb.Compare_Lease:
		order = cmp.Compare(kv.Lease, t.Lease)
	case *pb.Compare_Value:
		order = bytes.Compare(kv.Value, t.Value)
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	}
	return order < 0
}

// commit runs a write at the next revision and tells the watchers. A write without events leaves the revision as it is.
// The caller holds mu.
func (s *Server) commit(write func(revision int64) []*mvccpb.Event) {
	events := write(s.store.revision + 1)
	if len(events) == 0 {
		return
	}
	s.store.revision++
	if s.faults.observe != nil {
		for _, ev := range events {
			s.faults.observe(ev)
		}
	}
	for w := range s.watchers {
		w.tell(s, events)
	}
}
