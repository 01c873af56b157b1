//go:build unix

package devtest_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

func TestASaveReplacesTheProcessAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, "replicas: 2")
	p.service("other", strings.ReplaceAll(plain, "one", "unchanged"))
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	first := r.complete(ctx)

	p.change("plain/main.go", `"one"`, `"two"`)
	r.says(ctx, "plain   > reload: plain/main.go: built in")
	second := r.record(ctx, func(rec devrecord.Record) bool {
		now := pids(rec, "plain")
		return len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(pids(first, "plain"), pid) })
	})
	eventually(ctx, t, "both say the new version", func() bool { return strings.Count(r.out.String(), "version two") == 2 })
	eventually(ctx, t, "both old ones have left", func() bool { return strings.Count(r.out.String(), "left one") == 2 })
	if !slices.Equal(pids(first, "other"), pids(second, "other")) {
		t.Errorf("the other service's processes were %v and are %v", pids(first, "other"), pids(second, "other"))
	}

	// One that does not compile, and one that exits at its start, leave alone what runs.
	p.write("plain/broken.go", "package main\n\nvar _ = undeclared\n")
	r.says(ctx, "plain/broken.go: plain does not build; the previous version goes on serving")
	r.says(ctx, "plain/broken.go:3:9: undefined: undeclared")
	p.write("plain/broken.go", "package main\n\nimport \"os\"\n\nfunc init() { println(\"no settings\"); os.Exit(7) }\n")
	r.says(ctx, "after its start (exit status 7); the previous version goes on serving")
	r.says(ctx, "last line: no settings")
	p.write("plain/broken.go", "package main\n") // nothing in it: the same program, perhaps
	from := len(r.out.String())
	p.change("plain/main.go", `"two"`, `"three"`)
	r.saysSince(ctx, from, "version three")
	third := r.record(ctx, func(rec devrecord.Record) bool { return len(pids(rec, "plain")) == 2 })
	if third.PID != first.PID {
		t.Errorf("newsvc dev is process %d and was %d", third.PID, first.PID)
	}
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

func TestBrokenSavesKeepTheProcesses(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	before := pids(r.complete(ctx), "plain")
	p.change("plain/main.go", "<-stop", "<-stop +")
	r.says(ctx, "does not build; the previous version goes on serving")
	p.change("plain/main.go", "<-stop +", `panic("at once")`)
	r.says(ctx, "the previous version goes on serving\n")
	r.says(ctx, "after its start (exit status 2)")
	r.says(ctx, ">   panic: at once\n")
	if now := pids(r.complete(ctx), "plain"); !slices.Equal(now, before) || syscall.Kill(before[0], 0) != nil {
		t.Errorf("the processes were %v and are %v", before, now)
	}
}

// An editor that saves all files, or a tool that rewrites many, is one change.
func TestTwentySavesInASecondAreOneReload(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	tick := time.NewTicker(45 * time.Millisecond)
	defer tick.Stop()
	for i := range 20 {
		p.write("plain/version.go", fmt.Sprintf("package main\n\nfunc init() { println(\"save %d\") }\n", i))
		<-tick.C
	}
	r.says(ctx, "save 19")
	r.says(ctx, "the previous version is gone")
	if n := strings.Count(r.out.String(), "> reload:"); n != 1 {
		t.Errorf("%d reloads, want 1", n)
	}
	// To write the same again is no change, and neither is a test.
	p.write("plain/version.go", "package main\n\nfunc init() { println(\"save 19\") }\n")
	p.write("plain/main_test.go", "package main\n\nthis is no Go\n")
	p.write("plain/end.go", "package main\n\nfunc init() { println(\"the end\") }\n")
	r.says(ctx, "the end")
	if n := strings.Count(r.out.String(), "> reload:"); n > 2 || strings.Contains(r.out.String(), "does not build") {
		t.Errorf("%d reloads, want 2", n)
	}
}

func TestNoWatchReloadsNothing(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	p.service("watched", plain)
	deaf := p.dev(nil, "--etcd", "127.0.0.1:1", "--no-watch", "plain")
	before := deaf.complete(ctx)
	p.change("plain/main.go", `"one"`, `"two"`)
	// Somebody else's newsvc dev, in a directory below, sees the change of its own service: the time in which it does would
	// do for the first one, too.
	below := &place{p.user, p.path("watched")}
	r := below.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	p.change("watched/main.go", `"one"`, `"two"`)
	r.says(ctx, "version two")
	if now := deaf.complete(ctx); !slices.Equal(pids(now, "plain"), pids(before, "plain")) || strings.Contains(deaf.out.String(), "version two") {
		t.Errorf("the processes were %v and are %v", before, now)
	}
}

