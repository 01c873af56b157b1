package user_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
)

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	testStore(t, func(t *testing.T, keep int) user.Store {
		cfg := user.DefaultConfig()
		cfg.Store, cfg.KeepChanges = user.StoreMemory, keep
		return open(t, cfg)
	})
}

func TestSQLiteStore(t *testing.T) {
	t.Parallel()
	testStore(t, func(t *testing.T, keep int) user.Store {
		cfg := sqliteConfig(t)
		cfg.KeepChanges = keep
		return open(t, cfg)
	})
}

// testStore is what every Store has to do.
func testStore(t *testing.T, newStore func(t *testing.T, keep int) user.Store) {
	t.Helper()
	for name, test := range map[string]func(t *testing.T, s user.Store){
		"a created user is got as it was":             getsWhatWasCreated,
		"an unknown id is not found":                  unknownIsNotFound,
		"an email belongs to one user whatever case":  emailsAreUnique,
		"a freed email can be taken":                  freedEmail,
		"a list is ordered and begins after an id":    listsInOrder,
		"an update changes what it says":              updates,
		"an update that changes nothing is no change": idleUpdate,
		"changes come in order with their users":      changesInOrder,
		"a reader of changes waits for the next":      changesWait,
		"waiting for changes ends with the context":   changesEndWithContext,
		"a foreign or future position is lost":        strangePositions,
		"concurrent writers lose nothing":             concurrentWriters,
		"closing ends those who wait":                 closeEndsWaiting,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newStore(t, 1000))
		})
	}
	t.Run("a position older than what is kept is lost", func(t *testing.T) {
		t.Parallel()
		oldPositionIsLost(t, newStore(t, 3))
	})
}

func create(t *testing.T, s user.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.Create(within(t), newUser(name)); err != nil {
			t.Fatalf("create %q: %v", name, err)
		}
	}
}

func position(t *testing.T, s user.Store) user.Position {
	t.Helper()
	p, err := s.Position(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func getsWhatWasCreated(t *testing.T, s user.Store) {
	create(t, s, "ann")
	got, err := s.Get(within(t), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newUser("ann"), got); diff != "" {
		t.Error(diff)
	}
}

func unknownIsNotFound(t *testing.T, s user.Store) {
	_, err := s.Get(within(t), "nobody")
	wantError(t, err, user.ErrNotFound)
	_, err = s.Update(within(t), "nobody", func(*user.User) { t.Error("change was called without a user") })
	wantError(t, err, user.ErrNotFound)
	wantError(t, s.Delete(within(t), "nobody"), user.ErrNotFound)
}

func emailsAreUnique(t *testing.T, s user.Store) {
	create(t, s, "ann", "bob")
	other := newUser("eve")
	other.Email = "Ann@Example.com"
	wantError(t, s.Create(within(t), other), user.ErrEmailTaken)
	_, err := s.Update(within(t), "bob", func(u *user.User) { u.Email = other.Email })
	wantError(t, err, user.ErrEmailTaken)
	if _, err := s.Update(within(t), "ann", func(u *user.User) { u.Email = other.Email }); err != nil {
		t.Errorf("a user cannot write its own email differently: %v", err)
	}
	if got := position(t, s).Seq; got != 3 {
		t.Errorf("refused writes left changes: %d instead of 3", got)
	}
}

func freedEmail(t *testing.T, s user.Store) {
	create(t, s, "ann")
	if _, err := s.Update(within(t), "ann", func(u *user.User) { u.Email = "anna@example.com" }); err != nil {
		t.Fatal(err)
	}
	next := newUser("ann")
	next.ID = "ann2"
	if err := s.Create(within(t), next); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(within(t), "ann2"); err != nil {
		t.Fatal(err)
	}
	next.ID = "ann3"
	if err := s.Create(within(t), next); err != nil {
		t.Fatal(err)
	}
}

func listsInOrder(t *testing.T, s user.Store) {
	create(t, s, "c", "a", "d", "b")
	for _, tt := range []struct {
		after string
		limit int
		want  []string
	}{{"", 10, []string{"a", "b", "c", "d"}}, {"", 2, []string{"a", "b"}}, {"b", 10, []string{"c", "d"}}, {"d", 10, nil}} {
		users, err := s.List(within(t), tt.after, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range users {
			got = append(got, u.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("after %q limit %d: got %q, want %q", tt.after, tt.limit, got, tt.want)
		}
	}
}

func updates(t *testing.T, s user.Store) {
	create(t, s, "ann")
	want := newUser("ann")
	want.DisplayName = "Annabel"
	got, err := s.Update(within(t), "ann", func(u *user.User) { u.DisplayName = want.DisplayName })
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.Get(within(t), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]user.User{want, want}, []user.User{got, stored}); diff != "" {
		t.Error(diff)
	}
}

func idleUpdate(t *testing.T, s user.Store) {
	create(t, s, "ann")
	before := position(t, s)
	if _, err := s.Update(within(t), "ann", func(*user.User) {}); err != nil {
		t.Fatal(err)
	}
	if after := position(t, s); after != before {
		t.Errorf("position moved from %v to %v", before, after)
	}
}

func changesInOrder(t *testing.T, s user.Store) {
	start := position(t, s)
	create(t, s, "ann", "bob")
	ann := newUser("ann")
	ann.DisplayName = "Annabel"
	if _, err := s.Update(within(t), "ann", func(u *user.User) { u.DisplayName = ann.DisplayName }); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(within(t), "bob"); err != nil {
		t.Fatal(err)
	}
	at := func(n int64) user.Position { return user.Position{Store: start.Store, Seq: start.Seq + n} }
	want := []user.Change{
		{Position: at(1), Kind: user.Created, User: newUser("ann")},
		{Position: at(2), Kind: user.Created, User: newUser("bob")},
		{Position: at(3), Kind: user.Updated, User: ann},
		{Position: at(4), Kind: user.Deleted, User: newUser("bob")},
	}
	for from := range want {
		got, err := s.Changes(within(t), at(int64(from)), 2)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[from:min(from+2, len(want))], got); diff != "" {
			t.Errorf("after %d: %s", from, diff)
		}
	}
}

func changesWait(t *testing.T, s user.Store) {
	start := position(t, s)
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := s.Changes(within(t), start, 10)
		if err != nil || len(got) != 1 || got[0].User.ID != "ann" {
			t.Errorf("got %v, %v, want the creation of ann", got, err)
		}
	})
	create(t, s, "ann")
	wg.Wait()
}

