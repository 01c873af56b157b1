package grpcresolver

import (
	"cmp"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/framework/discovery"
)

// subset chooses size instances by rendezvous hashing: each instance has a score that depends on it and on the seed
// alone, and the lowest ones are taken. So the choice does not depend on history, one instance that comes or goes
// changes at most one choice, and callers with different seeds spread evenly.
//
// A change of one among thousands must not cost a hash of all. So the instances with the lowest scores are kept ranked,
// more of them than are needed: what comes is ranked or forgotten by one comparison, what goes is replaced by the next,
// and all are hashed again only when too few are left. It is used by one goroutine.
type subset struct {
	size int
	seed uint64

	known  []*discovery.Instance // what the fields below were made from, sorted by address
	ranked []scored              // lowest first: exactly the known instances up to limit
	limit  scored                // of those kept; meaningful when all is false
	all    bool                  // ranked holds every known instance
	chosen []*discovery.Instance // sorted by address
}

type scored struct {
	score    uint64
	instance *discovery.Instance
}

func compareScored(a, b scored) int {
	if c := cmp.Compare(a.score, b.score); c != 0 {
		return c
	}
	return strings.Compare(a.instance.Addr, b.instance.Addr)
}

func newSubset(size int, seed string) *subset {
	return &subset{size: size, seed: fnv(fnvOffset, seed)}
}

// choose returns the instances to use of a set that is sorted by address; the result is sorted too, and shared.
func (s *subset) choose(instances []*discovery.Instance) []*discovery.Instance {
	if s.size < 0 || len(instances) <= s.size {
		s.known, s.ranked, s.chosen = nil, nil, nil
		return instances
	}
	changed := true
	if s.known == nil {
		s.rank(instances)
	} else {
		changed = s.update(instances)
	}
	s.known = instances
	if !s.all && len(s.ranked) < s.size {
		s.rank(instances)
		changed = true
	}
	if changed {
		s.chosen = make([]*discovery.Instance, s.size)
		for n := range s.chosen {
			s.chosen[n] = s.ranked[n].instance
		}
		slices.SortFunc(s.chosen, func(a, b *discovery.Instance) int { return strings.Compare(a.Addr, b.Addr) })
	}
	return s.chosen
}

// rank scores all instances and keeps twice as many as are needed.
func (s *subset) rank(instances []*discovery.Instance) {
	keep := 2 * s.size
	s.ranked = make([]scored, 0, keep+1)
	for _, i := range instances {
		c := s.score(i)
		if len(s.ranked) == keep && compareScored(c, s.ranked[keep-1]) > 0 {
			continue
		}
		s.insert(c)
		s.ranked = s.ranked[:min(len(s.ranked), keep)]
	}
	s.all = len(instances) <= keep
	s.limit = s.ranked[len(s.ranked)-1]
}

// update walks the old and the new set side by side and reports whether a ranked instance came, went or changed.
// Instances that did not change are the same pointers and are not looked into.
func (s *subset) update(instances []*discovery.Instance) bool {
	changed := false
	o, n := 0, 0
	for o < len(s.known) || n < len(instances) {
		switch {
		case o < len(s.known) && n < len(instances) && s.known[o] == instances[n]:
			o++
			n++
		case n == len(instances) || o < len(s.known) && s.known[o].Addr <= instances[n].Addr:
			changed = s.remove(s.score(s.known[o])) || changed
			o++
		default:
			changed = s.add(s.score(instances[n])) || changed
			n++
		}
	}
	return changed
}

func (s *subset) add(c scored) bool {
	if !s.all && compareScored(c, s.limit) > 0 {
		return false
	}
	s.insert(c)
	if keep := 2 * s.size; len(s.ranked) > 2*keep {
		s.ranked = s.ranked[:keep]
		s.all, s.limit = false, s.ranked[keep-1]
	}
	return true
}

func (s *subset) insert(c scored) {
	at, _ := slices.BinarySearchFunc(s.ranked, c, compareScored)
	s.ranked = slices.Insert(s.ranked, at, c)
}

func (s *subset) remove(c scored) bool {
	at, found := slices.BinarySearchFunc(s.ranked, c, compareScored)
	if found {
		s.ranked = slices.Delete(s.ranked, at, at+1)
	}
	return found
}

// score is that of an instance for this caller. A restarted process is a new one.
func (s *subset) score(i *discovery.Instance) scored {
	id := i.Incarnation
	if id == "" {
		id = i.Addr
	}
	return scored{score: mix(fnv(s.seed, id)), instance: i}
}

const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// fnv is the FNV-1a hash, continued from h. It is written out because its value must not change between versions and
// must not allocate ten thousand times.
func fnv(h uint64, s string) uint64 {
	for n := range len(s) {
		h = (h ^ uint64(s[n])) * fnvPrime
	}
	return h
}

// mix spreads the hash over all bits, which FNV does not do for short inputs; it is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	return h ^ (h >> 31)
}
