package faulttest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// A line runs between the lab and each of its processes: JSON values, one a line, over the process' standard input and
// output. The process speaks first, when it is ready; then the lab asks and the process answers, in order. Each answer
// carries the number of its question, since a process that was frozen answers when nobody waits any more.

// question is what the lab asks.
type question struct {
	ID   int64           `json:"id"`
	Op   string          `json:"op"`
	Body json.RawMessage `json:"body,omitempty"`
}

// answer is what the process says; ID 0 is its first word.
type answer struct {
	ID    int64           `json:"id"`
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// errOrphan is why a subject ends by itself.
var errOrphan = errors.New("the suite that started this process is gone")

// line is the process' end.
type line struct {
	asked chan question
	mu    sync.Mutex
	out   io.Writer
}

// openLine listens to in; when that ends, it calls orphaned.
func openLine(in io.Reader, out io.Writer, orphaned context.CancelCauseFunc) *line {
	l := &line{asked: make(chan question), out: out}
	// Nobody waits for this loop: a read of standard input ends with the process.
	loop.Start(context.Background(), func(ctx context.Context) {
		commands := json.NewDecoder(bufio.NewReader(in))
		for {
			var q question
			if err := commands.Decode(&q); err != nil {
				orphaned(errOrphan)
				return
			}
			l.asked <- q
		}
	})
	return l
}

// hello tells the lab that the process is ready, and what it needs to know of it.
func (l *line) hello(body any) error { return l.say(0, body, nil) }

// serve answers questions one after the other until ctx ends.
func (l *line) serve(ctx context.Context, handle func(ctx context.Context, op string, body json.RawMessage) (any, error)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case q := <-l.asked:
			body, err := handle(ctx, q.Op, q.Body)
			if err := l.say(q.ID, body, err); err != nil {
				return err
			}
		}
	}
}

func (l *line) say(id int64, body any, failed error) error {
	a := answer{ID: id}
	if failed != nil {
		a.Error = failed.Error()
	} else {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		a.Body = text
	}
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.out.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// wire is the lab's end: the process' standard output is written to it.
type wire struct {
	mu      sync.Mutex
	in      io.Writer // the process' standard input
	rest    []byte    // of a line that is not complete
	last    int64     // number of the last question
	waiting map[int64]chan answer
}

// newWire expects the first word.
func newWire(in io.Writer) (w *wire, hello <-chan answer) {
	first := make(chan answer, 1)
	return &wire{in: in, waiting: map[int64]chan answer{0: first}}, first
}

// Write hands the answers in p to those who wait for them.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		text, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.rest = bytes.Clone(rest)
		var a answer
		if json.Unmarshal(text, &a) != nil {
			continue // somebody printed; it is not for us
		}
		if ch, ok := w.waiting[a.ID]; ok {
			delete(w.waiting, a.ID)
			ch <- a
		}
	}
}

// ask sends a question; the answer comes over the channel, if ever. forget must be called.
func (w *wire) ask(op string, body any) (answers <-chan answer, forget func(), err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	id := w.last
	if text, err = json.Marshal(question{ID: id, Op: op, Body: text}); err != nil {
		return nil, nil, err
	}
	if _, err := w.in.Write(append(text, '\n')); err != nil {
		return nil, nil, err
	}
	ch := make(chan answer, 1)
	w.waiting[id] = ch
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, id)
	}, nil
}
