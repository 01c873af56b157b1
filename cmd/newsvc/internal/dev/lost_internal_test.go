package dev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// hook is called with each line that is said.
type hook func(line string)

func (h hook) Write(p []byte) (int, error) {
	h(string(p))
	return len(p), nil
}

// due is why a reload is due now, empty when none is.
func dueNow(u *unit) string {
	select {
	case <-u.dirty:
	default:
	}
	return u.take().String()
}

func mkdir(t *testing.T, dir ...string) string {
	t.Helper()
	path := filepath.Join(dir...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// listed makes a directory known as one that the service is made of, as found out by what began at since.
func (u *unit) listed(since time.Time, dirs ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	src := sources{dirs: map[string]bool{}, files: u.src.files, embeds: u.src.embeds, since: since}
	for dir := range u.src.dirs {
		src.dirs[dir] = true
	}
	for _, dir := range dirs {
		src.dirs[dir] = true
	}
	u.src = src
}

// The go command lists a package, and the compiler reads it, before the watcher has looked at it for the first time.
func TestASaveBeforeTheFirstLookAtANewPackageIsAChange(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	fresh, moved := mkdir(t, u.dir, "fresh"), mkdir(t, u.dir, "moved")
	save(t, fresh, "old.go", "package fresh")
	save(t, fresh, "fresh.go", "package fresh")
	save(t, moved, "other.txt", "package moved")
	w.open()
	defer w.close()
	w.look(t.Context())
	if reason := dueNow(u); reason != "" {
		t.Fatalf("a reload is due because of %q before anything was saved", reason)
	}
	ago := time.Now().Add(-time.Hour)
	for _, path := range []string{filepath.Join(fresh, "old.go"), filepath.Join(moved, "other.txt")} {
		if err := os.Chtimes(path, ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	awaitClock(t, u.dir)
	since := time.Now()
	awaitClock(t, u.dir)
	save(t, fresh, "fresh.go", "package fresh // saved while it was built")
	want := "fresh/fresh.go"
	if runtime.GOOS == "linux" { // what is moved to where it belongs keeps its time
		if err := os.Rename(filepath.Join(moved, "other.txt"), filepath.Join(moved, "moved.go")); err != nil {
			t.Fatal(err)
		}
		want += ", moved/moved.go"
	}
	u.listed(since, fresh, moved)
	w.look(t.Context())
	if reason := sortedReasons(u); reason != want {
		t.Errorf("a reload is due because of %q, want %q", reason, want)
	}
	w.look(t.Context())
	if reason := dueNow(u); reason != "" {
		t.Errorf("a further look makes a reload due because of %q", reason)
	}
}

// Somebody else's package becomes one's own while it is saved: to the watcher it is nothing new.
func TestASaveOfASharedPackageWhileItIsListedIsAChangeForTheNewUser(t *testing.T) {
	t.Parallel()
	a, w, _ := watched(t)
	shared, own := mkdir(t, a.dir, "shared"), mkdir(t, a.dir, "b")
	save(t, shared, "shared.go", "package shared")
	a.src.dirs[shared] = true
	b := newUnit(t.Context(), service{name: "b", dir: own, replicas: 1}, &options{root: a.root}, nil, w.out)
	w.units = append(w.units, b)
	w.open()
	defer w.close()
	w.look(t.Context())
	dueNow(a)
	awaitClock(t, a.dir)
	since := time.Now()
	awaitClock(t, a.dir)
	save(t, shared, "shared.go", "package shared // saved while b was listed")
	w.look(t.Context())
	if reason := dueNow(a); reason != "shared/shared.go" {
		t.Errorf("for its user a reload is due because of %q", reason)
	}
	b.listed(since, own, shared)
	w.look(t.Context())
	if reason := dueNow(b); reason != "shared/shared.go" {
		t.Errorf("for its new user a reload is due because of %q", reason)
	}
	if reason := dueNow(a); reason != "" {
		t.Errorf("for its user a second reload is due because of %q", reason)
	}
}

// Two saves of the same length can have the same time: systems count it in steps.
func TestASecondSaveOfTheSameSizeAtTheSameTimeIsAChange(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	w.open()
	defer w.close()
	path := filepath.Join(u.dir, "main.go")
	save(t, u.dir, "main.go", "package main // 1")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	dueNow(u)
	if err := errors.Join(os.WriteFile(path, []byte("package main // 2"), 0o600), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	if reason := dueNow(u); reason != "main.go" {
		t.Errorf("a reload is due because of %q, want main.go", reason)
	}
}

// A file that was put aside and comes back has the size and time that it had; another one may have them, too.
func TestAnotherFileOfTheSameSizeAndTimeIsAChange(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	ago := time.Now().Add(-time.Hour)
	save(t, u.dir, "main.go", "package main // 1")
	save(t, u.dir, "other.txt", "package main // 2")
	for _, name := range []string{"main.go", "other.txt"} {
		if err := os.Chtimes(filepath.Join(u.dir, name), ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	defer w.close()
	if err := os.Rename(filepath.Join(u.dir, "other.txt"), filepath.Join(u.dir, "main.go")); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	if reason := dueNow(u); reason != "main.go" {
		t.Errorf("a reload is due because of %q, want main.go", reason)
	}
}

// What is made while a new directory is only just going to be watched is not told of by the system.
func TestAFileInANewDirectoryThatIsNotWatchedYetIsNotLost(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	fresh := filepath.Join(mkdir(t, u.dir, "deep"), "fresh") // nobody watches deep
	u.listed(u.src.since, fresh)                             // imported, and not written yet
	var once sync.Once
	u.out.w = hook(func(string) {
		once.Do(func() { save(t, mkdir(t, fresh), "fresh.go", "package fresh // made meanwhile") })
	})
	w.open()
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	g.Go(func() { w.run(ctx) })
	defer func() { cancel(); g.Wait() }()
	save(t, u.dir, "main.go", "package main // so that there is nothing left to look at")
	if reason := await(t, u); reason != "main.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
	save(t, u.dir, "newsvc.yaml", "service: a\n") // it is told of, and the file is made meanwhile
	if reason := await(t, u); reason != "deep/fresh/fresh.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
}

// project is a service with a .proto file from which can be generated.
func project(t *testing.T) (*unit, *watcher) {
	t.Helper()
	u, w, _ := watched(t)
	save(t, u.dir, "go.mod", "module example.test/a\n\ngo 1.26\n")
	proto(t, u, "a/v1", "One")
	return u, w
}

func proto(t *testing.T, u *unit, dir string, messages ...string) {
	t.Helper()
	text := "syntax = \"proto3\";\n\npackage " + strings.ReplaceAll(dir, "/", ".") + ";\n\noption go_package = \"example.test/a/proto/" + dir + "\";\n"
	for _, m := range messages {
		text += "\nmessage " + m + " {}\n"
	}
	save(t, mkdir(t, u.dir, "proto", dir), "service.proto", text)
}

// generated waits for nothing: it reports whether generated code has the text.
func generated(u *unit, dir, text string) bool {
	raw, err := os.ReadFile(filepath.Join(u.dir, "proto", dir, "service.pb.go"))
	return err == nil && strings.Contains(string(raw), text)
}

func TestAProtoThatIsSavedWhileItIsGeneratedFromIsGeneratedFromAgain(t *testing.T) {
	t.Parallel()
	u, w := project(t)
	said := ""
	var once sync.Once
	u.out.w = hook(func(line string) {
		said += line
		once.Do(func() { proto(t, u, "a/v1", "One", "Two", "Three") })
	})
	w.open()
	defer w.close()
	proto(t, u, "a/v1", "One", "Two")
	w.look(t.Context())
	if !generated(u, "a/v1", "type Three struct") {
		t.Errorf("what was saved meanwhile was not generated from; it said\n%s", said)
	}
}

func TestAProtoInANewDirectoryIsGeneratedFrom(t *testing.T) {
	t.Parallel()
	u, w := project(t)
	said := ""
	u.out.w = hook(func(line string) { said += line })
	w.open()
	defer w.close()
	proto(t, u, "b/v1", "Beta")
	w.look(t.Context())
	if !generated(u, "b/v1", "type Beta struct") {
		t.Errorf("what is new was not generated from; it said\n%s", said)
	}
	if err := os.RemoveAll(filepath.Join(u.dir, "proto", "b")); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	proto(t, u, "b/v1", "Again")
	w.look(t.Context())
	if !generated(u, "b/v1", "type Again struct") {
		t.Errorf("what is back was not generated from; it said\n%s", said)
	}
}

func TestThatGeneratedCodeHasLostItsSourceIsToldOnce(t *testing.T) {
	t.Parallel()
	u, w := project(t)
	said := ""
	u.out.w = hook(func(line string) { said += line })
	w.open()
	defer w.close()
	proto(t, u, "a/v1", "One", "Two")
	proto(t, u, "b/v1", "Beta")
	w.look(t.Context())
	if err := os.Remove(filepath.Join(u.dir, "proto", "a", "v1", "service.proto")); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	proto(t, u, "b/v1", "Beta", "More")
	w.look(t.Context())
	const want = "> note: proto/a/v1/service.pb.go has lost its source; when nobody needs it: rm proto/a/v1/service.pb.go\n"
	if strings.Count(said, "lost its source") != 1 || !strings.Contains(said, want) {
		t.Errorf("it said\n%s", said)
	}
	proto(t, u, "a/v1", "One")
	w.look(t.Context())
	if err := os.Remove(filepath.Join(u.dir, "proto", "a", "v1", "service.proto")); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	if strings.Count(said, "lost its source") != 2 {
		t.Errorf("after it was back and gone again, it said\n%s", said)
	}
}

func TestFilesThatComeToMatchAPatternOfEmbedAreChanges(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	page := filepath.FromSlash
	mkdir(t, u.dir, "pages")
	for _, pattern := range []string{"pages/*.html", "static", "all:deep/er", "one.txt"} {
		u.src.embeds = append(u.src.embeds, newEmbed(u.dir, pattern))
	}
	w.open()
	defer w.close()
	for _, tt := range []struct{ name, want string }{
		{"pages/new.html", "pages/new.html"},
		{"pages/new.css", ""},
		{"static/css/new.css", "static/css/new.css"},
		{"static/css/.new.css.swp", ""},
		{"static/css/more/x.css", "static/css/more/x.css"},
		{"deep/er/.hidden/x", "deep/er/.hidden/x"},
		{"one.txt", "one.txt"},
		{"two.txt", ""},
	} {
		save(t, mkdir(t, u.dir, filepath.Dir(page(tt.name))), filepath.Base(tt.name), "x")
		w.look(t.Context())
		if reason := dueNow(u); reason != page(tt.want) {
			t.Errorf("after %s was made a reload is due because of %q, want %q", tt.name, reason, tt.want)
		}
	}
}

// The notifications that were lost are made up for by a look.
func TestNotificationsThatWereLostDoNotMatter(t *testing.T) {
	t.Parallel()
	u, w, _ := watched(t)
	follow(t, w)
	save(t, u.dir, "last.go", "package main")
	if reason := await(t, u); reason != "last.go" {
		t.Fatalf("a reload is due because of %q", reason)
	}
	if err := w.fs.Remove(u.dir); err != nil { // the system tells of nothing in it any more
		t.Fatal(err)
	}
	save(t, u.dir, "main.go", "package main // not told of")
	w.fs.Errors <- os.ErrDeadlineExceeded // as after an overflow of the queue
	if reason := await(t, u); reason != "main.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
	save(t, u.dir, "main.go", "package main // told of again")
	if reason := await(t, u); reason != "main.go" {
		t.Errorf("a reload is due because of %q", reason)
	}
}

// sortedReasons is why a reload is due now, whatever was found first.
func sortedReasons(u *unit) string {
	why := u.take()
	select {
	case <-u.dirty:
	default:
	}
	slices.Sort(why.reasons)
	return why.String()
}

// awaitClock waits until files get a time that is later than that of a file which is saved now.
func awaitClock(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	for pause(ctx, readyPoll) {
		save(t, dir, "clock.txt", "tick")
		if info, err := os.Stat(filepath.Join(dir, "clock.txt")); err == nil && info.ModTime().After(began.Add(2*behind)) {
			return
		}
	}
	t.Fatal("files get no later time")
}
