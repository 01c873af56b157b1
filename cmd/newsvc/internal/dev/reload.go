package dev

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// slowBuild is the time after which it is told that a build is at work.
const slowBuild = 2 * time.Second

// follow reloads the service whenever that is due, until ctx ends. A reload that is under way is given up for a newer one.
func (u *unit) follow(ctx context.Context) {
	defer u.tails.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.dirty:
		}
		for u.reloadOnce(ctx) {
		}
	}
}

// reloadOnce reloads and reports whether something newer has come meanwhile.
func (u *unit) reloadOnce(ctx context.Context) (again bool) {
	round, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); u.reload(round) }()
	select {
	case <-done:
		return false
	case <-u.dirty:
		again = true
	case <-ctx.Done():
	}
	cancel()
	<-done
	return again
}

// reload builds the service anew and replaces its processes one by one. Whatever goes wrong leaves those that serve.
func (u *unit) reload(ctx context.Context) {
	began := time.Now()
	why := u.take()
	if len(why.reasons) == 0 {
		return // what has come meanwhile was taken along
	}
	binary, err := u.current, error(nil)
	if u.current == "" || why.changed || !why.restart {
		binary, err = u.rebuild(ctx, why)
	}
	if ctx.Err() != nil {
		u.giveBack(why)
		return
	}
	if err != nil {
		u.broken(why, err)
		return
	}
	done := fmt.Sprintf("reload: %v: ", why)
	if binary != u.current {
		done += "built in " + short(time.Since(began)) + ", "
		if now, err := sum(binary); err == nil && now == u.currentSum && !why.restart && u.well() {
			_ = os.Remove(binary)
			u.out.say(u.name, done+"the program is the same as before")
			return
		}
	}
	if u.exclusive {
		u.out.say(u.name, done+"stopping the old one first, as dev.exclusive says")
	}
	err = u.roll(ctx, binary, func() { u.reloaded(done, began) })
	switch {
	case errors.Is(err, errWaits):
		u.out.say(u.name, done+"started as soon as those that it calls serve")
	case errors.Is(err, errGivenUp):
		u.giveBack(why)
	case err != nil:
		u.failed(why, err)
	}
}

// rebuild compiles the service, and looks up what it is made of now.
func (u *unit) rebuild(ctx context.Context, why due) (binary string, err error) {
	if _, err := os.Stat(filepath.Join(u.dir, markerFile)); errors.Is(err, fs.ErrNotExist) {
		return "", &problem.Error{What: shown(u.root, u.dir) + " is no service any more", At: "it has no " + markerFile + "; newsvc dev runs what it finds at its start"}
	}
	patience := time.AfterFunc(slowBuild, func() { u.out.say(u.name, fmt.Sprintf("building, because of %v", why)) })
	defer patience.Stop()
	var listed sync.WaitGroup
	since := time.Now()
	listed.Go(func() { u.look(ctx, since) })
	defer listed.Wait()
	return u.build(ctx)
}

// reloaded tells of a reload that came to a good end.
func (u *unit) reloaded(done string, began time.Time) {
	done += "reloaded in " + short(time.Since(began))
	if where := u.where(); where != "" {
		done += "; serving at " + where
	}
	u.out.say(u.name, done)
	if line := u.grpcurl(); line != "" {
		u.out.say(u.name, "  "+line)
	}
}

// roll replaces what runs in each slot, one after the other, and tells of it. When one fails and others serve, the rest is left
// as it is.
func (u *unit) roll(ctx context.Context, binary string, reloaded func()) error {
	before, previous, previousSum := u.settings(), u.current, u.currentSum
	u.adopt(ctx, binary)
	t := newTally(ctx, u)
	defer t.finish()
	var failure, waits error
	for i, s := range u.slots {
		socket := u.sockets[i]
		err := u.replace(ctx, s, replacement{ctx: ctx, program: u.program(ctx, i, binary), retire: t.retire, result: make(chan error, 1)})
		if errors.Is(err, errWaits) {
			waits, err = err, nil
		}
		if err != nil && (errors.Is(err, errGivenUp) || u.serves()) {
			u.keepSocket(i, socket)
			u.current, u.currentSum = previous, previousSum
			if i > 0 { // not all slots run the same now, so whatever comes is new to one of them
				u.currentSum = [sha256.Size]byte{}
			}
			u.mu.Lock()
			u.set = before
			u.mu.Unlock()
			return err
		}
		if socket != u.sockets[i] {
			socket.close()
		}
		failure = cmp.Or(failure, err)
	}
	if failure != nil {
		return failure
	}
	if waits == nil {
		reloaded()
	}
	u.clean()
	return waits
}

// replace has a slot carry out a replacement.
func (u *unit) replace(ctx context.Context, s *slot, r replacement) error {
	select {
	case s.replacements <- r:
		return <-r.result
	case <-ctx.Done():
		return errGivenUp
	}
}

// broken tells of a build that failed.
func (u *unit) broken(why due, err error) {
	u.tell(fmt.Sprintf("reload: %v: ", why), err)
}

// tell says what is wrong with the source, and what becomes of the service.
func (u *unit) tell(begin string, err error) {
	what, at := err.Error(), ""
	if p := (*problem.Error)(nil); errors.As(err, &p) {
		what, at = p.What, p.At
	}
	u.out.say(u.name, begin+what+"; "+u.meanwhile())
	for line := range strings.SplitSeq(at, "\n") {
		u.out.say(u.name, "  "+strings.TrimSpace(line))
	}
}

// failed tells of a new process that did not get to serve.
func (u *unit) failed(why due, err error) {
	u.out.say(u.name, fmt.Sprintf("reload: %v: the new process %v; %s", why, err, u.meanwhile()))
	f := (*startError)(nil)
	switch {
	case !errors.As(err, &f):
	case f.panic:
		u.out.say(u.name, "  "+f.last)
	default:
		u.out.say(u.name, "  last line: "+f.last)
	}
}

// clean removes the binaries that no slot runs any more.
func (u *unit) clean() {
	names, _ := filepath.Glob(filepath.Join(u.root, stateDir, "bin", u.name+"-[0-9]*"))
	for _, name := range names {
		if name != u.current && u.numbered(name) {
			_ = os.Remove(name) // a system that does not remove what runs keeps it until the next start
		}
	}
}

// numbered reports whether a binary is this service's: that of user-2 is none of user.
func (u *unit) numbered(name string) bool {
	n := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), u.name+"-"), exe)
	return n != "" && strings.Trim(n, "0123456789") == ""
}

// short is a duration as people want to read it.
func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
