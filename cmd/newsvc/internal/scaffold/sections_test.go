package scaffold_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/framework/stack"
)

// TestSectionIsNotTheFrameworks asks the framework itself: app.Config refuses the sections it keeps, and a service that
// is called like one of them could not start.
func TestSectionIsNotTheFrameworks(t *testing.T) {
	t.Parallel()
	tops := map[string]bool{"gateway": true, "auth": true}
	for _, s := range stack.Sections(nil) {
		top, _, _ := strings.Cut(s.Path, ".")
		tops[top] = true
	}
	if len(tops) < 10 {
		t.Errorf("the framework has the sections %v, want at least 10", tops)
	}
	for top := range tops {
		if !stack.Reserved(top) {
			t.Errorf("the framework does not reserve %q", top)
		}
		if n := parse(t, top); stack.Reserved(n.Section) {
			t.Errorf("the service %q gets the section %q, which the framework keeps for itself", top, n.Section)
		}
	}
	if n, err := names.Parse("blogger-user"); err != nil || stack.Reserved(n.Section) {
		t.Errorf("the section %q is reserved, %v", n.Section, err)
	}
}
