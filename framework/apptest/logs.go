package apptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Entry is one line of a service's log.
type Entry struct {
	Time    time.Time
	Level   string // debug, info, warn or error
	Logger  string // the dotted name of the part that logged; empty for the service's own
	Message string
	// Fields are all others, as JSON has them: numbers are float64, durations text.
	Fields map[string]any
}

// String is the entry on one line, for failures of tests.
func (e Entry) String() string {
	return fmt.Sprintf("%s %s %q %v", e.Level, e.Logger, e.Message, e.Fields)
}

// Entries are lines of a log, oldest first. The methods that narrow them down can be chained.
type Entries []Entry

// Level returns the entries of that level.
func (e Entries) Level(level string) Entries {
	return e.Where(func(e Entry) bool { return e.Level == level })
}

// Message returns the entries whose message contains the text.
func (e Entries) Message(text string) Entries {
	return e.Where(func(e Entry) bool { return strings.Contains(e.Message, text) })
}

// Field returns the entries whose field has that value; both are compared as they print, so that 3 is 3 and "1.5s" a duration.
func (e Entries) Field(key string, value any) Entries {
	return e.Where(func(e Entry) bool {
		got, ok := e.Fields[key]
		return ok && fmt.Sprint(got) == fmt.Sprint(value)
	})
}

// Where returns the entries for which keep is true.
func (e Entries) Where(keep func(Entry) bool) Entries {
	return slices.DeleteFunc(slices.Clone(e), func(e Entry) bool { return !keep(e) })
}

// String is one line for each entry.
func (e Entries) String() string {
	lines := make([]string, len(e))
	for n := range e {
		lines[n] = e[n].String()
	}
	return strings.Join(lines, "\n")
}

// Log returns what a service has logged so far, as text; of several instances one after the other.
func (a *Apps) Log(service string) string {
	a.t.Helper()
	var b strings.Builder
	for _, i := range a.Instances(service) {
		b.WriteString(i.log.String())
	}
	return b.String()
}

// Logs returns what a service has logged so far, that of all its instances in the order of time. Lines of level debug are
// there with Set("log.level", "debug").
func (a *Apps) Logs(service string) Entries {
	a.t.Helper()
	var all Entries
	for _, i := range a.Instances(service) {
		entries, err := parse(i.log.String(), service)
		if err != nil {
			a.t.Fatalf("apptest: the log of %q can't be read: %v; leave log.format as it is in tests", service, err)
		}
		all = append(all, entries...)
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return all
}

// WaitLog returns the first entry of a service's log for which match is true, and waits for it up to 30 seconds.
func (a *Apps) WaitLog(service string, match func(Entry) bool) Entry {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	written := make(chan struct{}, 1)
	for _, i := range a.Instances(service) {
		defer i.log.follow(written)()
	}
	for {
		if found := a.Logs(service).Where(match); len(found) > 0 {
			return found[0]
		}
		select {
		case <-written:
		case <-ctx.Done():
			a.t.Fatalf("apptest: %q has not logged what the test waits for; it has logged:\n%s", service, a.Logs(service))
		}
	}
}

func parse(text, service string) (Entries, error) {
	var all Entries
	for line := range strings.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			return nil, fmt.Errorf("%q is no JSON object: %w", strings.TrimSpace(line), err)
		}
		take := func(key string) string {
			text, _ := fields[key].(string)
			delete(fields, key)
			return text
		}
		e := Entry{Level: take("level"), Logger: take("logger"), Message: take("msg"), Fields: fields}
		e.Time, _ = time.Parse(time.RFC3339Nano, take("time")) // a line without one sorts first
		if fields["service"] == service {
			delete(fields, "service") // which says nothing
		}
		all = append(all, e)
	}
	return all, nil
}

// logBuffer keeps an instance's log until somebody asks for it.
type logBuffer struct {
	mu        sync.Mutex
	buf       bytes.Buffer
	followers map[chan<- struct{}]struct{}
}

// Write takes one entry.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.followers {
		select {
		case c <- struct{}{}:
		default: // it is told already
		}
	}
	return b.buf.Write(p)
}

// Sync does nothing.
func (b *logBuffer) Sync() error { return nil }

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// follow tells c of each write until the function that it returns is called.
func (b *logBuffer) follow(c chan<- struct{}) (end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.followers == nil {
		b.followers = make(map[chan<- struct{}]struct{})
	}
	b.followers[c] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers, c)
	}
}
