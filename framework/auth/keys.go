package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// mostKeysAge is how long keys count that can't be read anew: they may have been withdrawn. With a long refresh it is three
// times that, so that it is never over before somebody tried.
const mostKeysAge = 24 * time.Hour

// minRSABits is the shortest modulus that counts.
const minRSABits = 2048

// key is one public key of the issuer.
type key struct {
	id     string
	public any
	algs   []string // what it can check
}

// keySet is what was read once; it is never changed.
type keySet struct {
	keys []key
	text string // to see whether the next one differs
}

// find returns the keys that may have made a signature: with the id if the token names one, else all for its algorithm.
func (s *keySet) find(id, alg string) (found []key) {
	if s == nil {
		return nil
	}
	for _, k := range s.keys {
		if (id == "" || k.id == id) && slices.Contains(k.algs, alg) {
			found = append(found, k)
		}
	}
	return found
}

// parseKeys reads a JSON Web Key Set. Keys that can't be used here are left out, as the standard asks; notes say which,
// without a word of what is in them.
func parseKeys(data []byte, algs []string) (set *keySet, notes []string, err error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, nil, errors.New("it is no JSON Web Key Set; expected {\"keys\": [...]}") // the error could quote a secret
	}
	set = &keySet{}
	for i, one := range raw.Keys {
		k, note := parseKey(one, algs)
		if note != "" {
			notes = append(notes, fmt.Sprintf("key %d: %s", i+1, note))
			continue
		}
		set.keys = append(set.keys, k)
	}
	if len(set.keys) == 0 {
		return nil, notes, fmt.Errorf("none of its %d keys can check a signature of %s: %s", len(raw.Keys), strings.Join(algs, ", "), strings.Join(notes, "; "))
	}
	set.text = string(data)
	return set, notes, nil
}

func parseKey(data []byte, allowed []string) (key, string) {
	var j jose.JSONWebKey
	if err := json.Unmarshal(data, &j); err != nil {
		return key{}, "it can't be read"
	}
	if j.Use != "" && j.Use != "sig" {
		return key{}, fmt.Sprintf("it is for %q, not for signatures", j.Use)
	}
	if _, symmetric := j.Key.([]byte); symmetric {
		return key{}, "it is symmetric: whoever can check its signatures can forge them"
	}
	if !j.IsPublic() {
		return key{}, "it is a private key, which must not be here: everybody who read it can forge tokens"
	}
	k := key{id: j.KeyID, public: j.Key}
	for _, alg := range algorithmsOf(j.Key) {
		if (j.Algorithm == "" || j.Algorithm == alg) && slices.Contains(allowed, alg) {
			k.algs = append(k.algs, alg)
		}
	}
	if len(k.algs) == 0 {
		return key{}, "it goes with no algorithm of auth.jwt.algorithms, or is too short"
	}
	return k, ""
}

// algorithms are all that tokens may be signed with.
func algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// algorithmsOf are those that a public key can check.
func algorithmsOf(public any) []string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return algorithms()[:6]
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []string{"ES256"}
		case elliptic.P384():
			return []string{"ES384"}
		case elliptic.P521():
			return []string{"ES512"}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// keyStore holds the last good keys and reads them again: beside the calls when they have become old, and at once when a
// token names a key that is not there, but never more often than the configuration allows.
type keyStore struct {
	cfg     JWTConfig
	load    func(context.Context) ([]byte, error)
	log     *zap.Logger
	changed func() // told after other keys came into use

	set  atomic.Pointer[keySet]
	due  atomic.Int64 // when they are old, in Unix nanoseconds
	good atomic.Int64 // when they could be read last, likewise; 0 before the first time

	waking atomic.Bool // the first reading after a long silence is under way

	mu      sync.Mutex
	reading *loop.Loop // the latest one; nil before the first
	began   time.Time  // when that was
	failing string     // why the latest one failed
	tooOld  bool       // the log was told so
	closed  bool
}

// poke starts a reading when the keys are old, and waits for it if nobody has tried for so long that keys may have been
// withdrawn long ago; otherwise it waits for nothing and costs three comparisons. The error is the end of ctx, or a refusal:
// the keys are too old to be trusted.
func (s *keyStore) poke(ctx context.Context, now time.Time) error {
	if now.UnixNano() < s.due.Load() && !s.waking.Load() && !s.stale(now) {
		return nil
	}
	if r := s.begin(now); r != nil && (s.waking.Load() || s.stale(now)) {
		if err := r.Join(ctx); err != nil {
			return err
		}
	}
	if !s.stale(now) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return refuse(reasonNoKeys, fmt.Sprintf("the keys could not be read for %v and count no more: %s", s.age(now).Round(time.Second), s.failing))
}

// age is how long ago the keys could be read last, by the clock of the wall; 0 before the first time.
func (s *keyStore) age(now time.Time) time.Duration {
	good := s.good.Load()
	if good == 0 {
		return 0
	}
	return max(0, time.Duration(now.UnixNano()-good))
}

// stale tells whether the keys are too old to be trusted.
func (s *keyStore) stale(now time.Time) bool { return s.age(now) > s.mostAge() }

