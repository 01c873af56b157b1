package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/config"
)

// A deployed binary tells which one it is, whatever its configuration is like.
func TestVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"v1.2.3": "user-service v1.2.3", "": "user-service (no version: "} {
		_, err := config.Load(config.Sources{Service: "user-service", Version: version, Args: []string{"--version"}, Environ: []string{"USER_SERVICE__NONSENSE=1"}, NoFile: true})
		if help := (*config.HelpError)(nil); !errors.As(err, &help) || !strings.HasPrefix(help.Usage, want) {
			t.Errorf("of %q: %v", version, err)
		}
	}
}
