package dev

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a service of one directory with a watcher.
func watched(t *testing.T) (*unit, *watcher, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	save(t, dir, "main.go", "package main")
	var text bytes.Buffer
	out := &output{w: &text}
	u := newUnit(context.Background(), service{name: "a", dir: dir, replicas: 1}, &options{root: dir}, nil, out)
	u.src.dirs[dir], u.src.since = true, time.Now().Add(48*time.Hour) // whatever is saved until the first look
	return u, newWatcher(dir, []*unit{u}, out), &text
}

// save saves a file in one step: on a busy machine a file that is emptied and then written is two changes, rightly.
func save(t *testing.T, dir, name, text string) {
	t.Helper()
	aside := filepath.Join(dir, ".aside")
	if err := errors.Join(os.WriteFile(aside, []byte(text), 0o600), os.Rename(aside, filepath.Join(dir, name))); err != nil {
		t.Fatal(err)
	}
}

// follow runs the watcher for the length of the test.
func follow(t *testing.T, w *watcher) {
	t.Helper()
	w.open()
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	g.Go(func() { w.run(ctx) })
	t.Cleanup(func() { cancel(); g.Wait() })
}

func await(t *testing.T, u *unit) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case <-u.dirty:
		return u.take().String()
	case <-ctx.Done():
		t.Fatal("no reload is due")
		return ""
	}
}

func TestOnlyAChangeOfContentIsAChange(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	follow(t, w)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(u.dir, "main.go"), later, later); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main_test.go", ".#main.go", "main.go~", "notes.txt"} {
		save(t, u.dir, name, "package main")
	}
	save(t, u.dir, "last.go", "package main")
	if reason := await(t, u); reason != "last.go" {
		t.Errorf("a reload is due because of %q, want last.go alone", reason)
	}
	if err := os.Remove(filepath.Join(u.dir, "last.go")); err != nil {
		t.Fatal(err)
	}
	if reason := await(t, u); reason != "last.go" {
		t.Errorf("after the removal a reload is due because of %q", reason)
	}
}

func TestWithoutWatchesFilesAreLookedAt(t *testing.T) {
	t.Parallel()
	u, w, text := watched(t)
	w.notify = func() (*fsnotify.Watcher, error) { return nil, os.NewSyscallError("inotify_init", syscall.EMFILE) }
	follow(t, w)
	save(t, u.dir, "main.go", "package main // changed")
	if reason := await(t, u); reason != "main.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
	for _, want := range []string{"warning: the system does not tell of changed files", "every second", "fix: sudo sysctl fs.inotify.max_user_instances=1024"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q does not say %q", text, want)
		}
	}
}

