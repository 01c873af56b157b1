package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/config"
)

type fragileConfig struct {
	Share int `config:"share" reload:"live"`
}

// Validate divides without a look.
func (c fragileConfig) Validate() error {
	if n := 100 / c.Share; n > 50 {
		return fmt.Errorf("share: %d is too small; write 2 or more", c.Share)
	}
	return nil
}

func TestReloadRefusesWhatValidatePanicsOn(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "fragile: {share: 10}\n", config.Section{Path: "fragile", Defaults: fragileConfig{Share: 5}})
	write(t, dir, "config.yaml", "fragile: {share: 0}\n")
	out := r.Reload(t.Context())
	if out.State.Refused == nil || !strings.Contains(out.State.Refused.Error(), "panics") {
		t.Errorf("refused: %v", out.State.Refused)
	}
	if got := get[fragileConfig](t, r.Current(), "fragile").Share; got != 10 {
		t.Errorf("share %d is in force, want 10", got)
	}
}
