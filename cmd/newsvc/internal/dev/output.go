package dev

import (
	"fmt"
	"io"
	"sync"
)

// output writes whole lines from many children, each behind its label. It is safe for concurrent use.
type output struct {
	mu    sync.Mutex
	w     io.Writer
	width int
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
	_, _ = fmt.Fprintf(o.w, "%-*s | %s\n", o.width, label, text) // a terminal that is gone takes nothing with it
}

// say prints what newsvc dev itself has to say.
func (o *output) say(label, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = fmt.Fprintf(o.w, "%-*s > %s\n", o.width, label, text)
}
