package cli_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/tools/txtar"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/cli"
)

// line is a command line of newsvc in a script, with the lines behind it up to the next command.
type line struct {
	file  string
	at    int    // number of the line
	code  string // "0", or the one that it has to fail with
	args  []string
	after []string // what is looked at
	block []string // the same, up to the next empty line
}

// scripts reads all command lines of newsvc in testdata/script.
func scripts(t *testing.T) []line {
	t.Helper()
	files, err := filepath.Glob("../../testdata/script/*.txtar")
	if err != nil || len(files) < 10 {
		t.Fatalf("scripts: %q, %v", files, err)
	}
	var all []line
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(txtar.Parse(text).Comment), "\n")
		for i, l := range lines {
			words := strings.Fields(l)
			at := slices.Index(words, "newsvc")
			if at < 1 || at > 2 {
				continue
			}
			c := line{file: filepath.Base(file), at: i + 1, code: "0", args: unquoted(words[at+1:])}
			switch words[0] {
			case "fails", "reads":
				c.code = words[1]
			case "exec":
			default:
				continue
			}
			c.after = until(lines[i+1:], func(s string) bool { return strings.HasPrefix(s, "exec ") || strings.HasPrefix(s, "fails ") || s == "" })
			c.block = until(lines[i+1:], func(s string) bool { return s == "" })
			all = append(all, c)
		}
	}
	return all
}

func until(lines []string, end func(string) bool) []string {
	if i := slices.IndexFunc(lines, end); i >= 0 {
		return lines[:i]
	}
	return lines
}

// unquoted takes the quotes of testscript off words; one that has a blank within stays several words, which is enough here.
func unquoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = strings.Trim(w, "'")
	}
	return out
}

// looks reports whether one of the lines begins with one of the words.
func looks(lines []string, words ...string) bool {
	return slices.ContainsFunc(lines, func(l string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(l, w) })
	})
}

// of returns the command that a line is for, and what the flags and arguments come to.
func (l line) of() (cmd *cobra.Command, flags, args error) {
	cmd, rest, err := cli.NewRoot(l.args).Find(l.args)
	if err != nil {
		return nil, err, err
	}
	cmd.InitDefaultHelpFlag()
	if flags = cmd.ParseFlags(rest); flags == nil {
		args = cmd.ValidateArgs(cmd.Flags().Args())
	}
	return cmd, flags, args
}

func (l line) has(flag string) bool { return slices.Contains(l.args, flag) }

func (l line) json() bool { return strings.Contains(strings.Join(l.args, " ")+" ", "-o json ") }

// TestScriptsCoverEveryCommand wants of each command that a script asks for its help, makes each kind of mistake and compares what
// is said of it word by word, and, where it writes, that it is run dry and twice.
func TestScriptsCoverEveryCommand(t *testing.T) {
	t.Parallel()
	covered := map[string]map[string]bool{}
	all := scripts(t)
	for i, l := range all {
		cmd, flags, args := l.of()
		if cmd == nil {
			continue
		}
		path := cmd.CommandPath()
		if covered[path] == nil {
			covered[path] = map[string]bool{}
		}
		mark := func(what string, done bool) { covered[path][what] = covered[path][what] || done }
		_, unknown := flags.(*pflag.NotExistError)
		exact := l.code == "2" && looks(l.after, "cmp stderr")
		mark("--help", l.code == "0" && (l.has("--help") || l.has("-h")) && looks(l.after, "stdout", "cmp stdout"))
		mark("an unknown flag", exact && unknown)
		mark("a wrong number of arguments", exact && args != nil)
		mark("an error as JSON", l.code != "0" && l.json() && looks(l.after, "cmp stderr"))
		mark("--dry-run that writes nothing", l.code == "0" && l.has("--dry-run") && looks(l.block, "! exists", "kept", "count", "cmp ", "cmpenv "))
		second := slices.ContainsFunc(all[:i], func(b line) bool { return b.file == l.file && b.code == "0" && slices.Equal(b.args, l.args) })
		mark("a second run that changes nothing", second && (l.code == "4" || strings.Contains(strings.Join(l.after, "\n"), "unchanged")))
	}
	n := 0
	each(tree(t), func(cmd *cobra.Command) {
		if !cmd.Runnable() || cmd.IsAdditionalHelpTopicCommand() || cmd.Name() == "help" || cmd.Hidden {
			return
		}
		n++
		want := []string{"--help", "an unknown flag", "an error as JSON"}
		if cmd.ValidateArgs(nil) != nil || cmd.ValidateArgs(strings.Fields("a b c d e f g h i")) != nil {
			want = append(want, "a wrong number of arguments")
		}
		if cmd.Flags().Lookup("dry-run") != nil {
			want = append(want, "--dry-run that writes nothing", "a second run that changes nothing")
		}
		for _, what := range want {
			if !covered[cmd.CommandPath()][what] {
				t.Errorf("no script has %s with %s", cmd.CommandPath(), what)
			}
		}
	})
	if n < 13 {
		t.Errorf("there are %d commands only", n)
	}
}
