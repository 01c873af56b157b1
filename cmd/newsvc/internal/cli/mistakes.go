package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// wantsJSON reports whether a command line asks for JSON. It reads the words themselves, so that it holds when they
// cannot be parsed, too; the last -o counts, and nothing after "--".
func wantsJSON(args []string) bool {
	json, value := false, false
	for _, arg := range args {
		switch {
		case value:
			json, value = arg == "json", false
		case arg == "--":
			return json
		case arg == "-o" || arg == "--output" || arg == "-qo":
			value = true
		default:
			for _, form := range []string{"--output=", "-o=", "-o", "-qo=", "-qo"} {
				if given, ok := strings.CutPrefix(arg, form); ok {
					json = given == "json"
					break
				}
			}
		}
	}
	return json
}

// noCommand answers words that are no command below cmd: with the whole command line as it was probably meant.
func (g *globals) noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	what := fmt.Sprintf("%q is not a command", args[0])
	if cmd.HasParent() {
		what += " of " + cmd.CommandPath()
	}
	p := &problem.Error{Exit: problem.Usage, What: what, Fix: "newsvc help"}
	if cmd.HasParent() {
		p.Fix = cmd.CommandPath() + " --help"
	}
	meant := g.meant(cmd, args[0])
	dashes := slices.Index(g.args, "--")
	switch {
	case dashes >= 0 && meant != nil && meant.Name() == args[0]: // what follows "--" is never a command
		p.What = fmt.Sprintf("%q stands behind \"--\", where it is no command", args[0])
		p.Fix = g.without(dashes)
	case args[0] == "run" && !cmd.HasParent():
		p.Fix = "newsvc dev      or, for one plain process: go run ."
	case meant == nil:
	case meant.IsAdditionalHelpTopicCommand():
		p.Fix = "newsvc help " + meant.Name()
	default:
		p.Fix = g.instead(args[0], meant.Name())
	}
	return p
}

// meant is the command below cmd that a person meant by a word; nil when none is near. Other tools' words for what ours
// do are known.
func (g *globals) meant(cmd *cobra.Command, word string) *cobra.Command {
	var names []string
	for _, c := range cmd.Commands() {
		if slices.Contains(c.SuggestFor, word) {
			return c
		}
		names = append(names, c.Name())
	}
	near := nearest.Word(word, names)
	for other, ours := range map[string]string{"new": "create", "start": "dev", "serve": "dev", "up": "dev", "list": "ls", "ps": "ls", "gen": "generate", "invoke": "call"} {
		if word == other && !cmd.HasParent() {
			near = ours
		}
	}
	for _, c := range cmd.Commands() {
		if near != "" && c.Name() == near {
			return c
		}
	}
	return nil
}

// instead is the command line with one word replaced, to paste.
func (g *globals) instead(wrong, right string) string {
	line := []string{"newsvc"}
	for _, arg := range g.args {
		rest, isFlag := strings.CutPrefix(arg, wrong+"=")
		switch {
		case arg == wrong:
			arg = right
		case isFlag && strings.HasPrefix(wrong, "-"):
			arg = right + "=" + rest
		}
		line = append(line, quote(arg))
	}
	return strings.Join(line, " ")
}

// without is the command line without one word, to paste.
func (g *globals) without(at int) string {
	line := []string{"newsvc"}
	for _, arg := range slices.Delete(slices.Clone(g.args), at, at+1) {
		line = append(line, quote(arg))
	}
	return strings.Join(line, " ")
}

// quote writes an argument so that a shell reads it as one.
func quote(arg string) string {
	special := func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:=,@%+", r)
	}
	if arg != "" && strings.IndexFunc(arg, special) < 0 {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// flagError turns cobra's complaint about flags into one of ours.
func (g *globals) flagError(cmd *cobra.Command, err error) error {
	p := &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: cmd.CommandPath() + " --help", Err: err}
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		if word := g.firstWord(); word != "" && cmd.HasSubCommands() && !cmd.HasParent() {
			if of, _, err := cmd.Find([]string{word}); err == nil && of != cmd {
				return g.tooEarly(cmd, of, givenFlag(unknown))
			}
			return g.noCommand(cmd, []string{word}) // a flag of a command that there is not
		}
		given := givenFlag(unknown)
		p.What = fmt.Sprintf("%q is not a flag of %s", given, cmd.CommandPath())
		if near := nearFlag(cmd, unknown); near != "" {
			p.Fix = g.instead(given, near)
		}
	case errors.As(err, &missing):
		kind, _ := pflag.UnquoteUsage(missing.GetFlag())
		p.What = fmt.Sprintf("--%s needs a value", missing.GetFlag().Name)
		p.Fix = fmt.Sprintf("--%s %s      see %s --help", missing.GetFlag().Name, strings.ToUpper(kind), cmd.CommandPath())
	case errors.As(err, &invalid):
		p.What = fmt.Sprintf("--%s %q: %v", invalid.GetFlag().Name, invalid.GetValue(), reason(invalid))
	}
	return p
}

// tooEarly answers a flag that stands before the command it may belong to.
func (g *globals) tooEarly(cmd, of *cobra.Command, given string) error {
	p := &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%q is not a flag of %s", given, cmd.CommandPath()), Fix: of.CommandPath() + " --help"}
	of.InitDefaultHelpFlag()
	name := strings.TrimLeft(given, "-")
	if of.Flags().Lookup(name) == nil || !strings.HasPrefix(given, "--") {
		return p
	}
	p.What += fmt.Sprintf("; of %s it is, and stands behind it", of.CommandPath())
	line := []string{"newsvc"}
	var moved []string
	for _, arg := range g.args {
		if arg == given || strings.HasPrefix(arg, given+"=") {
			moved = append(moved, quote(arg))
			continue
		}
		line = append(line, quote(arg))
	}
	p.Fix = strings.Join(append(line, moved...), " ")
	return p
}

// reason is what is wrong with a value, without the name of the function of Go that said so.
func reason(err *pflag.InvalidValueError) string {
	text := err.Unwrap().Error()
	if i := strings.LastIndex(text, ": "); strings.HasPrefix(text, "strconv.") && i >= 0 {
		return text[i+2:]
	}
	return text
}

// givenFlag is an unknown flag as it was typed, without its value.
func givenFlag(unknown *pflag.NotExistError) string {
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return "-" + short
	}
	return "--" + unknown.GetSpecifiedName()
}

// nearFlag is the flag of cmd that an unknown one was meant as, with its dashes; empty when none is near. It finds
// --check for -check, too.
func nearFlag(cmd *cobra.Command, unknown *pflag.NotExistError) string {
	given := strings.TrimLeft(givenFlag(unknown), "-")
	if len(given) < 2 {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest.Word(given, names); near != "" {
		return "--" + near
	}
	return ""
}

// firstWord is the first argument that is neither a flag nor the value of one that every command has.
func (g *globals) firstWord() string {
	value := false
	for _, arg := range g.args {
		switch {
		case value:
			value = false
		case arg == "-C" || arg == "--dir" || arg == "-o" || arg == "--output":
			value = true
		case !strings.HasPrefix(arg, "-"):
			return arg
		}
	}
	return ""
}
