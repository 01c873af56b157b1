package client_test

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// later refuses with pushback.
func later(wait time.Duration) handler {
	return func(*server, string, string, grpc.ServerStream) error {
		return notprocessed.Later("this instance is overloaded", wait)
	}
}

// The first repeat does not: it most likely comes to another instance.
func TestASecondRepeatWaitsAsLongAsTheServerAsks(t *testing.T) {
	t.Parallel()
	const wait = 300 * time.Millisecond // more than any wait of our own
	s := startServer(t, "127.0.0.1:0", later(wait))
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.NotProcessed.MaxAttempts = 3 })
	ready(t, c)
	began := time.Now()
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	if n, took := s.runs.Load(), time.Since(began); n != 3 || took < wait {
		t.Errorf("%d attempts took %s; want 3, with at least %s between the last two", n, took, wait)
	}
}

func TestACallIsNotRepeatedWhenItMustWaitPastItsDeadline(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", later(time.Hour))
	c := connect(t, newRegistry(s.addr), nil)
	ready(t, c)
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	if n := s.runs.Load(); n != 2 {
		t.Errorf("%d attempts were made, want two", n)
	}
}
