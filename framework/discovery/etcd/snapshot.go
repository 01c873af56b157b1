package etcd

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
)

// noRevision is that of no value.
const noRevision = -1

// entry is one key of the watched service.
type entry struct {
	key  string
	inst *discovery.Instance // the last value that could be read; nil when there was none yet
	mod  int64               // revision of the last value, whether it could be read or not
	list int                 // the last list that held the key, or that came before its last event
}

// compare orders entries by address; of those with one address the newest comes first and is the one that counts.
func (e *entry) compare(o *entry) int {
	if c := strings.Compare(e.inst.Addr, o.inst.Addr); c != 0 {
		return c
	}
	if c := cmp.Compare(o.mod, e.mod); c != 0 {
		return c
	}
	return strings.Compare(e.key, o.key)
}

// snapshot is what is known of one service: the entries by key, and those with an instance in order. It belongs to one
// goroutine; what view returns is shared.
type snapshot struct {
	service string
	log     *zap.Logger
	byKey   map[string]*entry
	sorted  []*entry
	insts   []*discovery.Instance // those of sorted, in step with it, so that a view is one copy
	doubles int                   // entries of sorted whose address another one before them has
	bad     map[string]struct{}   // keys whose last value can't be read
	told    []string              // the first of them; nil when that is to be found out anew
	lists   int                   // how many were taken in
}

func newSnapshot(service string, log *zap.Logger) *snapshot {
	return &snapshot{service: service, log: log, byKey: make(map[string]*entry), bad: make(map[string]struct{})}
}

// put takes in one value and reports whether the view changes. A value that can't be read changes nothing: the last
// good one of that key stays.
func (s *snapshot) put(kv *mvccpb.KeyValue) bool {
	e := s.byKey[string(kv.Key)]
	if e == nil {
		e = &entry{key: string(kv.Key)}
		s.byKey[e.key] = e
	}
	e.list = s.lists
	if e.mod == kv.ModRevision {
		return false
	}
	inst, err := discovery.Decode(s.service, kv.Value)
	s.judge(e, err)
	if err != nil {
		s.log.Warn("ignoring the value of a key, it can't be read", zap.String("key", e.key),
			zap.Int64("revision", kv.ModRevision), zap.Bool("last_good_kept", e.inst != nil), zap.Error(err))
		inst = e.inst
	}
	if inst == nil || e.inst != nil && e.inst.Equal(inst) {
		if s.doubles > 0 { // the revision decides between keys of one address
			s.move(e, e.inst, kv.ModRevision)
		}
		e.mod = kv.ModRevision
		return false
	}
	s.move(e, inst, kv.ModRevision)
	return true
}

// move gives an entry another instance and revision, and with them its place in the order.
func (s *snapshot) move(e *entry, inst *discovery.Instance, mod int64) {
	s.unlist(e)
	e.inst, e.mod = inst, mod
	if inst == nil {
		return
	}
	i := len(s.sorted)
	if i > 0 && s.sorted[i-1].compare(e) > 0 { // else it is the last one, as each of a first list is
		i, _ = slices.BinarySearchFunc(s.sorted, e, (*entry).compare)
	}
	if s.doubled(i, inst.Addr) {
		s.doubles++
	}
	s.sorted = slices.Insert(s.sorted, i, e)
	s.insts = slices.Insert(s.insts, i, inst)
}

// doubled reports whether an entry at i, before which and from which on sorted goes on, has an address of theirs.
func (s *snapshot) doubled(i int, addr string) bool {
	return i > 0 && s.insts[i-1].Addr == addr || i < len(s.insts) && s.insts[i].Addr == addr
}

func (s *snapshot) judge(e *entry, err error) {
	if _, was := s.bad[e.key]; was != (err != nil) {
		s.told = nil
	}
	if err == nil {
		delete(s.bad, e.key)
		return
	}
	s.bad[e.key] = struct{}{}
}

// maxBadKeys is how many keys of values that can't be read are told.
const maxBadKeys = 10

// badKeys returns the first keys, in order, whose last value can't be read. The slice is shared.
func (s *snapshot) badKeys() []string {
	if s.told == nil && len(s.bad) > 0 {
		keys := slices.Sorted(maps.Keys(s.bad))
		s.told = keys[:min(len(keys), maxBadKeys)]
	}
	return s.told
}

// draining reports whether the instance of a key is about to leave.
func (s *snapshot) draining(key string) bool {
	e := s.byKey[key]
	return e != nil && e.inst != nil && e.inst.State == discovery.StateDraining
}

// remove forgets a key and reports whether the view changes.
func (s *snapshot) remove(key string) bool {
	e := s.byKey[key]
	if e == nil {
		return false
	}
	delete(s.byKey, key)
	s.judge(e, nil)
	s.unlist(e)
	return e.inst != nil
}

func (s *snapshot) unlist(e *entry) {
	if e.inst == nil {
		return
	}
	if i, found := slices.BinarySearchFunc(s.sorted, e, (*entry).compare); found {
		s.sorted = slices.Delete(s.sorted, i, i+1)
		s.insts = slices.Delete(s.insts, i, i+1)
		if s.doubled(i, e.inst.Addr) {
			s.doubles--
		}
	}
}

// difference is what a list said that was not known before.
type difference struct {
	changed bool // the view is another one now
	missed  int  // keys whose value was older than what the watch was thought to have told
	removed int  // keys that are gone
}

// replace takes in a whole list. known is the revision up to which the watch was thought to have told everything. A key
// of an unchanged revision is kept as it is, unless its value is to be looked at too: in another etcd, or one that was
// restored, the same revision may be another value's.
func (s *snapshot) replace(kvs []*mvccpb.KeyValue, known int64, values bool) difference {
	var d difference
	s.lists++
	if len(s.byKey) == 0 {
		s.byKey = make(map[string]*entry, len(kvs))
		s.sorted = make([]*entry, 0, len(kvs))
		s.insts = make([]*discovery.Instance, 0, len(kvs))
	}
	for _, kv := range kvs {
		if e := s.byKey[string(kv.Key)]; values && e != nil && e.mod == kv.ModRevision && !s.holds(e, kv.Value) {
			s.move(e, e.inst, noRevision)
		}
		if s.put(kv) {
			d.changed = true
			if kv.ModRevision <= known {
				d.missed++
			}
		}
	}
	for key, e := range s.byKey {
		if e.list != s.lists && s.remove(key) {
			d.changed = true
			d.removed++
		}
	}
	return d
}

// holds reports whether an entry is what a value says; one that can't be read says nothing new to one that could not be
// read before.
func (s *snapshot) holds(e *entry, value []byte) bool {
	_, bad := s.bad[e.key]
	inst, err := discovery.Decode(s.service, value)
	if err != nil {
		return bad
	}
	return !bad && e.inst != nil && e.inst.Equal(inst)
}

// view returns the instances, sorted, one for each address. The slice is new and never nil.
func (s *snapshot) view() []*discovery.Instance {
	out := make([]*discovery.Instance, len(s.insts))
	copy(out, s.insts)
	if s.doubles > 0 {
		out = slices.CompactFunc(out, func(a, b *discovery.Instance) bool { return a.Addr == b.Addr })
	}
	return out
}
