package user_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
)

func TestConfigErrorsNameTheKey(t *testing.T) {
	t.Parallel()
	for key, change := range map[string]func(*user.Config){
		"store":         func(c *user.Config) { c.Store = "postgres" },
		"path":          func(c *user.Config) { c.Path = "" },
		"busy_timeout":  func(c *user.Config) { c.BusyTimeout = 0 },
		"poll_interval": func(c *user.Config) { c.PollInterval = 0 },
		"keep_changes":  func(c *user.Config) { c.KeepChanges = 0 },
	} {
		cfg := user.DefaultConfig()
		if err := cfg.Validate(); err != nil {
			t.Fatalf("the default is refused: %v", err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("got %v, want an error that begins with %q", err, key)
		}
		if _, err := user.NewStore(cfg); err == nil {
			t.Errorf("a store was opened with a bad %s", key)
		}
	}
}
