package configfile_test

import (
	"slices"
	"testing"

	"github.com/newsvc/newsvc/examples/internal/configfile"
)

func TestProseStaysAComment(t *testing.T) {
	t.Parallel()
	got := configfile.Uncomment("# server: the prose\nserver:\n  # listen: more of it\n  #listen: \":9000\"\n")
	if want := "# server: the prose\nserver:\n  # listen: more of it\n  listen: \":9000\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAKeyThatTheFileDoesNotNameIsMissing(t *testing.T) {
	t.Parallel()
	known := map[string]any{"log.level": "info", "clients.defaults.timeout": "5s", "clients.mail.timeout": "5s", "clients.mail.balancer": "x"}
	got := configfile.Missing(known, []string{"clients.defaults.timeout"})
	if want := []string{"clients.mail.balancer", "log.level"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
