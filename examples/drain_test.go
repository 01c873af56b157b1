package examples_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/examples/user-service/follow"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// TestWatchesMoveAtTheBeginningOfADrain rolls all instances while a client watches and users are made. An instance with
// an open watch that is told of the drain only with the end of its stream's context would take server.drain.soft to stop.
func TestWatchesMoveAtTheBeginningOfADrain(t *testing.T) {
	t.Parallel()
	const soft = 30 * time.Second
	ctx := within(t, 120*time.Second)
	c := newCluster(t, startEtcd(t), "USER_SERVICE__SERVER__DRAIN__SOFT="+soft.String(), "USER_SERVICE__SERVER__DRAIN__HARD=50s", "USER_SERVICE__APP__STOP_TIMEOUT=60s")
	all := c.start(ctx, 3)
	c.call(ctx, 3)

	var emails []string // of the follower, until it has ended
	var streams, seen atomic.Int64
	last := errors.New("the last user was seen")
	synced := make(chan struct{})
	followed := make(chan error, 1)
	go func() {
		followed <- follow.Users(ctx, c.users, "", func(res *userv1.WatchUsersResponse) error {
			if res.GetKind() == userv1.WatchUsersResponse_KIND_SYNC {
				if streams.Add(1) == 1 {
					close(synced)
				}
				return nil
			}
			emails = append(emails, res.GetUser().GetEmail())
			seen.Add(1)
			if strings.HasPrefix(res.GetUser().GetEmail(), "last") {
				return last
			}
			return nil
		})
	}()
	select {
	case <-synced:
	case err := <-followed:
		t.Fatal(err)
	}

	writing, endWriting := context.WithCancel(ctx)
	defer endWriting()
	var want []string
	written := make(chan error, 1)
	go func() {
		written <- func() error {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := 0; writing.Err() == nil; i++ {
				email := fmt.Sprintf("%04d@example.com", i)
				if _, err := c.users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: email}}); err != nil {
					return err
				}
				want = append(want, email)
				<-tick.C
			}
			_, err := c.users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "last@example.com"}})
			want = append(want, "last@example.com")
			return err
		}()
	}()
	for _, old := range all {
		c.start(ctx, 1)
		began := time.Now()
		old.signal(syscall.SIGTERM)
		if status := old.wait(ctx); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		if took := time.Since(began); took > soft/2 {
			t.Errorf("an instance took %s to stop: its watches were not told until the soft budget of %s", took, soft)
		}
	}
	endWriting()
	if err := <-written; err != nil {
		t.Fatalf("a write failed during the roll: %v", err)
	}
	if err := <-followed; !errors.Is(err, last) {
		t.Fatalf("following ended after %d changes: %v", seen.Load(), err)
	}
	if got, all := strings.Join(emails, " "), strings.Join(want, " "); got != all {
		t.Errorf("changes were lost, repeated or out of order:\ngot  %s\nwant %s", got, all)
	}
	if n := streams.Load(); n < 2 {
		t.Errorf("the watch never moved: %d stream", n)
	}
	t.Logf("%d changes in order over %d streams", len(emails), streams.Load())
}
