package examples_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// direct is a plain gRPC client of one instance.
func direct(t *testing.T, addr string) userv1.UserServiceClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cc.Close(); err != nil {
			t.Error(err)
		}
	})
	return userv1.NewUserServiceClient(cc)
}

// watched is what a watch has shown so far: e-mails of created users in order, and where to go on.
type watched struct {
	emails []string
	token  string
}

// follow adds what one stream shows until n users were seen, or the stream breaks.
func (w *watched) follow(ctx context.Context, users userv1.UserServiceClient, n int, synced chan<- struct{}) error {
	stream, err := users.WatchUsers(ctx, &userv1.WatchUsersRequest{ResumeToken: w.token})
	if err != nil {
		return err
	}
	for len(w.emails) < n {
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		w.token = res.GetResumeToken()
		switch res.GetKind() {
		case userv1.WatchUsersResponse_KIND_SYNC:
			if synced != nil {
				close(synced)
			}
		case userv1.WatchUsersResponse_KIND_CREATED:
			w.emails = append(w.emails, res.GetUser().GetEmail())
		default:
			return fmt.Errorf("unexpected %v", res)
		}
	}
	return nil
}

func TestAWatchGoesOnAtAnotherReplicaAfterItsOwnWasKilled(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	c := newCluster(t, startEtcd(t))
	all := c.start(ctx, 3)
	writer, first, second := direct(t, all[0].GRPC), direct(t, all[1].GRPC), direct(t, all[2].GRPC)

	const total, killAfter = 400, 100
	written, synced, halfway := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() { // changes are made through one replica, before, while and after the other one dies
		written <- func() error {
			select {
			case <-synced:
			case <-ctx.Done():
				return ctx.Err()
			}
			tick := time.NewTicker(5 * time.Millisecond) // 200 a second
			defer tick.Stop()
			for i := range total {
				if i == killAfter {
					close(halfway)
				}
				user := &userv1.User{Email: fmt.Sprintf("%03d@example.com", i)}
				if _, err := writer.CreateUser(ctx, &userv1.CreateUserRequest{User: user}); err != nil {
					return err
				}
				<-tick.C
			}
			return nil
		}()
	}()
	broke := make(chan error, 1)
	var w watched
	go func() { broke <- w.follow(ctx, first, total, synced) }()
	select {
	case <-halfway:
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	all[1].signal(syscall.SIGKILL)
	if status := all[1].wait(ctx); status != 128+int(syscall.SIGKILL) {
		t.Errorf("exit status %d, want that of SIGKILL", status)
	}
	if err := <-broke; status.Code(err) != codes.Unavailable {
		t.Fatalf("the watch at the killed replica ended with %v, want UNAVAILABLE", err)
	}
	seen := len(w.emails)
	if seen == 0 || seen == total {
		t.Fatalf("%d of %d changes were seen before the replica died; the test needs some before and some after", seen, total)
	}
	if err := w.follow(ctx, second, total, nil); err != nil {
		t.Fatalf("the resumed watch ended after %d changes: %v", len(w.emails), err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for i, email := range w.emails {
		if want := fmt.Sprintf("%03d@example.com", i); email != want {
			t.Fatalf("change %d is of %s, want %s: lost, repeated or out of order; seen: %s", i, email, want, strings.Join(w.emails, " "))
		}
	}
	t.Logf("%d changes in order, %d of them seen at the replica that was killed", len(w.emails), seen)
}
