package user_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
)

// envWriter makes this test binary a second process that writes to the file it names.
const envWriter = "USER_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(envWriter); path != "" {
		if err := writeUsers(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// writerUsers is how many users one writing process creates.
const writerUsers = 30

func writeUsers(path string) error {
	cfg := user.DefaultConfig()
	cfg.Path = path
	cfg.BusyTimeout = 30 * time.Second
	s, err := user.NewStore(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range writerUsers {
		if err := s.Create(context.Background(), newUser(fmt.Sprintf("%d-%03d", os.Getpid(), i))); err != nil {
			return err
		}
	}
	return nil
}

func newUser(name string) user.User {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	return user.User{ID: name, Email: name + "@example.com", DisplayName: "User " + name, Created: at, Updated: at}
}

func sqliteConfig(t *testing.T) user.Config {
	t.Helper()
	cfg := user.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "users.db")
	cfg.PollInterval = 5 * time.Millisecond
	cfg.BusyTimeout = 20 * time.Second
	return cfg
}

func open(t *testing.T, cfg user.Config) user.Store {
	t.Helper()
	s, err := user.NewStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// within gives a test a context that fails it long before its deadline.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
