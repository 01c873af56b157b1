package docs_test

import (
	"net/url"
	"slices"
	"testing"
)

func TestCodeIsComparedWithoutWhatReadersAreTold(t *testing.T) {
	t.Parallel()
	file := statements("package main\n\n// a comment\nfunc main() {\n\tapp.Run(\n\t\ta,\n\t\tb,\n\t)\n}\n")
	for code, want := range map[string]bool{
		"func main() {\n  app.Run(\n":     true,
		"a // what a is\n\n// and\nb\n":   true,
		"app.Run(\n\ta,\n\tb,\n\tc,\n)\n": false,
		"b\na\n":                          false,
		"app.Ru\n":                        false,
	} {
		if got := contains(file, statements(code)); got != want {
			t.Errorf("contains(%q) = %v, want %v", code, got, want)
		}
	}
}

func TestPagesAreCutAtTheirFences(t *testing.T) {
	t.Parallel()
	p := parse("a.md", "# One Two\n\n1. first\n   goes on [x](y.go)\n2. second\n\n```go\n[no](link)\n```\n")
	if len(p.blocks) != 1 || p.blocks[0].language != "go" || p.blocks[0].text != "[no](link)\n" || p.blocks[0].number != 8 {
		t.Errorf("blocks are %+v", p.blocks)
	}
	var items []string
	for _, i := range p.items() {
		items = append(items, i.text)
	}
	if want := []string{"# One Two", "1. first goes on [x](y.go)", "2. second"}; !slices.Equal(items, want) {
		t.Errorf("items are %q, want %q", items, want)
	}
	if got := links(items[1]); !slices.Equal(got, []string{"y.go"}) {
		t.Errorf("links are %q", got)
	}
}

func TestABrokenLinkIsNoticed(t *testing.T) {
	t.Parallel()
	here := parse("docs/a.md", "# One, two\n")
	for target, want := range map[string]bool{
		"../README.md": false, "../NOTHING.md": true, "#one-two": false, "#three": true, "decisions": false,
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if reason := broken([]page{here}, here, u); (reason != "") != want {
			t.Errorf("broken(%q) = %q", target, reason)
		}
	}
}
