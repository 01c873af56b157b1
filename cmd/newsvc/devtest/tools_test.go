//go:build unix

package devtest_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/framework/discovery"
)

// keys are those of a service in etcd, and the revision at which they were read.
func keys(ctx context.Context, t *testing.T, c *clientv3.Client, prefix, service string) (names []string, revision int64) {
	t.Helper()
	res, err := c.Get(ctx, discovery.ServicePrefix(prefix, service), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, 0 // it is being taken over
	}
	for _, kv := range res.Kvs {
		names = append(names, string(kv.Key))
	}
	return names, res.Header.Revision
}

// Who looks from outside needs to know nothing of who started etcd, and that it was somebody else before.
func TestCommandsFindWhatIsInAnEtcdThatWasTakenOverAndWriteNothing(t *testing.T) {
	t.Parallel()
	ctx := within(t, 8*time.Minute)
	u := newUser(t)
	one, two, outside := u.place(), u.place(), u.place()
	one.service("plain", plain)
	examples(t, two)
	// The usual port is what everybody else's newsvc dev waits for: while it is free for a moment, a test beside this one takes it.
	if usual, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:2379"); err == nil {
		defer usual.Close()
	}
	owner := one.dev(nil)
	first := owner.complete(ctx)
	joiner := two.dev([]string{"USER_SERVICE__USER__PATH=" + two.path("users.db"), "USER_SERVICE__USER__BUSY_TIMEOUT=20s"})
	joiner.says(ctx, "joining "+first.Etcd.Endpoints[0])
	if rec := joiner.complete(ctx); rec.Etcd.Owner != first.PID {
		t.Fatalf("the joiner's record says of etcd: %+v", rec.Etcd)
	}

	owner.signal(syscall.SIGKILL)
	owner.wait(ctx)
	rec := joiner.record(ctx, func(rec devrecord.Record) bool { return rec.Complete && rec.Etcd.Owner == rec.PID })
	if !slices.Equal(rec.Etcd.Endpoints, first.Etcd.Endpoints) {
		t.Fatalf("it took over at %v, and etcd was at %v", rec.Etcd.Endpoints, first.Etcd.Endpoints)
	}
	c := etcd(t, rec)
	var before []string
	var revision int64
	eventually(ctx, t, "both instances are registered again", func() bool {
		before, revision = keys(ctx, t, c, rec.Etcd.Prefix, userService)
		return len(before) == 2
	})

	said := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("it does not say %q:\n%s", want, text)
			}
		}
	}
	var addrs []string
	for _, i := range rec.Services[userService].Instances {
		addrs = append(addrs, i.GRPC)
	}
	for _, args := range [][]string{{"ls"}, {"ls", userService}} {
		said(outside.newsvc(ctx, args...), append([]string{userService}, addrs...)...)
	}
	said(outside.newsvc(ctx, "call", userService, "ListUsers"), "{")
	// Its caller looks again on its own time; it has kept what it knew.
	said(outside.newsvc(ctx, "why", userService),
		append(addrs, "(the running newsvc dev in "+two.root+")", "etcd answers: 2 instances registered", "gateway ", " sees 2 instances, 2 usable")...)

	after, now := keys(ctx, t, c, rec.Etcd.Prefix, userService)
	if now != revision || !slices.Equal(after, before) {
		t.Errorf("somebody wrote: revision %d and %q were %d and %q", now, after, revision, before)
	}
}
