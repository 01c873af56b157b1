package devrecord_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// user gives the test a cache directory of its own; a project is a directory with a place for scratch files.
func user(t *testing.T) (cache string) {
	t.Helper()
	cache = t.TempDir()
	for _, key := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(key, cache)
	}
	return cache
}

func project(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, ".newsvc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// dead is a process id that was in use a moment ago.
func dead(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$") // the go command would go on writing below HOME
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestRecordIsFoundBelowItsRootAndFromElsewhere(t *testing.T) {
	user(t)
	root := project(t)
	r := devrecord.New(root)
	r.Complete = true
	r.Etcd = devrecord.Etcd{Endpoints: []string{"127.0.0.1:2379"}, Prefix: "/x", Owner: os.Getpid()}
	r.Services["a"] = devrecord.Service{Instances: []devrecord.Instance{{PID: 7, GRPC: "127.0.0.1:1"}}}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(root, "services", "a")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	got, ok, err := devrecord.Here(below)
	if err != nil || !ok || got.PID != os.Getpid() || got.Etcd.Prefix != "/x" || got.Services["a"].Instances[0].GRPC != "127.0.0.1:1" {
		t.Errorf("Here = %+v %v %v", got, ok, err)
	}
	if _, ok, err := devrecord.Here(t.TempDir()); ok || err != nil {
		t.Errorf("Here in a directory without a record = %v %v", ok, err)
	}
	live, err := devrecord.Live()
	if err != nil || len(live) != 1 || live[0].Root != root {
		t.Errorf("Live = %+v %v", live, err)
	}
	if err := errors.Join(r.Remove(), r.Remove()); err != nil {
		t.Errorf("Remove, twice: %v", err)
	}
	if live, err := devrecord.Live(); err != nil || len(live) != 0 {
		t.Errorf("after Remove Live = %+v %v", live, err)
	}
	if _, ok, err := devrecord.Here(root); ok || err != nil {
		t.Errorf("after Remove Here = %v %v", ok, err)
	}
}

func TestRecordsOfTheDeadAreIgnoredAndRemoved(t *testing.T) {
	cache := user(t)
	above := project(t)
	alive := devrecord.New(above)
	inner := filepath.Join(above, "inner")
	if err := os.MkdirAll(filepath.Join(inner, ".newsvc"), 0o755); err != nil {
		t.Fatal(err)
	}
	killed := devrecord.New(inner)
	killed.PID, killed.Complete = dead(t), true
	if err := errors.Join(alive.Write(), killed.Write()); err != nil {
		t.Fatal(err)
	}
	if n := len(copies(t, cache)); n != 2 {
		t.Fatalf("%d copies, want 2", n)
	}
	if live, err := devrecord.Live(); err != nil || len(live) != 1 || live[0].Root != above {
		t.Errorf("Live = %+v %v", live, err)
	}
	if left := copies(t, cache); len(left) != 1 {
		t.Errorf("the dead one's copy is left: %q", left)
	}
	if r, ok, err := devrecord.Here(inner); err != nil || !ok || r.Root != above {
		t.Errorf("Here = %+v %v %v, want the living one above", r, ok, err)
	}
}

// While its services are still built, its etcd is there already.
func TestARecordThatIsNotCompleteIsFoundAndNotInTheProject(t *testing.T) {
	user(t)
	root := project(t)
	r := devrecord.New(root)
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(devrecord.Path(root)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dev.json is there: %v", err)
	}
	if got, ok, err := devrecord.Here(filepath.Join(root, ".newsvc")); err != nil || !ok || got.Root != root {
		t.Errorf("Here = %+v %v %v", got, ok, err)
	}
}

func copies(t *testing.T, cache string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(cache, func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".json" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Process ids come round again.
func TestAnotherProcessWithTheSameIDIsNotTheWriter(t *testing.T) {
	user(t)
	r := devrecord.New(project(t))
	if r.Started == "" {
		t.Skip("this system does not tell when a process began")
	}
	if !r.Alive() {
		t.Fatal("this process is dead")
	}
	r.Started = "1"
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if live, err := devrecord.Live(); err != nil || len(live) != 0 {
		t.Errorf("Live = %+v %v", live, err)
	}
}

func TestWithoutACacheDirectoryTheProjectHasItsRecord(t *testing.T) {
	cache := user(t)
	if err := os.WriteFile(filepath.Join(cache, "newsvc"), nil, 0o600); err != nil { // in the way
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(cache, "Library", "Caches"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cache, "Library", "Caches", "newsvc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root := project(t)
	var share *devrecord.ShareError
	r := devrecord.New(root)
	r.Complete = true
	if err := r.Write(); !errors.As(err, &share) {
		t.Errorf("Write = %v, want a ShareError", err)
	}
	if _, ok, err := devrecord.Here(root); !ok || err != nil {
		t.Errorf("Here = %v %v", ok, err)
	}
}

func TestADamagedRecordIsAnErrorThatNamesIt(t *testing.T) {
	user(t)
	root := project(t)
	if err := os.WriteFile(devrecord.Path(root), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := devrecord.Here(root); err == nil || !strings.Contains(err.Error(), devrecord.Path(root)) {
		t.Errorf("Here = %v", err)
	}
}

func TestOneAtATimeHasTheLock(t *testing.T) {
	user(t)
	unlock, err := devrecord.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := devrecord.Lock(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second Lock = %v", err)
	}
	unlock()
	again, err := devrecord.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// Who got there by a symbolic link is in the same place.
func TestARecordIsFoundThroughALink(t *testing.T) {
	user(t)
	root, err := filepath.EvalSymlinks(project(t))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Skipf("no links here: %v", err)
	}
	if err := devrecord.New(root).Write(); err != nil { // not complete: it lies in the cache directory alone
		t.Fatal(err)
	}
	if r, ok, err := devrecord.Here(link); err != nil || !ok || r.PID != os.Getpid() {
		t.Errorf("Here = %+v %v %v", r, ok, err)
	}
}