func TestAnExclusiveServiceIsStoppedBeforeItIsStarted(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, "exclusive: true")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	r.says(ctx, "as dev.exclusive says")
	p.change("plain/main.go", `"one"`, `"two"`)
	r.says(ctx, "version two")
	if out := r.out.String(); strings.Index(out, "left one") > strings.Index(out, "version two") || !strings.Contains(out, "left one") {
		t.Errorf("the new one began before the old one had ended")
	}
	p.change("plain/main.go", "func main() {", "func main() {\n\tif version == \"two\" {\n\t\tos.Exit(3)\n\t}")
	r.says(ctx, "after its start (exit status 3)")
	eventually(ctx, t, "the one that worked runs again", func() bool { return strings.Count(r.out.String(), "version two") == 2 })
}

func TestWhatAServiceNeedsIsStartedFirstAndStoppedLast(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	needs := `trap "echo %[1]s ends; exit 0" TERM; echo %[1]s begins; while :; do read -t 1 x < /dev/zero; sleep 0.05; done`
	p.service("plain", plain, fmt.Sprintf("run: ['%s', '%s']", fmt.Sprintf(needs, "database"), fmt.Sprintf(needs, "queue")))
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	r.says(ctx, "database begins")
	r.says(ctx, "queue begins")
	for _, name := range []string{"database", "queue"} {
		if !regexp.MustCompile(`(?s)> starting, as dev.run says: trap "echo ` + name + ` .*plain +> building `).MatchString(r.out.String()) {
			t.Errorf("%s is not started before the service is built, and run", name)
		}
	}
	r.signal(syscall.SIGTERM)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	out, last := r.out.String(), 0
	for _, text := range []string{"| left one", "| queue ends", "| database ends"} {
		at := strings.Index(out, text)
		if at < last {
			t.Errorf("%q is missing or came too early", text)
		}
		last = at
	}
}

func TestCreateDevAndStopLeaveNothingForGit(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		cmd.Dir = p.root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "all")
	r := p.dev(nil, "--etcd", "embedded")
	r.complete(ctx)
	if changed := git("status", "--porcelain"); changed != "" {
		t.Errorf("while it runs: %s", changed)
	}
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if changed := git("status", "--porcelain"); changed != "" {
		t.Errorf("after the stop: %s", changed)
	}
	if left, err := filepath.Glob(filepath.Join(p.cache, "newsvc", "dev", "*.json")); err != nil || len(left) > 0 {
		t.Errorf("records are left: %q %v", left, err)
	}
}

// Each of these leaves at SIGTERM in its own way.
func TestTheExitStatusSaysWhetherSomethingWasCut(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		main    string
		signals int
		status  int
	}{
		"clean":           {plain, 1, 0},
		"cut":             {strings.Replace(plain, `fmt.Println("left", version)`, `os.Exit(1)`, 1), 1, 1},
		"second signal":   {strings.Replace(plain, `fmt.Println("left", version)`, `fmt.Println("deaf"); select {}`, 1), 2, 128 + int(syscall.SIGINT)},
		"knows no signal": {strings.Replace(plain, "signal.Notify(stop, syscall.SIGTERM)", "signal.Notify(stop, syscall.SIGUSR1)", 1), 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 120*time.Second)
			p := newUser(t).place()
			p.service("plain", strings.Replace(tt.main, `fmt.Println("deaf"); select {}`, `fmt.Println("deaf"); <-make(chan os.Signal)`, 1))
			r := p.dev(nil, "--etcd", "127.0.0.1:1")
			child := pids(r.complete(ctx), "plain")[0]
			r.signal(syscall.SIGINT)
			if tt.signals > 1 {
				r.says(ctx, "| deaf")
				r.signal(syscall.SIGINT)
			}
			if status := r.wait(ctx); status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			if syscall.Kill(child, 0) == nil {
				t.Errorf("process %d is left", child)
			}
			if tt.status == 1 && !strings.Contains(r.err.String(), "not all work could be finished: plain") {
				t.Errorf("stderr: %s", r.err.String())
			}
		})
	}
}

// When the second instance of a new version does not start, the first one is new already; to undo the save is a change to it.
func TestAnUndoneSaveReachesTheInstanceThatHadIt(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	p := newUser(t).place()
	p.service("plain", plain, "replicas: 2")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	p.change("plain/main.go", `"one"`, `"two"`)
	p.change("plain/main.go", "func main() {", "func main() {\n\tif os.Mkdir(\"claimed\", 0o755) != nil {\n\t\tos.Exit(3)\n\t}")
	r.says(ctx, "(exit status 3); the previous version goes on serving")
	r.says(ctx, "version two")
	from := len(r.out.String())
	p.write("plain/main.go", plain)
	r.saysSince(ctx, from, "the previous version is gone")
	r.saysSince(ctx, from, "left two")
	if now := r.record(ctx, func(rec devrecord.Record) bool { return len(pids(rec, "plain")) == 2 }); len(pids(now, "plain")) != 2 {
		t.Errorf("the record says %+v", now.Services)
	}
}
