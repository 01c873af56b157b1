package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// columns is how wide help texts are at most.
const columns = 100

// newHelp is cobra's help command, but what is neither a command nor a topic is an error.
func newHelp(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND or TOPIC]",
		Short: "help about a command or a topic",
		Long:  "Help prints what a command does, with examples and all its flags, or explains a topic.",
		Example: `  newsvc help
  newsvc help create
  newsvc help exit-codes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				if about == nil || len(rest) == 0 {
					about, rest = cmd.Root(), args
				}
				return g.noCommand(about, rest)
			}
			return about.Help()
		},
	}
}

// complete gives groups of commands, such as "newsvc add", what the root has: help without arguments, and an error with
// the nearest command for any other.
func (g *globals) complete(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args = g.noCommand
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
		g.complete(c)
	}
}

// printHelp writes the whole help of a command to stdout: help that was asked for is a result.
func printHelp(cmd *cobra.Command, _ []string) {
	out := cmd.OutOrStdout()
	fmt.Fprintln(out, wrap(cmd.Long))
	if !cmd.IsAdditionalHelpTopicCommand() {
		fmt.Fprintln(out)
		printUsage(out, cmd)
	}
}

// printUsage writes all of the help that follows from the tree of commands.
func printUsage(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, "Usage:\n")
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s COMMAND [flags]\n", cmd.CommandPath())
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	printList(w, "Commands", cmd, func(c *cobra.Command) bool { return c.IsAvailableCommand() || c.Name() == "help" })
	printList(w, `Topics, for "newsvc help TOPIC"`, cmd, func(c *cobra.Command) bool { return c.IsAdditionalHelpTopicCommand() && !c.Hidden })
	if flags := cmd.LocalFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s\n", strings.TrimRight(flags.FlagUsagesWrapped(columns), "\n"))
	}
	if flags := cmd.InheritedFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(w, "\nFlags of every command:\n%s\n", strings.TrimRight(flags.FlagUsagesWrapped(columns), "\n"))
	}
}

func printList(w io.Writer, title string, of *cobra.Command, listed func(*cobra.Command) bool) {
	header := "\n" + title + ":\n"
	for _, c := range of.Commands() {
		if listed(c) {
			fmt.Fprintf(w, "%s  %-*s %s\n", header, c.NamePadding(), c.Name(), c.Short)
			header = ""
		}
	}
}

// wrap breaks the paragraphs of a text anew at word borders, so that authors need not count. Lines that begin with a
// blank are kept as they are, and so are line breaks before lines that begin with "- ".
func wrap(text string) string {
	var out []string
	length := 0 // of the last line, while a paragraph goes on in it
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, " \n")
		if line == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			out, length = append(out, line), 0
			continue
		}
		if strings.HasPrefix(line, "- ") {
			length = 0
		}
		for word := range strings.FieldsSeq(line) {
			n := utf8.RuneCountInString(word)
			if length == 0 || length+1+n > columns {
				out, length = append(out, word), n
				continue
			}
			out[len(out)-1] += " " + word
			length += 1 + n
		}
	}
	return strings.Join(out, "\n")
}
