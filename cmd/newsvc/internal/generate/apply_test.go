package generate_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// Of two that add a method at a time one comes second: nothing but another try is needed.
func TestWhoComesSecondIsToldToRunItAgain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a.proto")
	var set changes.Set
	if err := set.Write(name, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	var p *problem.Error
	if err := generate.Apply(&set); !errors.As(err, &p) || p.Fix != "run it again" || p.What != "nothing is written: "+name+" was changed by somebody else meanwhile" {
		t.Errorf("the error is %v", err)
	}
}
