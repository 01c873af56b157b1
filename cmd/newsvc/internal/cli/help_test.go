package cli_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/cli"
)

// tree is the whole command tree, as it is when a command line has been read.
func tree(t *testing.T) *cobra.Command {
	t.Helper()
	root := cli.NewRoot([]string{"--help"})
	root.SetArgs([]string{"--help"})
	root.SetOut(&bytes.Buffer{})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	return root
}

// each calls do for cmd and all commands below.
func each(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, c := range cmd.Commands() {
		each(c, do)
	}
}

func help(t *testing.T, cmd *cobra.Command) string {
	t.Helper()
	var out bytes.Buffer
	cmd.SetOut(&out)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	n := 0
	each(tree(t), func(cmd *cobra.Command) {
		n++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Short == cmd.Long || cmd.Long == "" {
			t.Errorf("%s: Short is %q and Long is %q; both are to say something", path, cmd.Short, cmd.Long)
		}
		if first, _ := utf8.DecodeRuneInString(cmd.Short); strings.ToLower(string(first)) != string(first) || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short %q stands in a list: lower case, no full stop", path, cmd.Short)
		}
		if text := cmd.Long + "\n" + cmd.Example; !strings.Contains(text, "\n  ") {
			t.Errorf("%s: neither Long nor Example has an example, indented by two blanks", path)
		}
		if cmd.Runnable() && !strings.Contains(cmd.Long+cmd.Example, "newsvc ") {
			t.Errorf("%s: nothing shows how it is called", path)
		}
		described := func(f *pflag.Flag) {
			if len(f.Usage) < 5 {
				t.Errorf("%s: --%s is described as %q", path, f.Name, f.Usage)
			}
		}
		cmd.LocalFlags().VisitAll(described)
	})
	if n < 8 {
		t.Errorf("the tree has %d commands; are they all there?", n)
	}
}

func TestHelpFitsTheScreen(t *testing.T) {
	t.Parallel()
	each(tree(t), func(cmd *cobra.Command) {
		for line := range strings.Lines(help(t, cmd)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
				t.Errorf("%s: %d columns, more than 100: %s", cmd.CommandPath(), n, line)
			}
		}
	})
}

func TestRootHelpListsEverything(t *testing.T) {
	t.Parallel()
	root := tree(t)
	text := help(t, root)
	for _, cmd := range root.Commands() {
		if !strings.Contains(text, "\n  "+cmd.Name()+" ") && !cmd.Hidden {
			t.Errorf("the help of newsvc does not list %s", cmd.Name())
		}
	}
}

// TestExamplesAreRead gives every example to the parser: a flag that is no more, or a command that was renamed, shows.
func TestExamplesAreRead(t *testing.T) {
	t.Parallel()
	seen := 0
	each(tree(t), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "   #")
			for _, more := range []string{" | ", " && ", " > "} { // each example begins with the command that it is about
				line, _, _ = strings.Cut(line, more)
			}
			words := fields(line)
			if len(words) == 0 || words[0] != "newsvc" {
				continue
			}
			seen++
			root := tree(t)
			found, rest, err := root.Find(words[1:])
			if err != nil || !strings.HasPrefix(found.CommandPath(), cmd.CommandPath()) && cmd.Name() != "help" {
				t.Errorf("%s: the example %q calls %q, %v", cmd.CommandPath(), line, found.CommandPath(), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: the example %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: the example %q: %v", cmd.CommandPath(), line, err)
			}
		}
	})
	if seen < 8 {
		t.Errorf("%d examples were found; are they all there?", seen)
	}
}

// fields splits a line as a shell would, single quotes included.
func fields(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

func TestWrapKeepsWhatIsIndented(t *testing.T) {
	t.Parallel()
	word := strings.Repeat("x", 60)
	got := cli.Wrap(word + "\n" + word + "\nend\n\n  kept   as it is\n- one\n- two\n")
	want := word + "\n" + word + " end\n\n  kept   as it is\n- one\n- two"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
