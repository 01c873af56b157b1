package balancer

import (
	"context"
	"math"
	"math/rand/v2"
	"sort"
	"sync/atomic"
)

// member is an instance as one table sees it.
type member struct {
	*Instance
	leaf  inner
	share float64 // of the calls, relative to the other members
}

// rule chooses one of a table's members. It is safe for concurrent use and does not change but for its counters.
type rule interface {
	choose(ctx context.Context, t *tried) int
}

// newRule makes the rule for members, of which there is one at least. turn counts picks from one table to the next.
func newRule(c *Config, members []member, turn, inflight *atomic.Int64) rule {
	even, shares := true, 0.0
	for _, m := range members {
		even = even && m.share == members[0].share
		shares += m.share
	}
	switch {
	case c.Rule == RingHash:
		return &keyed{members: members, even: even, header: c.HashHeader, maxLoad: c.HashMaxLoad, shares: shares, inflight: inflight}
	case c.Rule == LeastRequest && even:
		return &leastRequest{members: members}
	case c.Rule == LeastRequest:
		return &leastRequest{members: members, upTo: sums(members)}
	case even:
		return &turns{n: uint64(len(members)), turn: turn}
	}
	return newStride(members, turn)
}

// turns takes each member in turn.
type turns struct {
	n    uint64
	turn *atomic.Int64
}

func (t *turns) choose(_ context.Context, had *tried) int {
	if had.any() { // a repeat takes no turn, or the turns of calls would keep step with their repeats: of two, one would have all first attempts
		return int(rand.Uint64N(t.n))
	}
	return int(uint64(t.turn.Add(1)) % t.n)
}

// stride takes each member as often as its share says, spread evenly over time: stride scheduling (Waldspurger and Weihl
// 1995) in the form of gRPC's proposal A58, which needs no lock. Each member is asked in turn; it gains its share of
// the largest share each time, and takes the call when that makes a whole.
type stride struct {
	gains []uint32 // of whole; the largest is whole
	turn  *atomic.Int64
}

const whole = 1<<16 - 1

func newStride(members []member, turn *atomic.Int64) *stride {
	most := 0.0
	for _, m := range members {
		most = max(most, m.share)
	}
	s := &stride{gains: make([]uint32, len(members)), turn: turn}
	for n, m := range members {
		s.gains[n] = uint32(max(math.Round(m.share/most*whole), 1))
	}
	return s
}

func (s *stride) choose(_ context.Context, had *tried) int {
	for had.any() { // see turns; ends since the largest share is the whole
		if n := rand.IntN(len(s.gains)); rand.Uint32N(whole) < s.gains[n] {
			return n
		}
	}
	for n := uint64(len(s.gains)); ; { // ends within n turns: the largest takes each of its own
		t := uint64(s.turn.Add(1))
		i := t % n
		gain := uint64(s.gains[i])
		// Where members begin is spread by the golden ratio, lest those of one share come all at once.
		if (t/n*gain+i*40503)%whole >= whole-gain {
			return int(i)
		}
	}
}

// sums returns how far each member's share reaches when they are laid one after the other.
func sums(members []member) []float64 {
	upTo, sum := make([]float64, len(members)), 0.0
	for n, m := range members {
		sum += m.share
		upTo[n] = sum
	}
	return upTo
}

// leastRequest draws two members at random, by their shares, and takes the one with fewer calls in flight for its share:
// the power of two choices (Mitzenmacher 1996). Whoever looks at all finds the same one at the same time as everybody else.
type leastRequest struct {
	members []member
	upTo    []float64 // nil when all shares are even
}

func (l *leastRequest) choose(context.Context, *tried) int {
	if len(l.members) == 1 {
		return 0
	}
	a := l.draw()
	b := l.draw()
	for tries := 0; b == a && tries < 4; tries++ {
		b = l.draw()
	}
	if b == a {
		b = (a + 1 + rand.IntN(len(l.members)-1)) % len(l.members)
	}
	if l.load(b) < l.load(a) {
		return b
	}
	return a
}

func (l *leastRequest) draw() int {
	if l.upTo == nil {
		return rand.IntN(len(l.members))
	}
	at := rand.Float64() * l.upTo[len(l.upTo)-1]
	return min(sort.SearchFloat64s(l.upTo, at), len(l.upTo)-1)
}

func (l *leastRequest) load(n int) float64 {
	return float64(l.members[n].inflight.Load()) / l.members[n].share
}

// keyed takes the member that ranks highest for the call's key: rendezvous hashing (Thaler and Ravishankar 1998), weighted
// as by Schindelhauer and Schomaker 2005. Unlike a ring it needs no table of points that has to be built anew with each
// change, is exact about weights, and moves only the keys of who goes, or those that who comes takes over.
type keyed struct {
	members  []member
	even     bool
	header   string
	maxLoad  float64
	shares   float64       // of all members
	inflight *atomic.Int64 // of all members
}

func (k *keyed) choose(ctx context.Context, t *tried) int {
	key := keyHash(ctx, k.header)
	n := k.best(key, nil)
	if !t.has(k.members[n].Instance) && !k.full(n) {
		return n
	}
	// Seldom: those that rank higher are passed over, because they had the call before or have too many.
	over := make([]bool, len(k.members))
	for next := n; next >= 0; next = k.best(key, over) {
		if !t.has(k.members[next].Instance) && !k.full(next) {
			return next
		}
		over[next] = true
	}
	return n
}

// best is the member that ranks highest of those that are not passed over; -1 for none.
func (k *keyed) best(key uint64, over []bool) int {
	best, top := -1, 0.0
	for n := range k.members {
		if over != nil && over[n] {
			continue
		}
		if r := k.rank(key, n); best < 0 || r > top {
			best, top = n, r
		}
	}
	return best
}

// rank is a number between 0 and 1 for each key and member; a share above 1 moves it up as the theory wants it.
func (k *keyed) rank(key uint64, n int) float64 {
	m := &k.members[n]
	u := (float64(mix(key^m.hash)>>11) + 0.5) / (1 << 53)
	if k.even {
		return u
	}
	return -m.share / math.Log(u)
}

// full reports whether the member has more calls in flight than the bound allows: consistent hashing with bounded loads
// (Mirrokni, Thorup and Zadimoghaddam 2016).
func (k *keyed) full(n int) bool {
	if k.maxLoad == 0 {
		return false
	}
	fair := float64(k.inflight.Load()+1) * k.members[n].share / k.shares
	return float64(k.members[n].inflight.Load()+1) > math.Ceil(k.maxLoad*fair)
}
