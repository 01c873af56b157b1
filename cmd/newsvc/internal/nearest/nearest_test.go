package nearest_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
)

func TestWord(t *testing.T) {
	t.Parallel()
	commands := []string{"add", "call", "create", "dev", "generate", "ls"}
	for word, want := range map[string]string{
		"creat": "create", "craete": "create", "CREATE": "create", "generat": "generate", "dve": "dev", "sl": "ls",
		"nonsense": "", "x": "", "": "", "create-user": "", strings.Repeat("create", 50): "",
	} {
		if got := nearest.Word(word, commands); got != want {
			t.Errorf("Word(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestTheNearerOneWins(t *testing.T) {
	t.Parallel()
	if got := nearest.Word("--chekc", []string{"--checks", "--check"}); got != "--check" {
		t.Errorf("got %q, want --check", got)
	}
}
