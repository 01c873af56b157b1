package server

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	// abandonAfter is how long a handler has, after the end of its stream's context, to return by itself.
	abandonAfter = 500 * time.Millisecond
	// stillFor is how long nothing moves on a connection of which one may say that its peer takes nothing. Packets that
	// are lost hold a connection up for less.
	stillFor = 2 * time.Second
	// cutWait bounds the wait for handlers after their connections were closed.
	cutWait = time.Second
)

// CutError tells which calls did not end within the budget of [Server.Stop].
type CutError struct {
	// Methods had calls running when their connections were closed.
	Methods []string
	// Stuck are those of them whose handlers still run: they do not look at their contexts.
	Stuck []string
}

func (e *CutError) Error() string {
	text := "stopping the server: calls were cut: " + strings.Join(e.Methods, ", ")
	if len(e.Stuck) > 0 {
		text += "; handlers that ignore their context and still run: " + strings.Join(e.Stuck, ", ")
	}
	return text + "; make them end sooner or give server.drain.hard more time"
}

// BeginDrain closes the channel that [Server.DrainSignal] hands out, so that stream handlers may end in good order.
// Calls are still accepted. It may be called more than once.
func (s *Server) BeginDrain() { s.drainOnce.Do(func() { close(s.drain) }) }

// DrainSignal returns a function for handlers that want to know early that the server is going to stop. Its type is
// of the language only, so that domain code can ask for it without importing this package. The channel is closed by
// [Server.BeginDrain], at the latest when Stop begins; the context is not looked at today.
func (s *Server) DrainSignal() func(context.Context) <-chan struct{} {
	return func(context.Context) <-chan struct{} { return s.drain }
}

// Stop ends the server: health says NOT_SERVING, the listener closes, clients are asked to go elsewhere, and calls in
// flight go on. After soft, the contexts of streams end with [ErrDraining], and streams whose handlers do not return
// soon after are ended with UNAVAILABLE over their heads; clients that read nothing more are then waited for no longer than
// other calls run, and two seconds. When ctx ends, every connection is closed, and Stop waits
// one more second for handlers. It returns a [*CutError] if calls were cut, else nil. Later calls wait for the first
// one, until their ctx ends, and return its result.
func (s *Server) Stop(ctx context.Context, soft time.Duration) error {
	first := false
	s.stopOnce.Do(func() { first = true })
	if !first {
		select {
		case <-s.stopped:
			return s.stopErr
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(s.stopped)
	s.stopErr = s.stop(ctx, soft)
	s.access.flushRefused()
	return s.stopErr
}

func (s *Server) stop(ctx context.Context, soft time.Duration) error {
	s.BeginDrain()
	s.mu.Lock()
	s.stopping = true
	s.healthLocked()
	unfollow, started, l := s.unfollow, s.started, s.listener
	s.mu.Unlock()
	if unfollow != nil {
		unfollow()
	}
	s.health.Shutdown()
	if !started {
		if l != nil {
			_ = l.Close()
		}
		close(s.done)
		return nil
	}
	// Those who watch our health have been told; their streams would keep their connections open.
	s.streams.cancelAll(false)
	l.closeSilent()
	graceful := loop.Start(context.WithoutCancel(ctx), func(context.Context) { s.grpc.GracefulStop() })
	if s.await(ctx, graceful, soft) {
		return nil
	}
	s.streams.cancelAll(true)
	if s.await(ctx, graceful, abandonAfter) {
		return nil
	}
	close(s.streams.abandoned)
	if s.outlast(ctx, graceful) {
		return nil
	}
	return s.cut(ctx)
}

// outlast is await without a limit but ctx, and does not wait for peers that take nothing. gRPC says goodbye to a stream
// behind what was sent before, so for a peer that reads nothing more it waits for ever. Once no call runs, connections
// on which nothing moves are closed. What still moves may be an answer on its way and is left alone.
func (s *Server) outlast(ctx context.Context, graceful *loop.Loop) bool {
	tick := time.NewTicker(stillFor / 10)
	defer tick.Stop()
	seen := map[*conn]stillness{}
	for {
		select {
		case <-graceful.Done():
			return s.await(ctx, graceful, -1)
		case <-ctx.Done():
			return false
		case now := <-tick.C:
			if len(s.calls.running()) == 0 {
				s.listener.closeStill(seen, now)
			}
		}
	}
}

// await reports whether the graceful stop has ended and no handler runs any more, before d has passed (negative: no
// limit) and before ctx ends.
func (s *Server) await(ctx context.Context, graceful *loop.Loop, d time.Duration) bool {
	if d >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	return graceful.Join(ctx) == nil && s.serve.Join(ctx) == nil && s.idle(ctx)
}

// idle waits until no call is running. gRPC does not wait for the handlers that run beside it (see [streams.serve]).
func (s *Server) idle(ctx context.Context) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(s.calls.running()) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// cut closes every connection. gRPC's Stop may wait for handshakes and handlers, so it is not waited for beyond
// cutWait.
func (s *Server) cut(ctx context.Context) error {
	methods := s.calls.running()
	s.listener.closeAll()
	hard := loop.Start(context.WithoutCancel(ctx), func(context.Context) { s.grpc.Stop() })
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutWait)
	defer cancel()
	_ = s.await(wait, hard, -1)
	if len(methods) == 0 {
		return nil // only connections were left, nobody lost a call
	}
	err := &CutError{Methods: methods, Stuck: s.calls.running()}
	s.log.Debug("calls were cut", zap.Strings("methods", err.Methods), zap.Strings("stuck", err.Stuck))
	return err
}
