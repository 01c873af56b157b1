package stack

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/readiness"
)

const (
	drainMarkTimeout = time.Second     // for telling callers that the instance is about to leave
	withdrawTimeout  = 3 * time.Second // for the removal itself
	joinRetry        = time.Second     // between attempts that a registrar refuses
)

// membership keeps one instance in the registry while it is ready: it registers at the first readiness, leaves when
// readiness has been lost for leaveAfter, and returns with readiness.
type membership struct {
	registrar  discovery.Registrar
	instance   discovery.Instance
	gate       *readiness.Gate
	leaveAfter time.Duration
	log        *zap.Logger
	onUp       func() // called once, when the instance is registered for the first time; then nil

	run    *loop.Loop
	joined chan struct{} // closed at the first registration
	once   sync.Once

	mu        sync.Mutex
	reg       discovery.Registration // nil while not registered
	past      int                    // announcements of registrations before reg
	first     time.Time              // when the first announcement was seen; zero before
	refused   error                  // why the registrar refuses to register; nil while it does not
	refusedAt time.Time              // since when
}

func (m *membership) start() {
	m.joined = make(chan struct{})
	m.run = loop.Start(context.Background(), m.loop)
}

func (m *membership) loop(ctx context.Context) {
	ready := make(chan bool, 1)
	cancel := m.gate.Subscribe(func(r readiness.Report) {
		select { // the newest report replaces an older one that was not looked at
		case <-ready:
		default:
		}
		ready <- r.Ready
	})
	defer cancel()
	var due func(context.Context) // what to do when the timer fires; nil for nothing
	timer := time.NewTimer(0)
	defer timer.Stop()
	var join func(context.Context)
	join = func(ctx context.Context) {
		if !m.join(ctx) {
			timer.Reset(joinRetry)
			due = join
		}
	}
	was := false
	for {
		changed := m.changed()
		select {
		case <-ctx.Done():
			return
		case ok := <-ready:
			if ok == was { // another reason for the same state
				continue
			}
			was, due = ok, nil
			if ok {
				join(ctx)
			} else if m.registration() != nil {
				timer.Reset(m.leaveAfter)
				due = m.leaveUnready
			}
		case <-timer.C:
			if do := due; do != nil {
				due = nil
				do(ctx)
			}
		case <-changed:
			m.noticeUp()
		}
	}
}

// changed is the registration's own signal; nil, which blocks for ever, while there is none.
func (m *membership) changed() <-chan struct{} {
	reg := m.registration()
	if reg == nil || m.onUp == nil {
		return nil
	}
	changed := reg.Changed()
	m.noticeUp() // it may have come up between the last look and this one
	if m.onUp == nil {
		return nil
	}
	return changed
}

func (m *membership) noticeUp() {
	if m.onUp != nil && !m.firstAnnounced().IsZero() {
		up := m.onUp
		m.onUp = nil
		up()
	}
}

func (m *membership) registration() discovery.Registration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reg
}

// join registers, and reports whether the instance is registered now.
func (m *membership) join(ctx context.Context) bool {
	if m.registration() != nil {
		return true
	}
	reg, err := m.registrar.Register(ctx, m.instance)
	m.mu.Lock()
	again := m.refused != nil
	m.refused = err
	switch {
	case err == nil:
		m.reg = reg
	case !again:
		m.refusedAt = time.Now()
	}
	m.mu.Unlock()
	if err != nil {
		if !again {
			m.log.Error("cannot register; it is tried again and again", zap.String("addr", m.instance.Addr), zap.Error(err))
		}
		return false
	}
	m.once.Do(func() { close(m.joined) })
	return true
}

// leaveUnready leaves the registry until readiness returns.
func (m *membership) leaveUnready(ctx context.Context) {
	m.log.Warn("leaving the registry: not ready for too long", zap.Duration("after", m.leaveAfter),
		zap.Strings("reasons", m.gate.Report().Reasons()))
	m.leave(ctx)
}

func (m *membership) leave(ctx context.Context) {
	reg := m.registration()
	if reg == nil {
		return
	}
	if err := remove(context.WithoutCancel(ctx), reg); err != nil {
		m.log.Warn("the registration could not be revoked; it ends with its lease", zap.Error(err))
	}
	m.mu.Lock()
	m.past += reg.Status().Count
	m.reg = nil
	m.mu.Unlock()
}

// announced is how often this instance was announced in all.
func (m *membership) announced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reg == nil {
		return m.past
	}
	return m.past + m.reg.Status().Count
}

// status is where the registration stands; false while there is none.
func (m *membership) status() (discovery.RegistrationStatus, bool) {
	reg := m.registration()
	if reg == nil {
		return discovery.RegistrationStatus{}, false
	}
	return reg.Status(), true
}

// withdraw ends the loop, so that nothing registers any more, marks the instance as draining and removes it. The error
// says that the removal could not be confirmed.
func (m *membership) withdraw(ctx context.Context) error {
	m.run.Stop()
	reg := m.registration()
	if reg == nil {
		return nil
	}
	return remove(ctx, reg)
}

// remove marks the instance as draining and then closes its registration. Without the mark callers would take its leave
// for a loss, and keep it in use for some time.
func remove(ctx context.Context, reg discovery.Registration) error {
	var err error
	if reg.Status().State == discovery.RegistrationUp {
		mark, cancel := context.WithTimeout(ctx, drainMarkTimeout)
		err = reg.Update(mark, func(i *discovery.Instance) { i.State = discovery.StateDraining })
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	if cerr := reg.Close(ctx); cerr != nil {
		return errors.Join(err, cerr)
	}
	return nil // a mark that could not be set does not matter once the instance is gone
}

// WaitRegistered returns when this instance is registered; at once when it does not register. With ctx it returns why
// it is not.
func (s *Stack) WaitRegistered(ctx context.Context) error {
	m := s.membership()
	if m == nil {
		return nil
	}
	select {
	case <-m.joined:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if reg := m.registration(); reg != nil {
		return discovery.WaitUp(ctx, reg)
	}
	return nil
}
