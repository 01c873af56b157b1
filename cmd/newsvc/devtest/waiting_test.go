//go:build unix

package devtest_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const wrong = "package main\n\nfunc main() { undeclared() }\n"

// Who starts the day with a typo gets the rest of the services, and this one with the next save.
func TestAFirstBuildThatFailsWaitsForASave(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	p.service("typo", wrong, "replicas: 2")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "> warning: no etcd at 127.0.0.1:1 yet (connection refused); services register when there is one")
	r.says(ctx, ">   fix: start it, or use the built-in one: newsvc dev --etcd embedded")
	r.says(ctx, "> typo does not build; waiting for a save")
	r.says(ctx, ">   typo/main.go:3:15: undefined: undeclared")
	r.says(ctx, "everything but typo serves")
	r.says(ctx, "| version one")

	p.write("typo/main.go", strings.ReplaceAll(wrong, "undeclared", "missing"))
	r.says(ctx, "> reload: typo/main.go: typo does not build; waiting for a save")
	r.says(ctx, ">   typo/main.go:3:15: undefined: missing")
	if out := r.out.String(); strings.Contains(out, "the previous version") {
		t.Errorf("there is no previous version")
	}
	p.write("typo/main.go", strings.ReplaceAll(plain, `"one"`, `"mended"`))
	rec := r.complete(ctx)
	if n := len(pids(rec, "typo")); n != 2 || len(pids(rec, "plain")) != 1 {
		t.Errorf("the record says %+v", rec.Services)
	}
	r.says(ctx, "everything serves")
	if n := strings.Count(r.out.String(), "| version one"); n != 1 {
		t.Errorf("the other service was started %d times", n)
	}
}

// Alone, it waits, too; whatever it takes to be mended is noticed.
func TestWhatMendsAFirstBuildIsNoticed(t *testing.T) {
	t.Parallel()
	const uses = "package main\n\nimport \"example.test/plain/internal/fresh\"\n\nfunc init() { println(fresh.Text) }\n"
	const fresh = "package fresh\n\nconst Text = \"fresh one\"\n"
	for name, tt := range map[string]struct {
		breaks func(p *place)
		says   string
		mends  func(p *place)
	}{
		"go.mod": {
			func(p *place) { p.write("plain/go.mod", "module example.test/plain\n\ngo 1.26\n\nnonsense\n") }, "go.mod:5",
			func(p *place) { p.write("plain/go.mod", "module example.test/plain\n\ngo 1.26\n") },
		},
		"a package that is not there yet": {
			func(p *place) { p.write("plain/uses.go", uses) }, "uses.go:3:8",
			func(p *place) { p.write("plain/internal/fresh/fresh.go", fresh) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 120*time.Second)
			p := newUser(t).place()
			p.service("plain", plain)
			tt.breaks(p)
			r := p.dev(nil, "--etcd", "127.0.0.1:1")
			r.says(ctx, "plain does not build; waiting for a save")
			r.says(ctx, tt.says)
			tt.mends(p)
			r.says(ctx, "version one")
			r.complete(ctx)
		})
	}
}

// Shells know a directory by the link that led there; names of files can be opened all the same.
func TestInADirectoryBehindALink(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	u := newUser(t)
	p, links := u.place(), u.place()
	const ordner = "mein Ordner äöü"
	p.root = p.path(ordner)
	p.service("plain", wrong)
	if err := os.Symlink(p.root, links.path("ein link")); err != nil {
		t.Fatal(err)
	}
	linked := &place{u, links.path("ein link")}
	r := linked.dev([]string{"PWD=" + linked.root}, "--etcd", "embedded")
	r.says(ctx, ">   plain/main.go:3:15: undefined: undeclared")
	linked.write("plain/main.go", plain)
	r.says(ctx, "> reload: plain/main.go: built in")
	if rec := r.complete(ctx); rec.Root != p.root {
		t.Errorf("the record is of %s, want %s", rec.Root, p.root)
	}
	from := len(r.out.String())
	linked.write("plain/internal/ping/ping.go", "package ping\n")
	linked.write("plain/main.go", strings.Replace(plain, "import (", "import (\n\t_ \"example.test/plain/internal/ping\"", 1))
	r.saysSince(ctx, from, "> reload: plain/main.go: built in")
	linked.write("plain/internal/ping/ping.go", "package ping\n\nfunc init() { println(\"ping\") }\n")
	r.says(ctx, "> reload: plain/internal/ping/ping.go: built in")
	if strings.Contains(r.out.String(), ordner) {
		t.Error("a file is named from the root of the file system on")
	}
}

