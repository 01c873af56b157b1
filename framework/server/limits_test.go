package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
)

func limited(t *testing.T, e *echo, change func(*server.Limits)) *server.Server {
	t.Helper()
	p := params()
	change(&p.Config.Limits)
	return start(t, p, e)
}

// wantTooLarge: the text is gRPC's, which sends it itself; our clients add the key, see framework/client.
func wantTooLarge(t *testing.T, what string, err error) {
	t.Helper()
	if text := status.Convert(err).Message(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(text, "larger than max") || !strings.Contains(text, "1000") {
		t.Errorf("%s: %v, want RESOURCE_EXHAUSTED with the limit", what, err)
	}
}

func TestMaxRecvBytes(t *testing.T) {
	t.Parallel()
	s := limited(t, &echo{chat: echoAll}, func(l *server.Limits) { l.MaxRecvBytes = 1000 })
	cc := dial(t, s)
	if _, err := invoke(t, cc, strings.Repeat("x", 900)); err != nil {
		t.Errorf("a message within the limit: %v", err)
	}
	large := strings.Repeat("x", 1001)
	_, err := invoke(t, cc, large)
	wantTooLarge(t, "unary", err)
	err = cc.Invoke(t.Context(), unaryMethod, wrapperspb.String(strings.Repeat("x", 100_000)), new(wrapperspb.StringValue), grpc.UseCompressor(gzip.Name))
	wantTooLarge(t, "unary, packed small", err)
	cs := open(t, cc, bidiMethod)
	if err := cs.SendMsg(wrapperspb.String(large)); err != nil {
		t.Fatal(err)
	}
	wantTooLarge(t, "stream", cs.RecvMsg(new(wrapperspb.StringValue)))
}

func TestMaxHeaderBytes(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]codes.Code{64 << 10: codes.OK, 8 << 10: codes.Internal} {
		s := limited(t, &echo{}, func(l *server.Limits) { l.MaxHeaderBytes = limit })
		cc := dial(t, s)
		if _, err := invoke(t, cc, "x"); err != nil { // the client has heard of the limit now
			t.Fatal(err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-large", strings.Repeat("x", 16<<10))
		err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
		if status.Code(err) != want {
			t.Errorf("16 KiB of headers with a limit of %d: %v, want %v", limit, err, want)
		}
	}
}

func TestMaxStreams(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	s := limited(t, &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		entered <- struct{}{}
		<-leave
		return in, nil
	}}, func(l *server.Limits) { l.MaxStreams = 1 })
	cc := dial(t, s)
	first := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "first"); first <- err }()
	receive(t, "the first call", entered)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("second"), new(wrapperspb.StringValue))
	if status.Code(err) != codes.DeadlineExceeded || len(entered) > 0 {
		t.Errorf("a second call on the connection: %v, and %d handlers were entered; want it to wait at the client", err, len(entered))
	}
	close(leave)
	if err := receive(t, "the first answer", first); err != nil {
		t.Error(err)
	}
	if _, err := invoke(t, cc, "third"); err != nil {
		t.Errorf("after the first call: %v", err)
	}
}

func TestStreamWorkersKeepGoroutines(t *testing.T) {
	t.Parallel()
	goroutines := func(workers int) int {
		ids := map[string]bool{}
		s := limited(t, &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			id, _, _ := bytes.Cut(bytes.TrimPrefix(stackTop(), []byte("goroutine ")), []byte(" "))
			ids[string(id)] = true // calls follow each other
			return in, nil
		}}, func(l *server.Limits) { l.StreamWorkers = workers })
		cc := dial(t, s)
		for range 20 {
			if _, err := invoke(t, cc, "x"); err != nil {
				t.Fatal(err)
			}
		}
		return len(ids)
	}
	if without, with := goroutines(0), goroutines(2); without != 20 || with > 15 {
		t.Errorf("20 calls ran on %d goroutines without workers and on %d with two", without, with)
	}
}

func stackTop() []byte {
	b := make([]byte, 64)
	return b[:runtime.Stack(b, false)]
}

// raw is a connection below gRPC.
func raw(t *testing.T, s *server.Server) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func wantClosed(t *testing.T, what string, err error) {
	t.Helper()
	if timeout, ok := errors.AsType[net.Error](err); err == nil || ok && timeout.Timeout() {
		t.Errorf("%s was not closed by the server: %v", what, err)
	}
}

