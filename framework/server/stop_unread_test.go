package server_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sendsForEver is a handler that sends to whoever does not read, until it is told that it can't.
func sendsForEver(sent chan<- struct{}) func(grpc.ServerStream) error {
	return func(ss grpc.ServerStream) error {
		m := wrapperspb.String(strings.Repeat("x", 60_000))
		for {
			select {
			case sent <- struct{}{}:
			default:
			}
			if err := ss.SendMsg(m); err != nil {
				return err
			}
		}
	}
}

// A client that reads nothing more, and a handler that sends, so that it does not see the end of its context.
func TestASenderThatNobodyReadsDoesNotHoldTheStop(t *testing.T) {
	t.Parallel()
	sent := make(chan struct{}, 2)
	s := start(t, params(), &echo{watch: sendsForEver(sent)})
	open(t, dial(t, s), watchMethod)
	receive(t, "the first message", sent)
	receive(t, "the second message", sent)
	begin := time.Now()
	if err := stop(t, s, 50*time.Millisecond, 8*time.Second); err != nil {
		t.Errorf("Stop = %v, want streams ended over the heads of their handlers after soft", err)
	}
	if took := time.Since(begin); took > 6*time.Second {
		t.Errorf("Stop took %s of a budget of 8s", took)
	}
	if n := s.ActiveCalls(); n != 0 {
		t.Errorf("ActiveCalls = %d, want the handler gone", n)
	}
}

// The same client has a call that works for longer than unread streams are waited for.
func TestCallsBesideAnUnreadStreamFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	sent := make(chan struct{}, 2)
	s := start(t, params(), &echo{
		watch: sendsForEver(sent),
		call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			close(entered)
			<-release
			return in, nil
		},
	})
	cc := dial(t, s)
	open(t, cc, watchMethod)
	receive(t, "the second message", sent)
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the call", entered)
	working := time.AfterFunc(4*time.Second, func() { close(release) })
	defer working.Stop()
	if err := stop(t, s, 50*time.Millisecond, 15*time.Second); err != nil {
		t.Errorf("Stop = %v, want nil: the call had time", err)
	}
	if err := receive(t, "the answer", answered); err != nil {
		t.Errorf("the call failed: %v", err)
	}
}

// slowConn is a connection over which 12 KiB come in 50 ms.
type slowConn struct {
	net.Conn
	pace *time.Ticker
	ends <-chan struct{}
}

func (c *slowConn) Read(b []byte) (int, error) {
	select {
	case <-c.pace.C:
	case <-c.ends:
	}
	return c.Conn.Read(b[:min(len(b), 12<<10)])
}

// An answer is under way when its handler has returned. A slow client gets it all the same.
func TestAnAnswerToASlowClientIsNotCut(t *testing.T) {
	t.Parallel()
	returned := make(chan struct{})
	s := start(t, params(), &echo{call: func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		close(returned)
		return wrapperspb.String(strings.Repeat("x", 1<<20)), nil
	}})
	pace := time.NewTicker(50 * time.Millisecond)
	t.Cleanup(pace.Stop)
	cc := dial(t, s, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			return &slowConn{Conn: c, pace: pace, ends: t.Context().Done()}, err
		}))
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the answer of the handler", returned)
	begin := time.Now()
	if err := stop(t, s, 50*time.Millisecond, 15*time.Second); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	if took := time.Since(begin); took < 3500*time.Millisecond {
		t.Errorf("the client read its answer within %s; this test wants a slower one", took)
	}
	if err := receive(t, "the answer", answered); err != nil {
		t.Errorf("the call failed: %v", err)
	}
}
