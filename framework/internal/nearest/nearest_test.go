package nearest_test

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/nearest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamesFindsWhatWasMeant(t *testing.T) {
	t.Parallel()
	services := []string{"blogger-user", "order-service", "user", "user-admin", "user-service", "v"}
	for name, want := range map[string][]string{
		"user-servise":                 {"user-service", "user"},
		"usre-service":                 {"user-service"},
		"orders-service":               {"order-service"},
		"user-service":                 {"user"}, // itself is not meant
		"usr":                          {"user"},
		"order":                        {"order-service"},
		"blogger-user-service":         {"blogger-user", "user-service"},
		"payment-service":              nil,
		"x":                            {"v"},
		strings.Repeat("x", 1_000_000): nil,
	} {
		if got := nearest.Names(name, services, 3); !slices.Equal(got, want) {
			t.Errorf("Names(%.20q) = %q, want %q", name, got, want)
		}
	}
	if got := nearest.Names("user", services, 1); len(got) != 1 {
		t.Errorf("Names = %q, want one of them", got)
	}
}

func TestDistanceCountsSlips(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"abc", "acb", 1}, {"abc", "xbc", 1}, {"abc", "abcd", 1}, {"kitten", "sitting", 3}} {
		if got := nearest.Distance(c.a, c.b); got != c.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
