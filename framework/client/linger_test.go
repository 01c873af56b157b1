package client_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/client"
)

// echoOrHold answers unary calls, and keeps the other streams open until they are cut.
func echoOrHold(s *server, method, in string, stream grpc.ServerStream) error {
	if method == methodChat {
		return hang(s, method, in, stream)
	}
	return answerAddr(s, method, in, stream)
}

// A call may have picked an instance in the very moment in which it is removed. gRPC lets such a call wait on the
// connection, which takes no new calls any more, until the connection ends; with an open stream on it that is never.
func TestCallsThatPickedAnInstanceThatIsRemovedDoNotHang(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", echoOrHold), startServer(t, "127.0.0.1:0", echoOrHold)
	r := newRegistry(a.addr, b.addr)
	c := connect(t, r, func(p *client.Policy) { p.Timeout = 2 * time.Second })
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := call(ctx, c, methodPut); err != nil && ctx.Err() == nil {
					t.Errorf("a call failed: %v", err)
					cancel()
				}
			}
		})
	}
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until) && ctx.Err() == nil; {
		eventually(t, "b takes calls", func() bool { return takesCalls(c, b.addr) || ctx.Err() != nil })
		for range 2 { // one of them is on b's connection, and keeps it open
			if _, err := c.NewStream(ctx, chatDesc, methodChat); err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
		}
		r.set(a.addr)
		r.set(a.addr, b.addr)
	}
	if ctx.Err() == nil {
		pause(t, 2100*time.Millisecond) // a call that hangs has run into its timeout by then
	}
	cancel()
	callers.Wait()
}
