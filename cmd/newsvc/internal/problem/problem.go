// Package problem is how newsvc tells a person that something went wrong: one error type with the four things a reader
// wants, and the exit codes. It is not for errors that code looks at; those stay with the package they come from.
package problem

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit codes. They are part of the product: scripts and CI rely on them, and "newsvc help exit-codes" lists them.
const (
	OK          = 0 // done, or nothing to do
	Failed      = 1 // it was tried and failed: a build error, a full disk
	Usage       = 2 // wrong flag, name or argument; nothing was tried
	Environment = 3 // the machine is not fit: no go command, no network, a checkout that is gone
	Conflict    = 4 // a person has to decide: the directory exists, generated files are stale
	NotFound    = 5 // no such service, instance or method
)

// Error is one problem in the shape of every newsvc message. What is required; the rest is left out when empty.
type Error struct {
	// Exit is the exit code of the process; 0 means [Failed].
	Exit int
	// What went wrong, with the value that caused it. Lower case, no full stop.
	What string
	// At is where: a file and line, an address, or a failed command with its own last line.
	At string
	// Fix is one command or edit that works as it is pasted.
	Fix string
	// Err is the cause for errors.Is and errors.As. It is not printed: What has to say enough.
	Err error
}

// Error returns the message without the leading program name.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	if e.At != "" {
		b.WriteString("\n   at: " + e.At)
	}
	if e.Fix != "" {
		b.WriteString("\n  fix: " + e.Fix)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is the code the process ends with.
func (e *Error) ExitCode() int {
	if e.Exit == OK {
		return Failed
	}
	return e.Exit
}

// Code returns the exit code of any error: that of the first error in the chain with an ExitCode method, [Failed] for
// every other error, [OK] for nil.
func Code(err error) int {
	if err == nil {
		return OK
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return Failed
}

// Print writes err in the shape of every newsvc message; it writes nothing for nil and for an error without text.
func Print(w io.Writer, err error) {
	if err == nil || err.Error() == "" {
		return
	}
	_, _ = fmt.Fprintf(w, "newsvc: %s\n", err)
}
