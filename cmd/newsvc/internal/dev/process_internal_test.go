//go:build unix

package dev

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// sh runs a line of shell to its end and returns what was printed of it.
func sh(t *testing.T, line string, patience time.Duration, started func(*process)) (*process, string) {
	t.Helper()
	var text bytes.Buffer
	p, err := start(t.Context(), program{label: "a", dir: t.TempDir(), path: "/bin/sh", args: []string{"-c", line}, patience: patience}, &output{w: &text, width: 1})
	if err != nil {
		t.Fatal(err)
	}
	started(p)
	limit, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case <-p.done:
	case <-limit.Done():
		killGroup(p.pid)
		<-p.done
		t.Fatal("the process does not end")
	}
	return p, text.String()
}

func TestLinesOfAnyLengthAndContentArePrinted(t *testing.T) {
	t.Parallel()
	const line = `head -c 200000 /dev/zero | tr '\0' x; echo; printf 'one\rtwo\r\n\007\0\377bell\n\033[31mred\n\tend'`
	_, text := sh(t, line, 0, func(*process) {})
	if n := strings.Count(text, "x"); n != 200000 || !utf8.ValidString(text) {
		t.Errorf("%d of 200000 bytes of a long line are there; UTF-8: %v", n, utf8.ValidString(text))
	}
	for l := range strings.Lines(text) {
		if len(l) > longestLine+10 || !strings.HasPrefix(l, "a | ") {
			t.Errorf("a line has %d bytes and begins with %.20q", len(l), l)
		}
	}
	if want := "a | two\na | \uFFFD\uFFFD\uFFFDbell\na | \x1b[31mred\na | \tend\n"; !strings.HasSuffix(text, want) {
		t.Errorf("printed is %q, want %q at the end", text[max(0, len(text)-100):], want)
	}
}

func TestWhatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	ready := filepath.Join(t.TempDir(), "ready")
	p, text := sh(t, `trap "" TERM; touch `+ready+`; while :; do sleep 0.05; done`, 300*time.Millisecond, func(p *process) {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && pause(t.Context(), readyPoll); {
			if _, err := os.Stat(ready); err == nil {
				break
			}
		}
		p.stop()
	})
	if !p.cut() || !strings.Contains(text, "a > did not stop within 300ms; killing it\n") {
		t.Errorf("cut is %v, and printed is %q", p.cut(), text)
	}
}

func TestTheCommandForGrpcurlCanBePasted(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:9000": "grpcurl -plaintext 127.0.0.1:9000 list",
		"[::1]:9000":     "grpcurl -plaintext '[::1]:9000' list",
		"[::]:9000":      "grpcurl -plaintext localhost:9000 list",
		"0.0.0.0:9000":   "grpcurl -plaintext localhost:9000 list",
		"host.test:9000": "grpcurl -plaintext host.test:9000 list",
	} {
		p := &process{up: make(chan struct{}), done: make(chan struct{})}
		p.info.GRPC = addr
		close(p.up)
		u := &unit{slots: []*slot{{current: p}}}
		if got := u.grpcurl(); got != want {
			t.Errorf("for %s it is %q, want %q", addr, got, want)
		}
		u.set.tls = true
		if got := u.grpcurl(); got != strings.Replace(want, "plaintext", "insecure", 1) {
			t.Errorf("with TLS for %s it is %q", addr, got)
		}
	}
}

// A disk that is full, for example, is no reason to stop what serves.
func TestARecordThatCannotBeWrittenIsAWarning(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	t.Setenv("HOME", dir)
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, stateDir), 0o755); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	b := &book{out: &output{w: &text}, record: devrecord.New(root)}
	complete := func(r *devrecord.Record) { r.Complete = true }
	if err := b.change(complete); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.change(complete); err != nil {
			t.Errorf("a later record: %v", err)
		}
	}
	if n := strings.Count(text.String(), "warning: "); n != 1 {
		t.Errorf("%d warnings, want 1: %s", n, text.String())
	}
	first := &book{out: &output{w: &text}, record: devrecord.New(root)}
	if err := first.change(complete); err == nil {
		t.Error("that the first record can't be written is no error")
	}
}

func TestWhyAReloadIsDueIsNotForgottenWhenItIsGivenUp(t *testing.T) {
	t.Parallel()
	u := &unit{dirty: make(chan struct{}, 1)}
	u.reloads(due{reasons: []string{"config.yaml"}, restart: true})
	taken := u.take()
	u.reloads(due{reasons: []string{"main.go"}, changed: true})
	u.giveBack(taken)
	if got := u.take(); got.String() != "config.yaml, main.go" || !got.restart || !got.changed {
		t.Errorf("due is %+v", got)
	}
	if got := u.take(); got.String() != "" || got.restart || got.changed {
		t.Errorf("what was taken is due again: %+v", got)
	}
}