func TestConnectionTimeoutEndsWhoDoesNotFinishTheHandshake(t *testing.T) {
	t.Parallel()
	s := limited(t, &echo{}, func(l *server.Limits) { l.ConnectionTimeout = 200 * time.Millisecond })
	silent := raw(t, s)
	_, err := io.Copy(io.Discard, silent)
	if err != nil { // EOF is no error of Copy
		wantClosed(t, "a connection that says nothing", err)
	}
	slow := raw(t, s) // slow-loris: never silent for long, never done
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; err == nil && i < len(http2.ClientPreface); i++ {
		_, err = slow.Write([]byte{http2.ClientPreface[i]})
		<-tick.C
	}
	if err == nil {
		_, err = io.Copy(io.Discard, slow)
		if err == nil {
			return
		}
	}
	wantClosed(t, "a connection that says one byte at a time", err)
}

// speak opens a connection of HTTP/2 and returns what writes and reads its frames.
func speak(t *testing.T, s *server.Server) *http2.Framer {
	t.Helper()
	c := raw(t, s)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// goAway reads frames until the server ends the connection, and returns with which words.
func goAway(f *http2.Framer) (http2.ErrCode, string, error) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return 0, "", err
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok {
			return g.ErrCode, string(g.DebugData()), nil
		}
	}
}

func TestKeepaliveEndsConnectionsThatAreDead(t *testing.T) {
	t.Parallel()
	s := limited(t, &echo{}, func(l *server.Limits) { l.KeepaliveTime, l.KeepaliveTimeout = time.Second, time.Second })
	f := speak(t, s)
	pinged := false
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			wantClosed(t, "a connection that does not answer", err)
			break
		}
		if p, ok := frame.(*http2.PingFrame); ok && !p.IsAck() {
			pinged = true // and never answered
		}
	}
	if !pinged {
		t.Error("the server closed the connection without having asked")
	}
}

func TestKeepaliveMinTimeEndsWhoPingsTooOften(t *testing.T) {
	t.Parallel()
	for least, want := range map[time.Duration]http2.ErrCode{time.Hour: http2.ErrCodeEnhanceYourCalm, time.Millisecond: http2.ErrCodeNo} {
		s := limited(t, &echo{}, func(l *server.Limits) { l.KeepaliveMinTime = least })
		f := speak(t, s)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range 6 {
			<-tick.C
			if f.WritePing(false, [8]byte{byte(i)}) != nil {
				break // ended already
			}
		}
		got := http2.ErrCodeNo
		for acks := 0; acks < 6; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("keepalive_min_time %s: %v", least, err)
			}
			if g, ok := frame.(*http2.GoAwayFrame); ok {
				got = g.ErrCode
				break
			}
			if p, ok := frame.(*http2.PingFrame); ok && p.IsAck() {
				acks++
			}
		}
		if got != want {
			t.Errorf("six pings with keepalive_min_time %s are answered with %v, want %v", least, got, want)
		}
	}
}

func TestMaxConnectionAge(t *testing.T) {
	t.Parallel()
	s := limited(t, &echo{}, func(l *server.Limits) { l.MaxConnectionAge = 100 * time.Millisecond })
	if code, text, err := goAway(speak(t, s)); err != nil || code != http2.ErrCodeNo {
		t.Errorf("the connection ended with %v %q, %v; want to be asked to leave", code, text, err)
	}
}

func TestMaxConnectionAgeGrace(t *testing.T) {
	t.Parallel()
	s := limited(t, &echo{chat: echoAll}, func(l *server.Limits) {
		l.MaxConnectionAge, l.MaxConnectionAgeGrace = 100*time.Millisecond, 100*time.Millisecond
	})
	err := open(t, dial(t, s), bidiMethod).RecvMsg(new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a stream beyond its connection's age and grace ended with %v, want UNAVAILABLE", err)
	}
}

func TestCallsWithoutTimeLeftAreNotBegun(t *testing.T) {
	t.Parallel()
	ran := make(chan struct{}, 10)
	s := limited(t, &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		ran <- struct{}{}
		return in, nil
	}}, func(l *server.Limits) { l.MinTimeout = time.Minute })
	cc := dial(t, s)
	_, err := invoke(t, cc, "x") // with 10 s
	if text := status.Convert(err).Message(); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(text, "server.limits.min_timeout is 1m0s") {
		t.Errorf("a call with less than min_timeout: %v", err)
	}
	if len(ran) > 0 {
		t.Error("its handler ran")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil || len(ran) != 1 {
		t.Errorf("a call with more: %v, the handler ran %d times", err, len(ran))
	}
}

func TestAnswerReserveIsTakenFromTheHandlersDeadline(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	s := limited(t, &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return in, nil
	}}, func(l *server.Limits) { l.AnswerReserve = 4 * time.Second })
	cc := dial(t, s)
	for given, most := range map[time.Duration]time.Duration{
		20 * time.Second: 16 * time.Second,
		6 * time.Second:  3 * time.Second, // half is the most that is kept back
		time.Hour:        56 * time.Second,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), given)
		err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if got := <-left; got > most || got < most-2*time.Second {
			t.Errorf("of %s the handler has %s, want %s", given, got, most)
		}
	}
}
