package stack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/closers"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	// withdrawPatience is how long the propagation window waits for the registry before it stops caring: whoever
	// can't hear of the leave from etcd hears of it from GOAWAY.
	withdrawPatience = 1500 * time.Millisecond
	// quiet is how long no new call must have arrived for the window to close early.
	quiet = 300 * time.Millisecond
	// look is how often the window looks.
	look = 25 * time.Millisecond
)

// Drain takes the instance out of service so that no call fails: readiness ends, health says NOT_SERVING and the
// registration is withdrawn, all at once; the server goes on serving until callers have heard of it; then it stops
// taking calls, lets the running ones finish, tells stream handlers after the soft budget, and cuts what is left when
// ctx or app.stop_timeout ends. The tasks stop last. The error says what was cut. Later calls return the first one's
// result.
func (s *Stack) Drain(ctx context.Context) error {
	_ = s.drainFirst(ctx)
	return s.drainErr
}

// drainFirst drains and returns the error, unless that was done before.
func (s *Stack) drainFirst(ctx context.Context) (err error) {
	s.drainOnce.Do(func() {
		s.endLife()
		s.readiness.Drain()
		if s.server != nil {
			s.server.SetServing(false) // the readiness gate tells it too, but from a goroutine of its own
		}
		s.steps.Lock() // waits for a start that is under way; it has just been told to end
		defer s.steps.Unlock()
		s.drainErr = s.drain(ctx)
		err = s.drainErr
	})
	return err
}

func (s *Stack) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.p.Config.App.StopTimeout)
	defer cancel()
	began := time.Now()
	s.watch.Stop()
	withdrawn := loop.Start(ctx, s.withdraw)
	defer withdrawn.Stop()
	if s.serves && (s.server != nil || s.http != nil) {
		s.window(ctx, withdrawn, began)
	}
	var httpErr, serverErr error
	stopHTTP := loop.Start(ctx, func(ctx context.Context) {
		if s.http == nil {
			return
		}
		if err := s.http.Close(ctx); err != nil {
			httpErr = fmt.Errorf("http: %w", err)
		}
	})
	if s.server != nil {
		d := s.p.Config.Server.Drain
		hard, cancel := context.WithDeadline(ctx, began.Add(d.Hard))
		serverErr = s.server.Stop(hard, max(0, d.Soft-time.Since(began)))
		cancel()
	}
	<-stopHTTP.Done()
	<-withdrawn.Done()
	workErr := s.stopWork(ctx)
	var fileErr error
	if s.p.Process.ReadyFile != "" {
		fileErr = removeReady(s.p.Process.ReadyFile)
	}
	return errors.Join(httpErr, serverErr, workErr, fileErr)
}

// withdraw removes the registration. That etcd is away is no reason to cut anything: the lease ends the announcement.
func (s *Stack) withdraw(ctx context.Context) {
	m := s.membership()
	if m == nil {
		return
	}
	if err := m.withdraw(ctx); err != nil {
		s.log.Warn("the registration could not be revoked; it ends with its lease",
			zap.Duration("ttl", s.p.Config.Registration.TTL), zap.Error(err))
	}
}

// window goes on serving while callers learn that this instance leaves: at least MinWindow, at most MaxWindow, and no
// longer than until the registry has confirmed and no new call has come for a while.
func (s *Stack) window(ctx context.Context, withdrawn *loop.Loop, began time.Time) {
	d := s.p.Config.Server.Drain
	if s.http != nil {
		s.http.Yield() // what can go elsewhere, goes there
	}
	for {
		age := time.Since(began)
		told := age >= withdrawPatience
		select {
		case <-withdrawn.Done():
			told = true
		default:
		}
		if age >= d.MaxWindow || age >= d.MinWindow && told && time.Since(s.lastCall()) >= quiet {
			return
		}
		if backoff.Sleep(ctx, look) != nil {
			return
		}
	}
}

// lastCall is when the last call or request came.
func (s *Stack) lastCall() time.Time {
	last := time.Unix(0, s.lastHTTP.Load())
	if s.server != nil && s.server.LastCall().After(last) {
		return s.server.LastCall()
	}
	return last
}

// Close drains, if that was not done, and ends what is left: what CloseLater was told, in at most half of the time that
// ctx has, then connections to callees, discovery, etcd, the admin server and telemetry. No step can use up the time
// of the others. It is safe in any state; later calls return the first one's result.
func (s *Stack) Close(ctx context.Context) error {
	s.closeOnce.Do(func() {
		s.closeErr = errors.Join(s.drainFirst(ctx), s.close(ctx))
	})
	return s.closeErr
}

func (s *Stack) close(ctx context.Context) error {
	provided, cancel := half(ctx)
	err := s.closers.Close(provided)
	cancel()
	var parts closers.Set // the last one is closed first
	if s.telemetry != nil {
		parts.Do("telemetry", s.telemetry.Close)
	}
	if s.admin != nil {
		parts.Do("admin", func(ctx context.Context) error { s.levels.Close(); return s.admin.Close(ctx) })
	}
	if s.auth != nil {
		parts.Do("auth", func(context.Context) error { s.auth.Close(); return nil })
	}
	parts.Do("readiness", func(context.Context) error { s.readiness.Close(); return nil })
	if s.etcd != nil {
		parts.Do("etcd", func(context.Context) error { return s.etcd.Close() })
	}
	if s.closeReg != nil {
		parts.Do("registration", s.closeRegistrar)
	}
	if s.cache != nil {
		parts.Do("discovery", func(context.Context) error { s.cache.Close(); return nil })
	}
	if s.clients != nil {
		parts.Do("clients", s.clients.Close)
	}
	return errors.Join(err, parts.Close(ctx))
}

// closeRegistrar closes registrations that nobody withdrew; as in withdraw, that is no failure.
func (s *Stack) closeRegistrar(ctx context.Context) error {
	if err := s.closeReg(ctx); err != nil {
		s.log.Warn("a registration could not be revoked; it ends with its lease", zap.Error(err))
	}
	return nil
}

func half(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithTimeout(ctx, time.Until(deadline)/2)
	}
	return context.WithCancel(ctx)
}
