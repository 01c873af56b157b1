package dev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

const (
	restartFirst = 500 * time.Millisecond // the wait before a process that died is started again, doubled each time
	restartMost  = 10 * time.Second
	steady       = 30 * time.Second // one that lived so long starts over with the shortest wait
)

// slot is one instance of a service, or one command that a service needs: it is filled by one process after the other.
// Everything in it belongs to the goroutine of keep, except what the mutex guards.
type slot struct {
	label     string
	exclusive bool // the old process has to be gone before a new one starts
	out       *output
	force     context.Context // ends when nobody waits any longer
	changed   func()          // called when the instance became ready or went away

	replacements chan replacement
	finished     atomic.Bool // the process exited with 0 by itself and is not started again
	retired      sync.WaitGroup
	lost         atomic.Bool // at the end of it all something was cut

	mu      sync.Mutex
	program program
	current *process
}

// replacement asks for a process of another program in the place of the one that runs.
type replacement struct {
	ctx     context.Context // gives the new one up
	program program
	retire  func(*process) (watch func()) // told of the old one; watch returns when it has ended
	result  chan error
}

func newSlot(force context.Context, p program, out *output, changed func()) *slot {
	return &slot{label: p.label, program: p, out: out, force: force, changed: changed, replacements: make(chan replacement)}
}

// keep runs the program until ctx ends, and again whenever it dies; one that exits with 0 has finished. It returns when no
// process is left.
func (s *slot) keep(ctx context.Context) {
	defer s.retired.Wait()
	wait := restartFirst
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		var ended <-chan struct{}
		if p := s.process(); p != nil {
			ended = p.done
		}
		select {
		case <-ctx.Done():
			s.end()
			return
		case <-again.C:
			if err := s.launch(s.program); err != nil {
				s.out.say(s.label, fmt.Sprintf("does not start (%v); trying again in %s", err, wait))
				again.Reset(wait)
				wait = min(2*wait, restartMost)
			}
		case <-ended:
			if ctx.Err() != nil {
				s.end()
				return
			}
			if wait = s.died(wait); wait > 0 {
				again.Reset(wait)
				wait = min(2*wait, restartMost)
			} else {
				wait = restartFirst
			}
		case r := <-s.replacements:
			again.Stop()
			r.result <- s.replace(ctx, r)
			if s.process() == nil && !s.finished.Load() {
				again.Reset(wait)
			}
		}
	}
}

// died looks at a process that ended by itself and returns the wait until it is started again, 0 for never.
func (s *slot) died(wait time.Duration) time.Duration {
	p := s.process()
	s.set(nil)
	lived := time.Since(p.began)
	if p.err == nil {
		s.finished.Store(true)
		s.changed()
		s.out.say(s.label, "finished (exit status 0); it is not started again")
		return 0
	}
	if lived >= steady {
		wait = restartFirst
	}
	s.out.say(s.label, fmt.Sprintf("died after %s (%v); starting again in %s", lived.Round(100*time.Millisecond), p.err, wait))
	return wait
}

// launch starts a process and makes it the current one.
func (s *slot) launch(p program) error {
	next, err := start(s.force, p, s.out)
	if err != nil {
		return err
	}
	s.finished.Store(false)
	s.set(next)
	return nil
}

// set makes p the current process, and has it looked at when it is ready.
func (s *slot) set(p *process) {
	s.mu.Lock()
	s.current = p
	s.mu.Unlock()
	s.changed()
	if p != nil && !p.isUp() {
		s.retired.Go(func() {
			select {
			case <-p.up:
				s.changed()
			case <-p.done:
			}
		})
	}
}

func (s *slot) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// end stops the current process and waits for it.
func (s *slot) end() {
	p := s.process()
	if p == nil {
		return
	}
	p.stop()
	<-p.done
	if p.cut() {
		s.lost.Store(true)
		s.out.say(s.label, fmt.Sprintf("did not finish its work (%s); its lines above say what was cut", p.how()))
	}
	s.set(nil)
}

// errGivenUp says that a replacement is no longer wanted.
var errGivenUp = errors.New("given up")

// startError says that a new process ended before it was ready.
type startError struct {
	lived time.Duration
	how   string
	last  string
}

// Error says so.
func (e *startError) Error() string {
	return fmt.Sprintf("stopped %s after its start (%s)", e.lived.Round(10*time.Millisecond), e.how)
}

// replace starts the new process beside the old one, waits until it is ready, and lets the old one finish. When the new
// one does not get there, the old one stays as it is.
func (s *slot) replace(ctx context.Context, r replacement) error {
	old := s.process()
	if s.exclusive && old != nil {
		watch := r.retire(old)
		old.stop()
		watch()
		s.set(nil)
	}
	next, err := start(s.force, r.program, s.out)
	if err == nil {
		err = s.awaitUp(ctx, r.ctx, next)
	}
	if err != nil {
		if s.exclusive {
			err = errors.Join(err, s.launch(s.program)) // the one that worked
		}
		return err
	}
	s.mu.Lock()
	s.program = r.program
	s.mu.Unlock()
	s.finished.Store(false)
	s.set(next)
	if old != nil && !s.exclusive {
		watch := r.retire(old)
		s.retired.Go(func() { old.stop(); watch() })
	}
	return nil
}

// awaitUp waits until a new process is ready; one that is not wanted any more is stopped.
func (s *slot) awaitUp(ctx, wanted context.Context, next *process) error {
	select {
	case <-next.up:
		return nil
	case <-next.done:
		return &startError{time.Since(next.began), next.how(), next.lastLine()}
	case <-wanted.Done():
	case <-ctx.Done():
	}
	next.stop()
	if s.exclusive {
		<-next.done
	} else {
		s.retired.Go(func() { <-next.done })
	}
	return errGivenUp
}

// instance is what the record says of the slot; false while it does not serve.
func (s *slot) instance() (devrecord.Instance, bool) {
	p := s.process()
	if p == nil || !p.isUp() || p.isDone() {
		return devrecord.Instance{}, false
	}
	return devrecord.Instance{PID: p.pid, GRPC: p.info.GRPC, Admin: p.info.Admin, HTTP: p.info.HTTP}, true
}
