package fakeetcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Revoke ends a lease as an operator or an old leader does. It reports whether there was one.
func (s *Server) Revoke(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l != nil {
		s.drop(l)
	}
	return l != nil
}

// Leases returns the leases that exist.
func (s *Server) Leases() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]int64, 0, len(s.leases))
	for id := range s.leases {
		ids = append(ids, id)
	}
	return ids
}

// Watchers is how many watches there are.
func (s *Server) Watchers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

// Revision is the store's.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.revision
}

// Get returns what a key holds; nil when it is not there.
func (s *Server) Get(key string) *mvccpb.KeyValue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.now(key)
}

// List returns all keys that begin with prefix, in order.
func (s *Server) List(prefix string) []*mvccpb.KeyValue {
	s.mu.Lock()
	defer s.mu.Unlock()
	kvs, _ := s.store.at([]byte(prefix), []byte(prefix+"\xff"), 0)
	return kvs
}

// Write puts a key without a lease.
func (s *Server) Write(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit(func(revision int64) []*mvccpb.Event {
		return []*mvccpb.Event{s.store.put(key, []byte(value), 0, revision)}
	})
}

// Remove deletes all keys that begin with prefix, in one write.
func (s *Server) Remove(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit(func(revision int64) []*mvccpb.Event {
		return s.removeRange(&pb.DeleteRangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefix + "\xff")}, revision)
	})
}

// CompactAll forgets all history.
func (s *Server) CompactAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.store.compact(s.store.revision) // it was compacted already
}

// Backup is a copy of all that an etcd keeps.
type Backup struct {
	store   *store
	leases  map[int64]int64
	cluster uint64
}

// Backup returns a copy of what there is now.
func (s *Server) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Backup{store: s.store.clone(), leases: make(map[int64]int64), cluster: s.cluster}
	for id, l := range s.leases {
		b.leases[id] = l.ttl
	}
	return b
}

// Empty is the backup of an etcd that nobody has written to, of the same cluster or of another one.
func Empty(cluster uint64) Backup {
	return Backup{store: newStore(), cluster: cluster}
}

// Restore makes the etcd one that was started from the backup: connections are reset, leases have all their time, and the
// revision is the old one.
func (s *Server) Restore(b Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.net.Reset()
	s.stopClocks()
	s.store, s.cluster, s.leases = b.store.clone(), b.cluster, make(map[int64]*lease)
	clear(s.watchers)
	for id, ttl := range b.leases {
		l := &lease{id: id, ttl: ttl}
		s.leases[id] = l
		s.wind(l)
	}
}
