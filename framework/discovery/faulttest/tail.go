package faulttest

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

const (
	// tailBytes is how much of a process' log is kept.
	tailBytes = 64 << 10
	// errorLines is how much of it an error shows.
	errorLines = 20
)

// tail keeps the end of what is written to it and passes complete lines on, each with the name of who wrote it.
type tail struct {
	name string
	to   io.Writer // may be nil; safe for concurrent use

	mu   sync.Mutex
	kept []byte
	rest []byte // of a line that is not complete
}

func newTail(name string, to io.Writer) *tail { return &tail{name: name, to: to} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailBytes; over > tailBytes { // not at every line: moving it costs
		t.kept = append([]byte(nil), t.kept[over:]...)
	}
	if t.to == nil {
		return len(p), nil
	}
	t.rest = append(t.rest, p...)
	for {
		line, rest, ok := bytes.Cut(t.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		_, _ = t.to.Write([]byte(t.name + ": " + string(line) + "\n")) // the log of a test: nobody to tell
		t.rest = bytes.Clone(rest)
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept[max(0, len(t.kept)-tailBytes):])
}

func (t *tail) lines(n int) string {
	all := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// lockedWriter makes a writer safe for concurrent use.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
