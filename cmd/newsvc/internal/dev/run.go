package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// session is one run of newsvc dev.
type session struct {
	options  *options
	out      *output
	book     *book
	registry *registry
	commands []command
	units    []*unit
	changes  chan struct{}   // the record is to be written anew
	sources  chan struct{}   // other files are to be watched
	force    context.Context // ends when nobody waits any longer
}

// forcedError is the end by a second signal.
type forcedError struct{ signal os.Signal }

// Error is empty: who pressed Ctrl-C twice knows.
func (e *forcedError) Error() string { return "" }

// ExitCode is 128 plus the number of the signal.
func (e *forcedError) ExitCode() int {
	if s, ok := e.signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return problem.Failed
}

// run is the whole life of newsvc dev.
func (o *options) run(ctx context.Context, out *output) (err error) {
	services, err := o.choose()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	unlock, err := o.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	force, release := signals(stop)
	defer release()
	out.gone = stop
	out.width = len("newsvc")
	for _, s := range services {
		out.width = max(out.width, len(s.name)+2)
	}
	s := &session{options: o, out: out, changes: make(chan struct{}, 1), sources: make(chan struct{}, 1), force: force}
	s.book = &book{out: out, record: devrecord.New(o.root)}
	s.registry = &registry{options: o, book: s.book, out: out}
	err = s.live(ctx, services)
	if cause := (*forcedError)(nil); errors.As(context.Cause(force), &cause) {
		return cause
	}
	return err
}

// signals has the first signal stop newsvc dev, as the command's own context does for most of them, and returns a context that
// ends with the second one. A terminal that was closed says so more than once, and that is not to cut anything.
func signals(stop func()) (force context.Context, release func()) {
	force, cancel := context.WithCancelCause(context.Background())
	all := make(chan os.Signal, 2)
	signal.Notify(all, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(all, syscall.SIGHUP)
	}
	// Who pipes the output into a program that Ctrl-C ends, too, is not to lose calls: writing fails then, and does not kill.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	var g sync.WaitGroup
	g.Go(func() {
		for stopping := false; ; stopping = true {
			select {
			case sig := <-all:
				stop()
				if stopping && sig != syscall.SIGHUP {
					cancel(&forcedError{sig})
					return
				}
			case <-force.Done():
				return
			}
		}
	})
	return force, func() {
		signal.Stop(all)
		cancel(nil)
		g.Wait()
		signal.Stop(pipe)
	}
}

// live opens the etcd, runs everything until ctx ends, and closes it.
func (s *session) live(ctx context.Context, services []service) (err error) {
	defer func() { err = errors.Join(err, s.book.remove(), s.registry.close()) }()
	if err := s.registry.open(ctx); err != nil {
		return silenced(ctx, err)
	}
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer s.stopCommands()
	for _, service := range services {
		s.units = append(s.units, s.unit(service))
	}
	for _, u := range s.units {
		s.startCommands(ctx, u)
	}
	w := s.watcher(life)
	if err := s.build(life); err != nil {
		w.close()
		return silenced(ctx, err)
	}
	var followers sync.WaitGroup
	followers.Go(func() { end(s.registry.follow(life)) })
	err = s.keep(life, w)
	end(nil)
	followers.Wait()
	if cause := context.Cause(life); err == nil && ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// silenced is nil for what Ctrl-C has brought about: a wish, and no failure.
func silenced(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // as said
	}
	return err
}

func (s *session) unit(service service) *unit {
	u := newUnit(s.force, service, s.options, s.book.now().Etcd.Endpoints, s.out)
	u.peers = func() []*unit { return s.units }
	u.found = s.found
	return u
}

// command is one that services need.
type command struct {
	unit *unit // that needs it
	slot *slot
	end  context.CancelFunc
	done chan struct{}
}

// startCommands starts what a service needs. They outlive ctx, and end with stopCommands.
func (s *session) startCommands(ctx context.Context, u *unit) {
	for _, line := range u.run {
		label := u.name + "/" + strings.Fields(line)[0]
		s.out.widen(label)
		s.out.say(label, fmt.Sprintf("starting, as dev.run says: %s", line))
		path, args := shell(line)
		mine, end := context.WithCancel(context.WithoutCancel(ctx))
		c := command{
			slot: newSlot(s.force, program{label: label, dir: u.dir, path: path, args: args, env: os.Environ(), group: true}, s.out, s.changed),
			end:  end, done: make(chan struct{}), unit: u,
		}
		c.slot.stopping = func() bool { return ctx.Err() != nil }
		s.commands = append(s.commands, c)
		go func() { defer close(c.done); c.slot.keep(mine) }()
	}
}