func (s *keyStore) mostAge() time.Duration { return max(mostKeysAge, 3*s.cfg.Refresh) }

// begin starts a reading, unless one runs or the last one is too recent, and returns the one that runs; nil if none does.
func (s *keyStore) begin(now time.Time) *loop.Loop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading != nil {
		select {
		case <-s.reading.Done():
		default:
			return s.reading
		}
		if now.Sub(s.began) < s.gap() {
			return nil
		}
	}
	if s.closed {
		return nil
	}
	// By the clock of the wall: the other one stands still while a machine sleeps.
	s.waking.Store(s.reading != nil && now.Round(0).Sub(s.began.Round(0)) > 2*s.cfg.Refresh)
	s.began = now
	s.due.Store(now.Add(s.cfg.MinRefresh).UnixNano()) // if it fails
	s.reading = loop.Start(context.Background(), s.read)
	return s.reading
}

// gap is the shortest time between two readings. Without any keys nobody can be let in, so it is shorter then.
func (s *keyStore) gap() time.Duration {
	if s.set.Load() == nil {
		return min(time.Second, s.cfg.MinRefresh)
	}
	return s.cfg.MinRefresh
}

// read is one reading.
func (s *keyStore) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	defer s.waking.Store(false)
	err := s.readNow(ctx)
	s.mu.Lock()
	was := s.failing
	s.failing = ""
	if err != nil {
		s.failing = err.Error()
	}
	tooOld := err != nil && s.stale(time.Now())
	tell := tooOld && !s.tooOld
	s.tooOld = tooOld
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
	case err == nil && was != "":
		s.log.Info("the keys of tokens can be read again", zap.String("jwks", s.cfg.JWKS))
	case err != nil && was == "" && s.set.Load() == nil:
		s.log.Error("the keys of tokens can't be read; no token can be checked until they are", zap.String("jwks", s.cfg.JWKS), zap.Error(err))
	case tell:
		s.log.Error("the keys of tokens are too old to be trusted; no token is taken until they can be read", zap.String("jwks", s.cfg.JWKS),
			zap.Duration("age", s.age(time.Now())), zap.Error(err))
	case err != nil && was == "":
		s.log.Warn("the keys of tokens can't be read; the last good ones stay in use", zap.String("jwks", s.cfg.JWKS),
			zap.Duration("at_most", s.mostAge()), zap.Error(err))
	}
}

func (s *keyStore) readNow(ctx context.Context) error {
	data, err := s.load(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if old := s.set.Load(); old != nil && old.text == string(data) {
		s.due.Store(now.Add(s.cfg.Refresh).UnixNano())
		s.good.Store(now.UnixNano())
		return nil
	}
	set, notes, err := parseKeys(data, s.cfg.Algorithms)
	if err != nil {
		return fmt.Errorf("reading %q: %w", s.cfg.JWKS, err)
	}
	s.due.Store(now.Add(s.cfg.Refresh).UnixNano())
	s.set.Store(set)
	s.changed() // before the keys count as fresh: what was checked with those before does no more
	s.good.Store(now.UnixNano())
	ids := make([]string, 0, len(set.keys))
	for _, k := range set.keys {
		ids = append(ids, k.id)
	}
	s.log.Info("keys of tokens came into use", zap.String("jwks", s.cfg.JWKS), zap.Strings("ids", ids))
	if len(notes) > 0 {
		s.log.Warn("some keys are left out", zap.String("jwks", s.cfg.JWKS), zap.Strings("why", notes))
	}
	return nil
}

var errNoKeys = errors.New("no keys could be read yet")

// find returns the keys that may have signed a token. If there is none, the keys are read anew, unless that was done just
// now, and the call waits for it. The error is [errNoKeys], or the end of ctx.
func (s *keyStore) find(ctx context.Context, id, alg string) ([]key, error) {
	found := s.set.Load().find(id, alg)
	if len(found) > 0 {
		return found, nil
	}
	if r := s.begin(time.Now()); r != nil {
		if err := r.Join(ctx); err != nil {
			return nil, err
		}
		found = s.set.Load().find(id, alg)
	}
	if s.set.Load() == nil {
		return nil, errNoKeys
	}
	return found, nil
}

// ready reads the keys if there are none, and tells whether there are some now.
func (s *keyStore) ready(ctx context.Context) error {
	if s.set.Load() != nil {
		return nil
	}
	if r := s.begin(time.Now()); r != nil {
		if err := r.Join(ctx); err != nil {
			return err
		}
	}
	if s.set.Load() != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("the keys of tokens can't be read: %s", s.failing)
}

// close ends a reading that is under way, and begins no other.
func (s *keyStore) close() {
	s.mu.Lock()
	s.closed = true
	r := s.reading
	s.mu.Unlock()
	if r != nil {
		r.Stop()
	}
}

// stats is the state of the keys.
func (s *keyStore) stats(now time.Time) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{KeysAge: s.age(now), KeysError: s.failing}
	if set := s.set.Load(); set != nil {
		st.Keys = len(set.keys)
	}
	return st
}
