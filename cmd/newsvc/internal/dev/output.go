package dev

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"unicode"
)

// output writes whole lines from many children, each behind its label. It is safe for concurrent use.
type output struct {
	mu    sync.Mutex
	w     io.Writer
	width int
	gone  func() // called when nobody reads any more; nil: that is no matter
}

// widen makes room for a label.
func (o *output) widen(label string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.width = max(o.width, len(label))
}

// line prints one line of a child.
func (o *output) line(label, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.print(label, '|', text)
}

// say prints what newsvc dev itself has to say.
func (o *output) say(label, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.print(label, '>', text)
}

// print prints one line. A terminal that is gone takes nothing with it; a program that was to read the lines, and has ended, was
// all who listened.
func (o *output) print(label string, mark rune, text string) {
	if _, err := fmt.Fprintf(o.w, "%-*s %c %s\n", o.width, label, mark, text); errors.Is(err, syscall.EPIPE) && o.gone != nil {
		o.gone()
	}
}

// printable is what may be shown of a line: text and colours, and nothing else that would move the cursor or ring the bell. Of
// what was written over and over again, the last.
func printable(line string) string {
	line = strings.TrimRight(line, "\r\n")
	line = strings.ToValidUTF8(line[strings.LastIndexByte(line, '\r')+1:], "\uFFFD")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' && r != '\x1b' {
			return '\uFFFD'
		}
		return r
	}, line)
}