// A checkout of another branch takes directories away and brings them back.
func TestADirectoryThatComesBackIsWatched(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	sub := filepath.Join(u.dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	save(t, sub, "sub.go", "package sub")
	u.src.dirs[sub] = true
	follow(t, w)
	if err := os.RemoveAll(sub); err != nil {
		t.Fatal(err)
	}
	if reason := await(t, u); reason != "sub/sub.go" {
		t.Errorf("after the removal a reload is due because of %q", reason)
	}
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	save(t, sub, "sub.go", "package sub // again")
	if reason := await(t, u); reason != "sub/sub.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
}

func TestCallsAreCountedFromMetrics(t *testing.T) {
	t.Parallel()
	const metrics = `# HELP grpc_client_call_duration_seconds calls
grpc_client_call_duration_seconds_count{caller="edge",callee="a",grpc_method="x",grpc_status="OK"} 10
grpc_client_call_duration_seconds_count{caller="edge",callee="a",grpc_method="x",grpc_status="UNAVAILABLE"} 2
grpc_client_call_duration_seconds_count{caller="edge",callee="a",grpc_method="x",grpc_status="NOT_FOUND"} 4
grpc_client_call_duration_seconds_count{caller="edge",callee="b",grpc_method="x",grpc_status="UNAVAILABLE"} 7
grpc_client_call_duration_seconds_bucket{caller="edge",callee="a",le="1",grpc_status="UNAVAILABLE"} 2
grpc_server_call_duration_seconds_count{callee="a",grpc_method="x",grpc_status="INTERNAL"} 1
grpc_server_call_duration_seconds_count{callee="a",grpc_method="x",grpc_status="UNAVAILABLE"} 5
http_server_request_duration_seconds_count{callee="a",http_request_method="GET",http_response_status_code="200",http_route="/{id}"} 20
http_server_request_duration_seconds_count{callee="a",http_request_method="GET",http_response_status_code="504",http_route=""} 3
http_server_request_duration_seconds_count{callee="b",http_request_method="GET",http_response_status_code="500",http_route=""} 9
newsvc_build_info{service="a"} 1
`
	got, err := count(strings.NewReader(metrics), "a")
	if want := (counts{made: 16, madeFailed: 2, served: 29, servedFailed: 4}); err != nil || got != want {
		t.Errorf("count = %+v %v, want %+v", got, err, want)
	}
}

func TestWhatTheCompilerSaysNamesFilesFromTheRoot(t *testing.T) {
	t.Parallel()
	u := &unit{service: service{name: "a", dir: filepath.FromSlash("/w/services/a")}, root: filepath.FromSlash("/w")}
	text := "# example.test/a/internal/x\ninternal/x/x.go:3:9: undefined: y\n\t./y.go:2:1: other declaration of y\n../../shared/s.go:1:1: expected 'package'\n/abs/z.go:1:1: z\nno file here\n"
	want := []string{"services/a/internal/x/x.go:3:9: undefined: y", "\tservices/a/y.go:2:1: other declaration of y", "shared/s.go:1:1: expected 'package'", "/abs/z.go:1:1: z", "no file here"}
	if got := strings.Split(u.located(text), "\n       "); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// saver saves a file whenever it is written to.
type saver func()

func (s saver) Write(p []byte) (int, error) {
	s()
	return len(p), nil
}

// What is saved while the watcher tells of something else is a change too.
func TestASaveWhileChangesAreToldIsNotLost(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	w.open()
	defer w.close()
	told := 0
	u.out.w = saver(func() {
		told++
		save(t, u.dir, "main.go", "package main // saved meanwhile")
	})
	save(t, u.dir, "newsvc.yaml", "service: a\n")
	w.look(t.Context())
	if told != 1 {
		t.Fatalf("newsvc.yaml was told of %d times, want 1", told)
	}
	w.look(t.Context())
	if reason := await(t, u); reason != "main.go" {
		t.Errorf("a reload is due because of %q, want main.go", reason)
	}
}

// Editors write beside a file and rename, or write anew what they have moved away; neither is more than one change.
func TestSavesOfEditorsAreOneChange(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	follow(t, w)
	path := filepath.Join(u.dir, "main.go")
	for i, rename := range []func(from, to string) error{os.Rename, func(from, to string) error {
		return errors.Join(os.Rename(to, to+"~"), os.Rename(from, to))
	}} {
		for _, name := range []string{".main.go.swp", "4913", "#main.go#", "main.go.new"} {
			save(t, u.dir, name, "package main // edited "+strconv.Itoa(i))
		}
		_ = os.Symlink("nobody@host.1:2", filepath.Join(u.dir, ".#main.go")) // it stays; not every system has links
		if err := rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		if reason := await(t, u); reason != "main.go" {
			t.Errorf("a reload is due because of %q, want main.go", reason)
		}
	}
	if err := os.Remove(filepath.Join(u.dir, ".main.go.swp")); err != nil {
		t.Fatal(err)
	}
	save(t, u.dir, "last.go", "package main")
	if reason := await(t, u); reason != "last.go" {
		t.Errorf("a reload is due because of %q, want last.go alone", reason)
	}
}
