package config

import (
	"fmt"
	"strconv"
	"strings"
)

// maxShown is how many problems [Error] prints; more help nobody at once.
const maxShown = 20

// Position is where a value was written.
type Position struct {
	// Name is a file, "env NAME", "--set", "default" or what a [Setting] of a further layer says.
	Name string
	// Line and Column count from 1; 0 where the source has none.
	Line, Column int
}

// String returns name:line:column as far as they are known.
func (p Position) String() string {
	if p.Line > 0 && p.Column > 0 {
		return p.short() + ":" + strconv.Itoa(p.Column)
	}
	return p.short()
}

func (p Position) short() string {
	if p.Line > 0 {
		return p.Name + ":" + strconv.Itoa(p.Line)
	}
	return p.Name
}

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Key is the key concerned, "server.listen"; empty when the problem concerns a whole source.
	Key string
	// Position is where it was written; the zero value when it was written nowhere.
	Position Position
	// Text says what is wrong and what to write instead. Values of secrets never appear in it.
	Text string
	// Cause is the error of a section's Validate or of the system, or nil. It is nil where it could show a secret.
	Cause error
}

// String returns the position and the text.
func (p Problem) String() string {
	if p.Position == (Position{}) {
		return p.Text
	}
	return p.Position.String() + ": " + p.Text
}

// Error holds all problems that [Load] found, in the order of the layers. Its text lists up to 20 of them.
type Error struct {
	Problems []Problem
}

// Error returns one line for one problem, and a heading with one line each for several.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d problems:", len(e.Problems))
	for i, p := range e.Problems {
		if i == maxShown {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Problems)-maxShown)
			break
		}
		b.WriteString("\n  " + strings.ReplaceAll(p.String(), "\n", "\n    "))
	}
	return b.String()
}

// Unwrap returns the causes of the problems that have one.
func (e *Error) Unwrap() []error {
	var out []error
	for _, p := range e.Problems {
		if p.Cause != nil {
			out = append(out, p.Cause)
		}
	}
	return out
}

// HelpError is what [Load] returns when the arguments hold -h, --help or --version: print Usage to stdout and exit with 0.
type HelpError struct {
	// Usage lists the flags and every key with its type and default, or is the name and version of the service.
	Usage string
}

// Error says that help was asked for; Usage has the text to print.
func (e *HelpError) Error() string { return "help requested" }

// quoted lists names for an error text.
func quoted(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strconv.Quote(n)
	}
	return strings.Join(out, ", ")
}

// shorten keeps a value printable in one line of an error text.
func shorten(s string) string {
	const limit = 60
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	return string(r[:limit]) + "..."
}