// stopCommands stops them, the last one first.
func (s *session) stopCommands() {
	for _, c := range slices.Backward(s.commands) {
		c.end()
		<-c.done
	}
}

// watcher sees what the services are made of before they are built, so that what is saved during the build is noticed.
func (s *session) watcher(ctx context.Context) *watcher {
	var g sync.WaitGroup
	for _, u := range s.units {
		g.Go(func() { u.look(ctx, time.Now()) })
	}
	g.Wait()
	w := newWatcher(s.options.root, s.units, s.out)
	w.sources, w.others = s.sources, s.options.others
	if !s.options.noWatch {
		w.open()
	}
	return w
}

// build compiles every service for the first time.
func (s *session) build(ctx context.Context) error {
	for _, u := range s.units {
		began := time.Now()
		s.out.say(u.name, "building (the first build takes minutes, later ones seconds)")
		binary, err := u.build(ctx)
		if p, ok := errors.AsType[*problem.Error](err); ok && p.Exit == problem.Failed && u.watch {
			u.tell("", err) // a save can mend it
		} else if err != nil {
			return err
		} else {
			s.out.say(u.name, "built in "+short(time.Since(began)))
		}
		u.fill(ctx, binary, s.changed)
		for _, slot := range u.slots {
			s.out.widen(slot.label)
		}
		if u.exclusive {
			s.out.say(u.name, "is stopped before it is started anew, as dev.exclusive says")
		}
	}
	return nil
}

// changed has the record written anew.
func (s *session) changed() { wake(s.changes) }

// found has the watcher see what belongs to the services now.
func (s *session) found() { wake(s.sources) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a look is due already
	}
}

// keep runs everything until ctx ends and the last process is gone.
func (s *session) keep(ctx context.Context, w *watcher) error {
	s.changed() // perhaps there is nothing to wait for
	s.order(ctx)
	life, end := context.WithCancel(ctx)
	defer end()
	var g sync.WaitGroup
	for _, u := range s.units {
		for _, slot := range u.slots {
			g.Go(func() { slot.keep(life) })
		}
		g.Go(func() { u.follow(life) })
		defer u.closeSockets()
	}
	if s.options.noWatch {
		w.close()
	} else {
		g.Go(func() { w.run(life) })
	}
	err := s.follow(ctx)
	err = errors.Join(err, s.book.remove()) // without a record nobody finds them
	if ctx.Err() != nil {
		s.out.say("newsvc", "stopping: calls may finish; Ctrl-C again does not wait")
	}
	end()
	g.Wait()
	return errors.Join(err, s.lost())
}

// follow keeps the record until ctx ends.
func (s *session) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changes:
		}
		news, err := s.book.follow(s.units, s.commands)
		if err != nil {
			return err
		}
		if news != "" {
			announce(s.units, s.out, news)
			s.neverRan()
		}
	}
}

// neverRan tells of commands that can't be started, and what to do.
func (s *session) neverRan() {
	for _, c := range s.commands {
		if c.slot.failing.Load() && !c.slot.ran.Load() {
			s.out.say("newsvc", fmt.Sprintf("  %s ends each time it is started; its lines above may say why", c.slot.label))
			s.out.say("newsvc", fmt.Sprintf("  fix: correct dev.run in %s, then Ctrl-C and newsvc dev", shown(s.options.root, filepath.Join(c.unit.dir, markerFile))))
		}
	}
}

// lost is the error that tells what could not finish.
func (s *session) lost() error {
	var labels []string
	for _, u := range s.units {
		for _, slot := range u.slots {
			if slot.lost.Load() {
				labels = append(labels, slot.label)
			}
		}
	}
	if len(labels) == 0 {
		return nil
	}
	slices.Sort(labels)
	return &problem.Error{What: "not all work could be finished: " + strings.Join(labels, ", "), At: "their last lines say what was cut"}
}
