package stack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/backoff"
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
// ctx or app.stop_timeout ends. The error says what was cut. Later calls return the first one's result.
func (s *Stack) Drain(ctx context.Context) error {
	s.drainOnce.Do(func() { s.drainErr = s.drain(ctx) })
	return s.drainErr
}

func (s *Stack) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.p.Config.App.StopTimeout)
	defer cancel()
	began := time.Now()
	s.readiness.Drain()
	s.watch.Stop()
	withdrawn := loop.Start(ctx, s.withdraw)
	defer withdrawn.Stop()
	if s.server != nil {
		s.window(ctx, withdrawn, began)
	}
	var errs []error
	stopHTTP := loop.Start(ctx, func(ctx context.Context) {
		if s.http != nil {
			if err := s.http.Close(ctx); err != nil {
				errs = append(errs, fmt.Errorf("http: %w", err))
			}
		}
	})
	var serverErr error
	if s.server != nil {
		d := s.p.Config.Server.Drain
		hard, cancel := context.WithDeadline(ctx, began.Add(d.Hard))
		serverErr = s.server.Stop(hard, max(0, d.Soft-time.Since(began)))
		cancel()
	}
	<-stopHTTP.Done()
	<-withdrawn.Done()
	if s.p.Process.ReadyFile != "" {
		errs = append(errs, removeReady(s.p.Process.ReadyFile))
	}
	return errors.Join(append(errs, serverErr)...)
}

// withdraw removes the registration. That etcd is away is no reason to cut anything: the lease ends the announcement.
func (s *Stack) withdraw(ctx context.Context) {
	if s.member == nil {
		return
	}
	if err := s.member.withdraw(ctx); err != nil {
		s.log.Warn("the registration could not be revoked; it ends with its lease",
			zap.Duration("ttl", s.p.Config.Registration.TTL), zap.Error(err))
	}
}

// window goes on serving while callers learn that this instance leaves: at least MinWindow, at most MaxWindow, and no
// longer than until the registry has confirmed and no new call has come for a while.
func (s *Stack) window(ctx context.Context, withdrawn *loop.Loop, began time.Time) {
	d := s.p.Config.Server.Drain
	for {
		age := time.Since(began)
		told := age >= withdrawPatience
		select {
		case <-withdrawn.Done():
			told = true
		default:
		}
		if age >= d.MaxWindow || age >= d.MinWindow && told && time.Since(s.server.LastCall()) >= min(quiet, d.MaxWindow) {
			return
		}
		if backoff.Sleep(ctx, look) != nil {
			return
		}
	}
}

// Close ends what Drain left: connections to callees, discovery, etcd, the admin server and telemetry, each with what
// is left of ctx. It is safe in any state and more than once.
func (s *Stack) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { s.closeErr = s.close(ctx) })
	return s.closeErr
}

func (s *Stack) close(ctx context.Context) error {
	s.watch.Stop()
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if s.clients != nil {
		step("clients", s.clients.Close(ctx))
	}
	if s.cache != nil {
		s.cache.Close()
	}
	if s.closeReg != nil {
		step("registration", s.closeReg(ctx))
	}
	if s.etcd != nil {
		step("etcd", s.etcd.Close())
	}
	s.readiness.Close()
	if s.admin != nil {
		step("admin", s.admin.Close(ctx))
		s.levels.Close()
	}
	if s.telemetry != nil {
		step("telemetry", s.telemetry.Close(ctx))
	}
	return errors.Join(errs...)
}
