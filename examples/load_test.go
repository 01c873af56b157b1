package examples_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const (
	loadRate    = 300 // calls a second that are begun
	leastRate   = 200 // calls a second that a test needs to have ended
	loadWorkers = 32
	createEvery = 10 // every so many calls one creates a user, the others get one
)

// load is a stream of calls to a cluster: GetUser, which is idempotent, and CreateUser, which is not.
type load struct {
	c      *cluster
	cancel context.CancelFunc
	ended  sync.WaitGroup
	began  time.Time

	mu       sync.Mutex
	calls    map[string]int       // by method
	failed   map[string][]string  // by method
	answered map[string]time.Time // when an instance first answered
	ids      []string             // of users that exist
	last     time.Time            // of the last success
	gap      time.Duration        // the longest time without a success
	slowest  map[string]time.Duration
}

// begin begins the calls and returns when the first of them were answered.
func (c *cluster) begin(ctx context.Context) *load {
	c.t.Helper()
	l := &load{c: c, calls: map[string]int{}, failed: map[string][]string{}, answered: map[string]time.Time{}, slowest: map[string]time.Duration{}}
	for range 10 {
		l.create(ctx)
	}
	if len(l.ids) != 10 {
		c.t.Fatalf("no users to begin with: %v", l.failed)
	}
	run, cancel := context.WithCancel(context.Background())
	l.cancel, l.began, l.last, l.gap = cancel, time.Now(), time.Now(), 0
	// Creations wait for the disk, which may be busy with others; calls that only read are not to wait for them.
	l.run(run, loadRate/createEvery, l.create)
	l.run(run, loadRate-loadRate/createEvery, l.get)
	c.t.Cleanup(func() { cancel(); l.ended.Wait() })
	eventually(ctx, c.t, text("the load does not begin"), func() bool { return l.count() > 50 })
	return l
}

// run makes rate calls a second until ctx ends.
func (l *load) run(ctx context.Context, rate int, call func(context.Context)) {
	tokens := make(chan struct{}, rate) // a busy machine may fall behind by a second
	l.ended.Go(func() { pace(ctx, rate, tokens) })
	for range loadWorkers {
		l.ended.Go(func() {
			for range tokens {
				call(context.Background())
			}
		})
	}
}

// pace hands out rate tokens a second; those that no worker is free for are lost.
func pace(ctx context.Context, rate int, tokens chan<- struct{}) {
	defer close(tokens)
	tick := time.NewTicker(time.Second / 100)
	defer tick.Stop()
	began := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(rate)); n < due; n++ {
			select {
			case tokens <- struct{}{}:
			default:
			}
		}
	}
}

func (l *load) create(ctx context.Context) {
	var header metadata.MD
	began := time.Now()
	res, err := l.c.users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{
		Email: fmt.Sprintf("%d-%d@example.com", os.Getpid(), rand.Uint64()), DisplayName: "Load",
	}}, grpc.Header(&header))
	l.note("CreateUser", began, header, err)
	if err == nil {
		l.mu.Lock()
		l.ids = append(l.ids, res.GetUser().GetId())
		l.mu.Unlock()
	}
}

func (l *load) get(ctx context.Context) {
	l.mu.Lock()
	id := l.ids[rand.IntN(len(l.ids))]
	l.mu.Unlock()
	var header metadata.MD
	began := time.Now()
	res, err := l.c.users.GetUser(ctx, &userv1.GetUserRequest{Id: id}, grpc.Header(&header))
	if err == nil && res.GetUser().GetId() != id {
		err = status.Errorf(codes.DataLoss, "asked for %q, got %q", id, res.GetUser().GetId())
	}
	l.note("GetUser", began, header, err)
}

func (l *load) note(method string, began time.Time, header metadata.MD, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[method]++
	l.slowest[method] = max(l.slowest[method], now.Sub(began))
	if err != nil {
		l.failed[method] = append(l.failed[method], fmt.Sprintf("%s after %s: %v", now.Format("15:04:05.000"), now.Sub(began).Round(time.Millisecond), err))
		return
	}
	l.gap = max(l.gap, now.Sub(l.last))
	l.last = now
	for _, addr := range header.Get("newsvc-instance") {
		if _, ok := l.answered[addr]; !ok {
			l.answered[addr] = now
		}
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls["GetUser"] + l.calls["CreateUser"]
}

// firstAnswer waits until an instance has answered a call and tells when.
func (l *load) firstAnswer(ctx context.Context, addr string) time.Time {
	l.c.t.Helper()
	var at time.Time
	eventually(ctx, l.c.t, text("no call is answered by %s", addr), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		var ok bool
		at, ok = l.answered[addr]
		return ok
	})
	return at
}

// end ends the calls and fails the test when there were too few of them, or when one of the methods failed.
func (l *load) end(t *testing.T, mayNotFail ...string) {
	t.Helper()
	l.cancel()
	took := time.Since(l.began)
	l.ended.Wait()
	total := l.calls["GetUser"] + l.calls["CreateUser"]
	rate := float64(total) / took.Seconds()
	t.Logf("%d calls in %s (%.0f a second), CreateUser %d; failed: GetUser %d, CreateUser %d; longest gap %s, slowest GetUser %s, CreateUser %s",
		total, took.Round(time.Millisecond), rate, l.calls["CreateUser"], len(l.failed["GetUser"]), len(l.failed["CreateUser"]),
		l.gap.Round(time.Millisecond), l.slowest["GetUser"].Round(time.Millisecond), l.slowest["CreateUser"].Round(time.Millisecond))
	if slowest := l.slowest["GetUser"]; slowest > client.DefaultPolicy().Timeout {
		t.Errorf("a call took %s, longer than calls may by default", slowest)
	}
	if rate < leastRate {
		t.Errorf("%.0f calls a second are too few to say anything; want %d", rate, leastRate)
	}
	for _, method := range mayNotFail {
		if all := l.failed[method]; len(all) > 0 {
			t.Errorf("%d calls of %s failed:\n%s", len(all), method, strings.Join(all[:min(len(all), 20)], "\n"))
		}
	}
}

// countUsers is how many users there are, read page by page.
func (c *cluster) countUsers(ctx context.Context) int {
	c.t.Helper()
	n, token := 0, ""
	for {
		res, err := c.users.ListUsers(ctx, &userv1.ListUsersRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			c.t.Fatal(err)
		}
		n += len(res.GetUsers())
		if token = res.GetNextPageToken(); token == "" {
			return n
		}
	}
}
