package user

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Errors a [Store] answers, wrapped or not; everything else it answers is a failure of the storage.
var (
	// ErrNotFound: no user has this id.
	ErrNotFound = errors.New("no such user")
	// ErrEmailTaken: another user has this email, compared without case.
	ErrEmailTaken = errors.New("email belongs to another user")
	// ErrPositionLost: the changes after this position are not all kept, or it is none of this store's.
	ErrPositionLost = errors.New("position is not among the changes kept")
	// ErrBusy: others kept the store locked for too long; nothing was changed, and trying again is fine.
	ErrBusy = errors.New("store is busy")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
)

// User is a user as stored. Times are UTC in whole microseconds, which is what every store can keep.
type User struct {
	ID, Email, DisplayName string
	Created, Updated       time.Time
}

// Kind says what happened to a user.
type Kind int

// Kinds of [Change]. Their numbers are stored: never give one a new meaning.
const (
	Created Kind = 1
	Updated Kind = 2
	Deleted Kind = 3
)

// Position is a place in the sequence of all changes. It is comparable only within one store.
type Position struct {
	// Store is the identity of the data, shared by all replicas on it.
	Store string
	// Seq counts changes from 1, without gaps, in the order of their commits.
	Seq int64
}

// Change is one committed change: the user after it, or as it was last when it was deleted.
type Change struct {
	Position Position
	Kind     Kind
	User     User
}

// Store keeps users and the sequence of their changes. Replicas may share one; then each sees the changes of all.
// All methods may be called concurrently, block at most as long as ctx lives or the storage takes, and stop with ctx.
type Store interface {
	// Create stores u, whose ID is new. ErrEmailTaken.
	Create(ctx context.Context, u User) error
	// Get answers one user. ErrNotFound.
	Get(ctx context.Context, id string) (User, error)
	// List answers at most limit users with an ID greater than after, ordered by ID.
	List(ctx context.Context, after string, limit int) ([]User, error)
	// Update calls change with the user as it is and stores what change made of it; nobody else writes in between. It
	// answers the user as it is then. When change leaves it as it was, nothing is written and no [Change] is made.
	// change may be called while locks are held: it must only compute. ErrNotFound, ErrEmailTaken.
	Update(ctx context.Context, id string, change func(*User)) (User, error)
	// Delete removes a user. ErrNotFound.
	Delete(ctx context.Context, id string) error
	// Position answers the place of the last change committed so far.
	Position(ctx context.Context) (Position, error)
	// Changes answers at most limit changes after a position, oldest first, and waits until there is at least one.
	// ErrPositionLost.
	Changes(ctx context.Context, after Position, limit int) ([]Change, error)
	// Close ends calls under way with ErrClosed or lets them finish, and gives back what the store holds.
	Close() error
}

// NewStore opens the store that cfg names; the caller closes it.
func NewStore(cfg Config) (Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if cfg.Store == StoreMemory {
		return NewMemoryStore(cfg), nil
	}
	return OpenSQLite(cfg)
}

// news tells waiting watches that this process changed something. The zero value is ready.
type news struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait answers a channel that is closed at the next tell. Take it before looking, or a change in between is missed.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}

// around spreads d by a quarter up and down, so that many watches do not look at the same moment.
func around(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
