//go:build unix

package devtest_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// leftNothing sees that a newsvc dev and what it ran is gone.
func (r *running) leftNothing(children []int) {
	r.t.Helper()
	for _, pid := range children {
		if syscall.Kill(pid, 0) == nil {
			r.t.Errorf("process %d is left", pid)
		}
	}
	if _, err := os.Stat(devrecord.Path(r.root)); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("dev.json is left: %v", err)
	}
}

// The terminal says so to all that run in it, and shells say it again.
func TestAClosedTerminalDrains(t *testing.T) {
	t.Parallel()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored by whoever runs this test, nohup perhaps, and so by all processes below it")
	}
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, "replicas: 2")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	children := pids(r.complete(ctx), "plain")
	r.signal(syscall.SIGHUP)
	r.says(ctx, "stopping: calls may finish")
	_ = r.cmd.Process.Signal(syscall.SIGHUP) // it may have ended
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if n := strings.Count(r.out.String(), "left one"); n != 2 {
		t.Errorf("%d of 2 processes finished their work", n)
	}
	r.leftNothing(children)
}

// As in newsvc dev | tee FILE, where Ctrl-C ends tee, too: that is no reason to cut calls.
func TestAReaderThatIsGoneCutsNothing(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(r *running){
		"with Ctrl-C": func(r *running) { r.signal(syscall.SIGINT) },
		"alone":       func(r *running) { r.change("plain/main.go", `"one"`, `"two"`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 90*time.Second)
			p := newUser(t).place()
			left := strings.Replace(plain, `fmt.Println("left", version)`, `_ = os.WriteFile("left."+version, nil, 0o600)`, 1)
			p.service("plain", left)
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r := &running{place: p, done: make(chan struct{})}
			r.start(writer, nil, "--etcd", "127.0.0.1:1")
			_ = writer.Close()
			var g sync.WaitGroup
			serves := make(chan struct{})
			g.Go(func() {
				for lines := bufio.NewScanner(reader); lines.Scan(); {
					if strings.Contains(lines.Text(), "everything serves") {
						close(serves)
						return
					}
				}
			})
			children := pids(r.complete(ctx), "plain")
			select {
			case <-serves:
			case <-ctx.Done():
				t.Error("newsvc dev does not say that everything serves")
			}
			_ = reader.Close()
			g.Wait()
			ends(r)
			if status := r.wait(ctx); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if _, err := os.Stat(p.path("plain/left.one")); err != nil {
				t.Errorf("the service did not finish its work: %v", err)
			}
			r.leftNothing(children)
		})
	}
}

func TestWhatANewsvcDevThatWasKilledRanEnds(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends the children of a process that was killed")
	}
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", strings.Replace(plain, `fmt.Println("left", version)`, `_ = os.WriteFile("left", nil, 0o600)`, 1), "replicas: 3", `run: ["sleep 600"]`)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	p.change("plain/main.go", `"one"`, `"two"`) // those of a reload as much as those of the start
	r.says(ctx, "the previous version is gone")
	children := pids(r.record(ctx, func(rec devrecord.Record) bool { return len(pids(rec, "plain")) == 3 }), "plain")
	if err := os.Remove(p.path("plain/left")); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGKILL)
	r.wait(ctx)
	for _, pid := range children {
		eventually(ctx, t, "a child of one that was killed ends", func() bool { return !devrecord.Alive(pid) })
	}
	if _, err := os.Stat(p.path("plain/left")); err != nil {
		t.Errorf("they did not get to finish their work: %v", err)
	}
}

// A command is run by a shell, and what that has started is what has work to finish.
func TestWhatAShellHasStartedMayFinish(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, `run: ["sh database.sh; echo never"]`)
	p.write("plain/database.sh", `trap 'sleep 1; echo database ends; exit 0' TERM
echo database begins
while :; do sleep 0.05; done
`)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	r.says(ctx, "database begins")
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if out := r.out.String(); !strings.Contains(out, "database ends") || strings.Contains(out, "| never") {
		t.Errorf("the command did not end as it should")
	}
}

func TestTwentyReplicas(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	r := p.dev(nil, "--etcd", "127.0.0.1:1", "--replicas", "plain=20")
	first := pids(r.complete(ctx), "plain")
	p.change("plain/main.go", `"one"`, `"two"`)
	r.says(ctx, "the previous version is gone")
	second := pids(r.record(ctx, func(rec devrecord.Record) bool { return len(pids(rec, "plain")) == 20 }), "plain")
	if slices.ContainsFunc(second, func(pid int) bool { return slices.Contains(first, pid) }) || len(first) != 20 {
		t.Errorf("the processes were %v and are %v", first, second)
	}
	if n := strings.Count(r.out.String(), "left one"); n != 20 {
		t.Errorf("%d of 20 finished their work", n)
	}
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	r.leftNothing(slices.Concat(first, second))
}

// Who is told to stop and says so with the status that shells give has ended as it was asked to.
func TestACommandThatEndsWithTheStatusOfSIGTERMWasNotCut(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, `run: ["sh wrapper.sh; exit $?"]`)
	p.write("plain/wrapper.sh", "trap 'exit 143' TERM\necho wrapper begins\nwhile :; do sleep 0.05; done\n")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	r.says(ctx, "wrapper begins")
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if out := r.out.String(); strings.Contains(out, "did not finish its work") || strings.Contains(out, "starting again") {
		t.Errorf("that is told as a fault")
	}
}

func TestNothingIsStartedAgainOnceItStops(t *testing.T) {
	t.Parallel()
	for name, signals := range map[string]int{"drain": 1, "second signal": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 90*time.Second)
			p := newUser(t).place()
			p.service("slow", slow, `run: ["sh database.sh"]`)
			p.write("slow/database.sh", "echo database begins\nwhile [ ! -e crash ]; do sleep 0.05; done\nexit 9\n")
			r := p.dev(nil, "--etcd", "127.0.0.1:1")
			r.complete(ctx)
			r.says(ctx, "database begins")
			r.signal(syscall.SIGINT)
			r.says(ctx, "slow drains")
			want := 0
			if signals > 1 {
				r.signal(syscall.SIGINT)
				want = 128 + int(syscall.SIGINT)
			} else {
				p.write("slow/crash", "")
				r.says(ctx, "> ended (exit status 9)")
				p.write("slow/end", "")
			}
			if status := r.wait(ctx); status != want {
				t.Errorf("exit status %d, want %d", status, want)
			}
			if out := r.out.String(); strings.Contains(out, "starting again") || strings.Count(out, "database begins") != 1 {
				t.Errorf("something is started again")
			}
		})
	}
}

// What serves without what it needs is not everything.
func TestACommandThatKeepsDyingIsNamedUntilItRuns(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, `run: ["sh database.sh", "true"]`)
	p.write("plain/database.sh", "test -e settings && exec sleep 600\necho no settings\nexit 1\n")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "(exit status 1); starting again in 500ms")
	r.says(ctx, "plain/true > finished (exit status 0); it is not started again")
	r.says(ctx, "newsvc     > everything but plain/sh serves; Ctrl-C stops it\n")
	r.says(ctx, ">   plain/sh ends each time it is started; its lines above may say why\n")
	r.says(ctx, ">   fix: correct dev.run in plain/newsvc.yaml, then Ctrl-C and newsvc dev\n")
	if strings.Contains(r.out.String(), "everything serves") {
		t.Error("it says that everything serves")
	}
	p.write("plain/settings", "")
	r.says(ctx, "newsvc     > everything serves; Ctrl-C stops it\n")
	r.complete(ctx)
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}
