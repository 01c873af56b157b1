//go:build unix

package devtest_test

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// etcd is a client of the etcd in a record.
func etcd(t *testing.T, rec devrecord.Record) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: rec.Etcd.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestASecondDevJoinsTheEtcdOfTheFirstAndTakesOver(t *testing.T) {
	t.Parallel()
	ctx := within(t, 180*time.Second)
	u := newUser(t)
	one, two, three := u.place(), u.place(), u.place()
	for _, p := range []*place{one, two, three} {
		p.service("plain", plain)
	}
	owner := one.dev(nil)
	first := owner.complete(ctx)
	if first.Etcd.Owner != first.PID {
		t.Fatalf("the first one's record says of etcd: %+v", first.Etcd)
	}
	joiner, third := two.dev(nil), three.dev(nil)
	for _, r := range []*running{joiner, third} {
		r.says(ctx, "joining "+first.Etcd.Endpoints[0]+", that of newsvc dev in "+one.root+" (pid "+strconv.Itoa(first.PID)+")")
		if rec := r.complete(ctx); rec.Etcd.Owner != first.PID || !slices.Equal(rec.Etcd.Endpoints, first.Etcd.Endpoints) {
			t.Errorf("a joiner's record says of etcd: %+v", rec.Etcd)
		}
	}
	// Somebody else's newsvc dev finds none of them.
	other := newUser(t).place()
	other.service("plain", plain)
	stranger := other.dev(nil)
	if rec := stranger.complete(ctx); slices.Equal(rec.Etcd.Endpoints, first.Etcd.Endpoints) || rec.Etcd.Owner != rec.PID {
		t.Errorf("another user's newsvc dev joined: %+v", rec.Etcd)
	}

	owner.signal(syscall.SIGINT)
	if status := owner.wait(ctx); status != 0 {
		t.Errorf("the owner's exit status is %d", status)
	}
	isOwner := func(r *running) bool { return strings.Contains(r.out.String(), "started one at the same address") }
	eventually(ctx, t, "one of the joiners takes over", func() bool { return isOwner(joiner) || isOwner(third) })
	heir, last := joiner, third
	if isOwner(third) {
		heir, last = third, joiner
	}
	took := func(rec devrecord.Record) bool { return rec.Etcd.Owner == heir.cmd.Process.Pid }
	rec := heir.record(ctx, took)
	last.record(ctx, took)
	if isOwner(last) || !slices.Equal(rec.Etcd.Endpoints, first.Etcd.Endpoints) {
		t.Errorf("both took over, or at another address: %+v", rec.Etcd)
	}
	if _, err := etcd(t, rec).Put(ctx, "/x", "y"); err != nil {
		t.Errorf("the etcd that was taken over does not answer: %v", err)
	}

	// The first one comes back, and joins those that went on without it.
	again := one.dev(nil)
	again.says(ctx, "joining "+first.Etcd.Endpoints[0]+", that of newsvc dev in "+heir.root)
	again.complete(ctx)

	// One that was killed says nothing, and is missed all the same.
	heir.signal(syscall.SIGKILL)
	heir.wait(ctx)
	eventually(ctx, t, "somebody takes over from one that was killed", func() bool { return isOwner(last) || isOwner(again) })
}

func TestAnAddressThatSomebodyElseTookEndsAJoinerWithARemedy(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	u := newUser(t)
	one, two := u.place(), u.place()
	one.service("plain", plain)
	two.service("plain", plain)
	owner := one.dev(nil)
	first := owner.complete(ctx)
	joiner := two.dev(nil)
	joiner.complete(ctx)
	if err := joiner.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	owner.signal(syscall.SIGINT)
	owner.wait(ctx)
	l := listen(t, first.Etcd.Endpoints[0])
	defer l.Close()
	joiner.signal(syscall.SIGCONT)
	if status := joiner.wait(ctx); status != 3 {
		t.Errorf("exit status %d, want 3", status)
	}
	for _, want := range []string{"newsvc: newsvc dev in " + one.root + " has stopped and its etcd with it", "in use", "\n  fix: newsvc dev\n"} {
		if !strings.Contains(joiner.err.String(), want) {
			t.Errorf("stderr does not say %q:\n%s", want, joiner.err.String())
		}
	}
}

func TestSeveralEtcdsAreListed(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	u := newUser(t)
	one, two, three := u.place(), u.place(), u.place()
	for _, p := range []*place{one, two, three} {
		p.service("plain", plain)
	}
	a := one.dev(nil)
	first := a.complete(ctx)
	b := two.dev(nil, "--etcd", "embedded")
	second := b.complete(ctx)
	if slices.Equal(first.Etcd.Endpoints, second.Etcd.Endpoints) {
		t.Fatalf("--etcd embedded joined %v", second.Etcd.Endpoints)
	}
	c := three.dev(nil)
	if status := c.wait(ctx); status != 4 {
		t.Errorf("exit status %d, want 4", status)
	}
	for _, want := range []string{one.root, two.root, first.Etcd.Endpoints[0], second.Etcd.Endpoints[0], "fix: newsvc dev --etcd "} {
		if !strings.Contains(c.err.String(), want) {
			t.Errorf("stderr does not say %q:\n%s", want, c.err.String())
		}
	}
	// Nobody's etcd is joined without being named; named, it is, and it is not taken over.
	d := three.dev(nil, "--etcd", first.Etcd.Endpoints[0])
	if rec := d.complete(ctx); rec.Etcd.Owner != 0 {
		t.Errorf("the record says of an etcd that was named: %+v", rec.Etcd)
	}
}

func TestTwoDevsInOneDirectory(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.service("plain", plain)
	first := p.dev(nil, "--etcd", "127.0.0.1:1")
	pid := strconv.Itoa(first.complete(ctx).PID)
	second := p.dev(nil, "--etcd", "127.0.0.1:1")
	if status := second.wait(ctx); status != 3 {
		t.Errorf("exit status %d, want 3", status)
	}
	want := "newsvc: newsvc dev runs here already (pid " + pid + ")\n   at: " + p.root + "\n  fix: kill -INT " + pid + "\n"
	if got := second.err.String(); got != want {
		t.Errorf("stderr is\n%s, want\n%s", got, want)
	}
}
