package user

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// MemoryStore is a [Store] in this process, for tests and trials.
type MemoryStore struct {
	id   string
	keep int
	news news

	closing sync.Once
	closed  chan struct{}

	mu      sync.Mutex
	users   map[string]User
	emails  map[string]string // lower-case email -> id
	changes []Change          // the last keep or a few more, without gaps
	last    int64             // Seq of the last change
}

var _ Store = (*MemoryStore)(nil)

// NewMemoryStore makes an empty store; of cfg only KeepChanges matters.
func NewMemoryStore(cfg Config) *MemoryStore {
	return &MemoryStore{
		id:     uuid.NewString(),
		keep:   cfg.KeepChanges,
		closed: make(chan struct{}),
		users:  map[string]User{},
		emails: map[string]string{},
	}
}

// Create implements [Store].
func (s *MemoryStore) Create(_ context.Context, u User) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.emails[emailKey(u.Email)]; taken {
		return ErrEmailTaken
	}
	s.putLocked(Created, u)
	return nil
}

// Get implements [Store].
func (s *MemoryStore) Get(_ context.Context, id string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[id]
	if !ok {
		return User{}, ErrNotFound
	}
	return u, nil
}

// List implements [Store].
func (s *MemoryStore) List(_ context.Context, after string, limit int) ([]User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page []User
	for _, id := range slices.Sorted(maps.Keys(s.users)) {
		if id > after && len(page) < limit {
			page = append(page, s.users[id])
		}
	}
	return page, nil
}

// Update implements [Store].
func (s *MemoryStore) Update(_ context.Context, id string, change func(*User)) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.users[id]
	if !ok {
		return User{}, ErrNotFound
	}
	u := old
	change(&u)
	if u == old {
		return u, nil
	}
	if owner, taken := s.emails[emailKey(u.Email)]; taken && owner != id {
		return User{}, ErrEmailTaken
	}
	delete(s.emails, emailKey(old.Email))
	s.putLocked(Updated, u)
	return u, nil
}

// Delete implements [Store].
func (s *MemoryStore) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[id]
	if !ok {
		return ErrNotFound
	}
	delete(s.users, id)
	delete(s.emails, emailKey(u.Email))
	s.recordLocked(Deleted, u)
	return nil
}

// Position implements [Store].
func (s *MemoryStore) Position(context.Context) (Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Position{s.id, s.last}, nil
}

// Changes implements [Store].
func (s *MemoryStore) Changes(ctx context.Context, after Position, limit int) ([]Change, error) {
	for {
		changed := s.news.wait()
		changes, err := s.kept(after, limit)
		if err != nil || len(changes) > 0 {
			return changes, err
		}
		select {
		case <-changed:
		case <-s.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *MemoryStore) kept(after Position, limit int) ([]Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.last - int64(len(s.changes)) + 1
	if after.Store != s.id || after.Seq < first-1 || after.Seq > s.last {
		return nil, ErrPositionLost
	}
	from := s.changes[after.Seq-first+1:]
	return slices.Clone(from[:min(limit, len(from))]), nil
}

// Close implements [Store].
func (s *MemoryStore) Close() error {
	s.closing.Do(func() { close(s.closed) })
	return nil
}

func (s *MemoryStore) putLocked(kind Kind, u User) {
	s.users[u.ID] = u
	s.emails[emailKey(u.Email)] = u.ID
	s.recordLocked(kind, u)
}

func (s *MemoryStore) recordLocked(kind Kind, u User) {
	s.last++
	s.changes = append(s.changes, Change{Position{s.id, s.last}, kind, u})
	if surplus := len(s.changes) - s.keep; surplus > 0 {
		s.changes = slices.Delete(s.changes, 0, surplus)
	}
	s.news.tell()
}

// emailKey is what makes two emails the same.
func emailKey(email string) string { return strings.ToLower(email) }