// A package that a save begins to use belongs to the service from then on.
func TestFilesOfANewPackageAreWatched(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	p.write("plain/internal/fresh/fresh.go", "package fresh\n\nconst Text = \"fresh one\"\n")
	p.write("plain/uses.go", "package main\n\nimport \"example.test/plain/internal/fresh\"\n\nfunc init() { println(fresh.Text) }\n")
	r.says(ctx, "fresh one")
	r.says(ctx, "the previous version is gone")
	p.change("plain/internal/fresh/fresh.go", "fresh one", "fresh two")
	r.says(ctx, "fresh two")
}

func TestWhatNoSaveCanMendEndsAtOnce(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", wrong)
	deaf := p.dev(nil, "--etcd", "127.0.0.1:1", "--no-watch")
	if status := deaf.wait(ctx); status != 1 {
		t.Errorf("exit status %d with --no-watch, want 1", status)
	}
	if want := "newsvc: plain does not build\n   at: plain/main.go:3:15: undefined: undeclared\n"; deaf.err.String() != want {
		t.Errorf("stderr is\n%s, want\n%s", deaf.err.String(), want)
	}
	none := p.dev([]string{"PATH=" + t.TempDir()}, "--etcd", "127.0.0.1:1")
	if status := none.wait(ctx); status != 3 {
		t.Errorf("exit status %d without a go command, want 3", status)
	}
	if want := "newsvc: the go command is not in PATH\n  fix: install Go from https://go.dev/dl/\n"; none.err.String() != want {
		t.Errorf("stderr is\n%s, want\n%s", none.err.String(), want)
	}
}

func TestAProgramThatExitsAtItsFirstStartIsReplacedByTheNextSave(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	const exits = "package main\n\nimport \"os\"\n\nfunc main() { println(\"no settings\"); os.Exit(7) }\n"
	p.service("early", exits)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "(exit status 7): no settings; starting again in 500ms, or with a save")
	r.says(ctx, "everything but early serves")
	p.write("early/main.go", strings.ReplaceAll(exits, "no settings", "still none"))
	r.says(ctx, "after its start (exit status 7); waiting for a save")
	r.says(ctx, "last line: still none")
	r.says(ctx, "(exit status 7): still none; starting again in ") // the newer one, and not the one before
	p.write("early/main.go", strings.ReplaceAll(plain, `"one"`, `"mended"`))
	r.says(ctx, "version mended")
	if rec := r.complete(ctx); len(pids(rec, "early")) != 1 || len(pids(rec, "plain")) != 1 {
		t.Errorf("the record says %+v", rec.Services)
	}
}

// A configuration that is broken at the start is mended by a save of it, without waiting for the next attempt.
func TestADeadServiceIsStartedWhenItsConfigurationIsSaved(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	const reads = "func main() {\n\tif raw, _ := os.ReadFile(\"config.yaml\"); string(raw) != \"good\" {\n\t\tprintln(\"config.yaml:1: bad\")\n\t\tos.Exit(1)\n\t}\n"
	p.service("plain", strings.Replace(plain, "func main() {\n", reads, 1))
	p.write("plain/config.yaml", "bad")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "config.yaml:1: bad; starting again in")
	p.write("plain/config.yaml", "good")
	r.says(ctx, "reload: plain/config.yaml: reloaded in")
	if n := strings.Count(r.out.String(), "built in"); n != 1 {
		t.Errorf("%d builds; a configuration needs none", n)
	}
	r.complete(ctx)
}

// What is deleted, created or configured while newsvc dev runs.
func TestServicesThatComeAndGo(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("services/plain", plain)
	p.write("services/plain/newsvc.yaml", "kind: service\nname: plain\n")
	p.service("services/leaving", strings.ReplaceAll(plain, "one", "leaving"))
	p.write("services/leaving/newsvc.yaml", "kind: service\nname: leaving\n")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	before := r.complete(ctx)
	if err := os.RemoveAll(p.path("services/leaving")); err != nil {
		t.Fatal(err)
	}
	r.says(ctx, "services/leaving is no service any more; the previous version goes on serving")
	p.service("services/coming", plain)
	p.write("services/coming/newsvc.yaml", "kind: service\nname: coming\n")
	r.says(ctx, "there is a new service, coming; newsvc dev runs it when it is started anew: Ctrl-C, then newsvc dev")
	p.write("services/plain/newsvc.yaml", "kind: service\nname: plain\ndev:\n  replicas: 2\n")
	r.says(ctx, "services/plain/newsvc.yaml has changed; what it says of dev takes effect when newsvc dev is started anew")
	now := r.complete(ctx)
	for _, name := range []string{"plain", "leaving"} {
		if !slices.Equal(pids(before, name), pids(now, name)) {
			t.Errorf("the processes of %s were %v and are %v", name, pids(before, name), pids(now, name))
		}
	}
}
