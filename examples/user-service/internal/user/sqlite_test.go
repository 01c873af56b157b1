package user_test

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
)

func TestUsersAndPositionsSurviveReopening(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	first := open(t, cfg)
	start := position(t, first)
	create(t, first, "ann", "bob")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, cfg)
	if got := collect(t, second, start, 2); !slices.Equal(got, []string{"ann", "bob"}) {
		t.Errorf("got changes of %q, want ann and bob", got)
	}
	if got, err := second.Get(within(t), "ann"); err != nil || got != newUser("ann") {
		t.Errorf("got %v, %v, want ann as created", got, err)
	}
}

func TestStoresOnOneFileSeeTheSameOrder(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	stores := []user.Store{open(t, cfg), open(t, cfg)}
	start := position(t, stores[0])
	const each = 20
	var writers sync.WaitGroup
	for i, s := range stores {
		writers.Go(func() {
			for n := range each {
				if err := s.Create(within(t), newUser(string(rune('a'+i))+string(rune('a'+n)))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := make([][]string, len(stores))
	var readers sync.WaitGroup
	for i, s := range stores {
		readers.Go(func() { seen[i] = collect(t, s, start, 2*each) })
	}
	writers.Wait()
	readers.Wait()
	if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
		t.Errorf("two replicas saw different orders: %s", diff)
	}
}

func TestStoresOpenedTogetherShareOneSchema(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			s, err := user.NewStore(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			p, err := s.Position(within(t))
			if err != nil {
				t.Error(err)
			}
			ids[i] = p.Store
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] == "" || ids[0] != ids[len(ids)-1] {
		t.Errorf("stores of one file call it %q", ids)
	}
}

func TestProcessesShareOneFile(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	s := open(t, cfg)
	start := position(t, s)
	const processes = 3
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(within(t), os.Args[0])
			cmd.Env = append(os.Environ(), envWriter+"="+cfg.Path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	seen := collect(t, s, start, processes*writerUsers)
	wg.Wait()
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != processes*writerUsers {
		t.Errorf("saw %d different users, want %d", n, processes*writerUsers)
	}
}

func TestAWriteThatWaitsTooLongSaysBusy(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	cfg.BusyTimeout = 20 * time.Millisecond
	s := open(t, cfg)
	lock, err := sql.Open("sqlite", cfg.Path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	tx, err := lock.BeginTx(within(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Create(within(t), newUser("ann")), user.ErrBusy)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	create(t, s, "ann")
}

func TestAFileOfANewerProgramIsRefused(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	if err := open(t, cfg).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(within(t), "INSERT INTO migrations VALUES (99, 'future')"); err != nil {
		t.Fatal(err)
	}
	_, err = user.NewStore(cfg)
	if err == nil || !strings.Contains(err.Error(), "schema version 99") || !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("got %v, want an error that names the version and the file", err)
	}
}

func TestAPathThatCannotBeMadeIsExplained(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	blocker := filepath.Join(filepath.Dir(cfg.Path), "file")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Path = filepath.Join(blocker, "users.db")
	_, err := user.NewStore(cfg)
	if err == nil || !strings.Contains(err.Error(), cfg.Path) || !strings.Contains(err.Error(), "set path") {
		t.Errorf("got %v, want an error that names the path and the remedy", err)
	}
}

func TestPathsWithSpecialCharactersAreFiles(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	cfg.Path = filepath.Join(filepath.Dir(cfg.Path), "new dir", "a?b#c 100%.db")
	create(t, open(t, cfg), "ann")
	if _, err := os.Stat(cfg.Path); err != nil {
		t.Error(err)
	}
}
