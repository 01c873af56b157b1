package fakeetcd

import (
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// store keeps keys with their history, as far back as it was not compacted. Values in it are never changed. It has no lock.
type store struct {
	revision  int64
	compacted int64
	versions  map[string][]*mvccpb.KeyValue // by key, oldest first; Version 0 marks a deletion
	events    []*mvccpb.Event               // oldest first
}

func newStore() *store {
	return &store{revision: 1, versions: make(map[string][]*mvccpb.KeyValue)}
}

// clone returns a copy that lives a life of its own.
func (s *store) clone() *store {
	c := *s
	c.versions = maps.Clone(s.versions)
	for key, v := range c.versions {
		c.versions[key] = slices.Clone(v)
	}
	c.events = slices.Clone(s.events)
	return &c
}

// covers reports whether key lies in the range that etcd's key and range end describe.
func covers(from, end []byte, key string) bool {
	switch {
	case len(end) == 0:
		return key == string(from)
	case len(end) == 1 && end[0] == 0:
		return key >= string(from)
	}
	return key >= string(from) && key < string(end)
}

// at returns the keys of a range as of a revision, in order. Revision 0 means now.
func (s *store) at(from, end []byte, revision int64) ([]*mvccpb.KeyValue, error) {
	switch {
	case revision == 0:
		revision = s.revision
	case revision > s.revision:
		return nil, rpctypes.ErrGRPCFutureRev
	case revision < s.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	}
	var out []*mvccpb.KeyValue
	for key, versions := range s.versions {
		if !covers(from, end, key) {
			continue
		}
		for _, kv := range slices.Backward(versions) {
			if kv.ModRevision <= revision {
				if kv.Version > 0 {
					out = append(out, kv)
				}
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return out, nil
}

// now returns the present value of a key; nil when there is none.
func (s *store) now(key string) *mvccpb.KeyValue {
	versions := s.versions[key]
	if len(versions) == 0 || versions[len(versions)-1].Version == 0 {
		return nil
	}
	return versions[len(versions)-1]
}

// put writes at a revision that is made current when the transaction ends.
func (s *store) put(key string, value []byte, lease, revision int64) *mvccpb.Event {
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, Lease: lease, CreateRevision: revision, ModRevision: revision, Version: 1}
	if before := s.now(key); before != nil {
		kv.CreateRevision, kv.Version = before.CreateRevision, before.Version+1
	}
	return s.add(&mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
}

func (s *store) remove(key string, revision int64) *mvccpb.Event {
	return s.add(&mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision}})
}

func (s *store) add(ev *mvccpb.Event) *mvccpb.Event {
	key := string(ev.Kv.Key)
	s.versions[key] = append(s.versions[key], ev.Kv)
	s.events = append(s.events, ev)
	return ev
}

// since returns the events from a revision on.
func (s *store) since(revision int64) []*mvccpb.Event {
	i, _ := slices.BinarySearchFunc(s.events, revision, func(ev *mvccpb.Event, r int64) int { return int(ev.Kv.ModRevision - r) })
	for i > 0 && s.events[i-1].Kv.ModRevision == revision {
		i--
	}
	return s.events[i:]
}

// compact forgets what was overwritten before revision.
func (s *store) compact(revision int64) error {
	switch {
	case revision <= s.compacted:
		return rpctypes.ErrGRPCCompacted
	case revision > s.revision:
		return rpctypes.ErrGRPCFutureRev
	}
	s.compacted = revision
	s.events = slices.Clone(s.since(revision))
	for key, versions := range s.versions {
		last := 0
		for i, kv := range versions {
			if kv.ModRevision <= revision {
				last = i
			}
		}
		if versions = versions[last:]; versions[0].Version == 0 && versions[0].ModRevision <= revision {
			versions = versions[1:]
		}
		if len(versions) == 0 {
			delete(s.versions, key)
			continue
		}
		s.versions[key] = slices.Clone(versions)
	}
	return nil
}