func changesEndWithContext(t *testing.T, s user.Store) {
	ctx, cancel := context.WithCancel(within(t))
	start := position(t, s)
	cancel()
	_, err := s.Changes(ctx, start, 10)
	wantError(t, err, context.Canceled)
}

func strangePositions(t *testing.T, s user.Store) {
	create(t, s, "ann")
	at := position(t, s)
	for _, p := range []user.Position{{}, {Store: "other", Seq: at.Seq}, {Store: at.Store, Seq: at.Seq + 1}, {Store: at.Store, Seq: -1}} {
		_, err := s.Changes(within(t), p, 10)
		wantError(t, err, user.ErrPositionLost)
	}
}

func oldPositionIsLost(t *testing.T, s user.Store) {
	start := position(t, s)
	create(t, s, "a", "b", "c", "d")
	_, err := s.Changes(within(t), start, 10)
	wantError(t, err, user.ErrPositionLost)
	start.Seq++
	got, err := s.Changes(within(t), start, 10)
	if err != nil || len(got) != 3 {
		t.Errorf("got %v, %v, want the 3 changes kept", got, err)
	}
}

func concurrentWriters(t *testing.T, s user.Store) {
	const writers, each = 4, 10
	start := position(t, s)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.Create(within(t), newUser(fmt.Sprintf("%d-%d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := collect(t, s, start, writers*each)
	wg.Wait()
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != writers*each {
		t.Errorf("saw %d different users, want %d", n, writers*each)
	}
}

// collect reads n changes one after the other, checks that their numbers have no gap, and answers the ids.
func collect(t *testing.T, s user.Store, at user.Position, n int) []string {
	t.Helper()
	var ids []string
	for len(ids) < n {
		changes, err := s.Changes(within(t), at, 7)
		if err != nil {
			t.Errorf("after %v: %v", at, err)
			return ids
		}
		for _, c := range changes {
			if c.Position.Seq != at.Seq+1 {
				t.Errorf("change %d follows %d", c.Position.Seq, at.Seq)
				return ids
			}
			at = c.Position
			ids = append(ids, c.User.ID)
		}
	}
	return ids
}

func closeEndsWaiting(t *testing.T, s user.Store) {
	start := position(t, s)
	done := make(chan error, 1)
	go func() {
		_, err := s.Changes(within(t), start, 10)
		done <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-done, user.ErrClosed)
}

func TestMemoryStoreWaitsWithoutPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := user.NewMemoryStore(user.DefaultConfig())
		defer s.Close()
		start, _ := s.Position(t.Context())
		seen := make(chan string, 1)
		go func() {
			if got, err := s.Changes(t.Context(), start, 1); err == nil {
				seen <- got[0].User.ID
			}
			close(seen)
		}()
		synctest.Wait() // durably blocked, with no timer set
		if err := s.Create(t.Context(), newUser("ann")); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != "ann" {
			t.Errorf("saw %q, want ann", got)
		}
	})
}
