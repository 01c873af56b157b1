//go:build unix

package devtest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// hold is what the go command runs in place of each of its tools. When it is told to hold, the compiler never gets anywhere.
const hold = `#!/bin/sh
dir=${0%/*}
case "$*" in *-V=full*) exec "$@" ;; esac
case "$1" in
*/compile)
	if mv "$dir/hold" "$dir/held" 2>/dev/null; then
		echo $$ $PPID > "$dir/pids.new" && mv "$dir/pids.new" "$dir/pids"
		exec sleep 600
	fi ;;
esac
exec "$@"
`

func TestASaveDuringABuildEndsThatBuild(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	p.write("tool/hold.sh", hold)
	if err := os.Chmod(p.path("tool/hold.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := p.dev([]string{"GOFLAGS=-toolexec=" + p.path("tool/hold.sh")}, "--etcd", "127.0.0.1:1")
	before := pids(r.complete(ctx), "plain")
	p.write("tool/hold", "")
	p.change("plain/main.go", `"one"`, `"two"`)
	var compiler, build int
	eventually(ctx, t, "the second version is being compiled", func() bool {
		raw, err := os.ReadFile(p.path("tool/pids"))
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(raw), &compiler, &build)
		return err == nil
	})
	if !devrecord.Alive(compiler) || !devrecord.Alive(build) {
		t.Fatalf("the compiler (pid %d) or go build (pid %d) does not run", compiler, build)
	}
	if now := pids(r.complete(ctx), "plain"); now[0] != before[0] {
		t.Errorf("the process was %v and is %v while the new one is built", before, now)
	}
	p.change("plain/main.go", `"two"`, `"three"`)
	r.says(ctx, "version three")
	for what, pid := range map[string]int{"the compiler": compiler, "go build": build} {
		eventually(ctx, t, what+" of the older save has ended", func() bool { return !devrecord.Alive(pid) })
	}
	r.says(ctx, "the previous version is gone")
	out := r.out.String()
	if strings.Contains(out, "version two") || strings.Count(out, "> reload:") != 1 || strings.Contains(out, "does not build") {
		t.Errorf("the older save came to something")
	}
	if _, err := os.Stat(p.path(".newsvc/bin/plain-2")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a program of the older save: %v", err)
	}
}

// A checkout of another branch rewrites, adds and removes files at once.
func TestBranchesAreCheckedOutWhileItRuns(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		cmd.Dir = p.root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	git("switch", "-q", "-c", "feature")
	p.change("plain/main.go", `const version = "one"`, `const version = text.Version`)
	p.change("plain/main.go", `	"syscall"`+"\n", `	"syscall"`+"\n\n\t\"example.test/plain/internal/text\"\n")
	p.write("plain/internal/text/text.go", "package text\n\nconst Version = \"feature\"\n")
	git("add", ".")
	git("commit", "-q", "-m", "feature")
	git("switch", "-q", "main")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	for i, branch := range []string{"feature", "main", "feature"} {
		from := len(r.out.String())
		git("switch", "-q", branch)
		want := []string{"feature", "one", "feature"}[i]
		r.saysSince(ctx, from, "version "+want)
		r.saysSince(ctx, from, "the previous version is gone")
	}
	p.change("plain/internal/text/text.go", "feature", "edited")
	r.says(ctx, "version edited")
}

func TestADiskThatIsFullKeepsTheProcesses(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	p.write("tmp/keep", "")
	if err := fullDisk(p.path("tmp")); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unmount(p.path("tmp")) })
	r := p.dev([]string{"GOTMPDIR=" + p.path("tmp"), "GOFLAGS=-trimpath"}, "--etcd", "127.0.0.1:1")
	r.says(ctx, "plain does not build; waiting for a save")
	r.says(ctx, "no space left on device")
	if err := unmount(p.path("tmp")); err != nil {
		t.Fatal(err)
	}
	p.change("plain/main.go", `"one"`, `"two"`)
	before := pids(r.complete(ctx), "plain")
	if err := fullDisk(p.path("tmp")); err != nil {
		t.Fatal(err)
	}
	p.change("plain/main.go", `"two"`, `"three"`)
	r.says(ctx, "plain does not build; the previous version goes on serving")
	if now := pids(r.complete(ctx), "plain"); now[0] != before[0] || syscall.Kill(before[0], 0) != nil {
		t.Errorf("the process was %v and is %v", before, now)
	}
}
