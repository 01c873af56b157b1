package faulttest_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

// buildDir holds the program that plays the subjects; it is built as it ships, since etcd is slow under the race
// detector, and only when a test needs it.
var buildDir string

var subject = sync.OnceValues(func() (string, error) {
	program := filepath.Join(buildDir, "subject")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", program, "./newsvc/internal/subject")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		var err error
		if buildDir, err = os.MkdirTemp("", "newsvc-faulttest-build-"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(buildDir)
		return m.Run(), nil
	}()
	if err == nil && code == 0 {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// logTo shows what the subjects logged when the test fails.
type logTo struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logTo) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// newLab makes a lab that ends with the test.
func newLab(t *testing.T) *faulttest.Lab {
	t.Helper()
	program, err := subject()
	if err != nil {
		t.Fatal(err)
	}
	var log logTo
	lab, err := faulttest.NewLab(faulttest.LabOptions{Binary: program, Dir: t.TempDir(), Log: &log, Adapters: newsvc.Adapters()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log.mu.Lock()
			defer log.mu.Unlock()
			text := log.text.String()
			_, _ = io.WriteString(os.Stderr, text[max(0, len(text)-20000):])
		}
	})
	return lab
}

// within bounds a test.
// within is the time that a test has. Building the subject, which takes minutes with an empty cache, is no part of it.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	_, err := subject()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition; what is the complaint when it does not come.
func eventually(ctx context.Context, t *testing.T, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		}
	}
}
