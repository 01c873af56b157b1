package dev

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

const (
	restartFirst = 500 * time.Millisecond // the wait before a process that died is started again, doubled each time
	restartMost  = 10 * time.Second
	steady       = 30 * time.Second // one that lived so long starts over with the shortest wait
	commandRuns  = 2 * time.Second  // a command that lived so long runs
)

// slot is one instance of a service, or one command that a service needs: it is filled by one process after the other.
// Everything in it belongs to the goroutine of keep, except what the mutex guards.
type slot struct {
	label     string
	exclusive bool // the old process has to be gone before a new one starts
	watched   bool // a save replaces what fails
	out       *output
	force     context.Context // ends when nobody waits any longer
	stopping  func() bool     // of a command: nothing is started again; nil: that is what the context of keep says
	changed   func()          // called when the instance became ready or went away
	waits     func() bool     // before the first start: something else is to serve first; nil: nothing is

	replacements chan replacement
	finished     atomic.Bool // the process exited with 0 by itself and is not started again
	failing      atomic.Bool // the last process ended before it was ready, and none has been since
	retired      sync.WaitGroup
	lost         atomic.Bool // at the end of it all something was cut
	ran          atomic.Bool // a command has done so for a while

	mu      sync.Mutex
	program program
	current *process
	gone    []devrecord.Gone // the last ones that served and died
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
			if s.idle() || s.stops() {
				continue // until there is a program
			}
			if s.waits != nil && s.waits() {
				again.Reset(readyPoll)
				continue
			}
			s.waits = nil
			if err := s.launch(s.program); err != nil {
				s.fails()
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
			if s.waits != nil && s.waits() { // its turn to start has not come, whatever program it is
				s.adopt(r.program)
				again.Reset(readyPoll)
				r.result <- errWaits
				continue
			}
			again.Stop()
			s.waits = nil
			wait = restartFirst
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
	s.mourn(p)
	s.set(nil)
	lived := time.Since(p.began)
	if p.err == nil {
		s.letGo()
		s.failing.Store(false)
		s.finished.Store(true)
		s.changed()
		s.out.say(s.label, "finished (exit status 0); it is not started again")
		return 0
	}
	if s.force.Err() != nil {
		return 0 // killed by us
	}
	if s.stops() {
		s.out.say(s.label, fmt.Sprintf("ended (%v)", p.err))
		return 0
	}
	if lived >= steady {
		wait = restartFirst
	}
	if p.ready == "" { // it was never more than started
		s.fails()
	}
	if !p.isUp() {
		s.fails()
		early := p.startError()
		s.out.say(s.label, fmt.Sprintf("%v: %s; starting again in %s%s", early, early.last, wait, s.orSave()))
		return wait
	}
	s.out.say(s.label, fmt.Sprintf("died after %s (%v); starting again in %s", lived.Round(100*time.Millisecond), p.err, wait))
	return wait
}

// mostGone is how many of its dead a slot remembers: so many may die while the lease of the first one lasts.
const mostGone = 8

// mourn remembers a process that served and died, since its key outlives it.
func (s *slot) mourn(p *process) {
	if p.err == nil || !p.isUp() || p.info.GRPC == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = append(s.gone, devrecord.Gone{Instance: devrecord.Instance{PID: p.pid, GRPC: p.info.GRPC, Admin: p.info.Admin, HTTP: p.info.HTTP}, How: p.err.Error()})
	s.gone = s.gone[max(0, len(s.gone)-mostGone):]
}

// dead are those that it remembers.
func (s *slot) dead() []devrecord.Gone {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

func (s *slot) stops() bool { return s.stopping != nil && s.stopping() }

// fails notes that what is to run here does not get to serve.
func (s *slot) fails() {
	s.failing.Store(true)
	s.changed()
}

// orSave tells what else starts the process.
func (s *slot) orSave() string {
	if s.watched {
		return ", or with a save"
	}
	return ""
}

// idle reports whether there is no program to run, since none could be built yet.
func (s *slot) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.program.path == ""
}

// adopt makes p the program that is started from now on.
func (s *slot) adopt(p program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.program = p
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
	switch {
	case p == nil:
	case p.ready == "":
		s.retired.Go(func() { s.settle(p) })
	case p.isUp():
		s.failing.Store(false)
	default:
		s.retired.Go(func() {
			select {
			case <-p.up:
				s.failing.Store(false)
				s.changed()
			case <-p.done:
			}
		})
	}
	s.changed()
}

// settle takes a command for one that runs when it has done so for a while.
func (s *slot) settle(p *process) {
	t := time.NewTimer(commandRuns)
	defer t.Stop()
	select {
	case <-t.C:
		s.ran.Store(true)
		s.failing.Store(false)
		s.changed()
	case <-p.done:
	case <-p.stopping:
	}
}

func (s *slot) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// letGo closes the public socket: no process will inherit it any more, and who connects is to be refused as soon as those that
// have it do not accept, instead of waiting for one that never comes.
func (s *slot) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.program.socket.close()
}

// end stops the current process and waits for it.
func (s *slot) end() {
	s.letGo()
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

// instance is what the record says of the slot; false while it does not serve.
func (s *slot) instance() (devrecord.Instance, bool) {
	p := s.process()
	if p == nil || !p.isUp() || p.isDone() {
		return devrecord.Instance{}, false
	}
	return devrecord.Instance{PID: p.pid, GRPC: p.info.GRPC, Admin: p.info.Admin, HTTP: p.info.HTTP}, true
}
