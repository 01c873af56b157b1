package dev

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// replacement asks for a process of another program in the place of the one that runs.
type replacement struct {
	ctx     context.Context // gives the new one up
	program program
	retire  func(*process) (watch func()) // told of the old one; watch returns when it has ended
	result  chan error
}

var (
	// errGivenUp says that a replacement is no longer wanted.
	errGivenUp = errors.New("given up")
	// errWaits says that the new program is started when the first start is due.
	errWaits = errors.New("something else is to serve first")
)

// startError says that a new process ended before it was ready.
type startError struct {
	lived time.Duration
	how   string
	last  string
	clean bool // with exit status 0
	panic bool // last is what a panic says
}

// Error says so.
func (e *startError) Error() string {
	return fmt.Sprintf("stopped %s after its start (%s)", e.lived.Round(10*time.Millisecond), e.how)
}

// replace starts the new process beside the old one, waits until it is ready, and lets the old one finish. When the new
// one does not get there, the old one stays as it is. If there is none that serves, the new program is the one to start
// again: the older one has failed, too.
func (s *slot) replace(ctx context.Context, r replacement) error {
	old := s.process()
	served := old != nil && old.isUp()
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
		return s.unplaced(r.program, served, err)
	}
	s.adopt(r.program)
	s.finished.Store(false)
	s.set(next)
	if old != nil && !s.exclusive {
		watch := r.retire(old)
		s.retired.Go(func() { old.stop(); watch() })
	}
	return nil
}

// unplaced is the end of a replacement that came to nothing; it returns what is to be told of that.
func (s *slot) unplaced(p program, served bool, err error) error {
	var early *startError
	switch {
	case errors.Is(err, errGivenUp) && (!s.exclusive || s.idle()):
		return err
	case served || errors.Is(err, errGivenUp):
		if s.exclusive {
			err = errors.Join(err, s.launch(s.program)) // the one that worked
		}
		return err
	case errors.As(err, &early) && early.clean:
		s.adopt(p)
		s.letGo()
		s.finished.Store(true)
		s.changed()
		return nil
	}
	s.adopt(p)
	s.fails()
	return err
}

// awaitUp waits until a new process is ready; one that is not wanted any more is stopped.
func (s *slot) awaitUp(ctx, wanted context.Context, next *process) error {
	select {
	case <-next.up:
		return nil
	case <-next.done:
		return next.startError()
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
