package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

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
	reason, restart := u.reason()
	var listed sync.WaitGroup
	listed.Go(func() { u.look(ctx) })
	binary, err := u.build(ctx)
	listed.Wait()
	if ctx.Err() != nil {
		return
	}
	u.settled()
	if err != nil {
		u.broken(reason, err)
		return
	}
	built := time.Since(began)
	if now, err := sum(binary); err == nil && now == u.currentSum && !restart {
		_ = os.Remove(binary)
		u.out.say(u.name, fmt.Sprintf("reload: %s: built in %s, the program is the same as the one that serves", reason, short(built)))
		return
	}
	if u.exclusive {
		u.out.say(u.name, fmt.Sprintf("reload: %s: built in %s; stopping the old one first, as dev.exclusive says", reason, short(built)))
	}
	err = u.roll(ctx, binary, func() {
		u.out.say(u.name, fmt.Sprintf("reload: %s: built in %s, reloaded in %s; serving at %s", reason, short(built), short(time.Since(began)), u.where()))
		if line := u.grpcurl(); line != "" {
			u.out.say(u.name, "  "+line)
		}
	})
	if err != nil && !errors.Is(err, errGivenUp) {
		u.failed(reason, err)
	}
}

// roll replaces what runs in each slot, one after the other, and tells of it.
func (u *unit) roll(ctx context.Context, binary string, reloaded func()) error {
	before := u.settings()
	previous, previousSum := u.current, u.currentSum
	u.adopt(ctx, binary)
	t := newTally(ctx, u)
	for i, s := range u.slots {
		r := replacement{ctx: ctx, program: u.program(ctx, i, binary), retire: t.retire, result: make(chan error, 1)}
		var err error
		select {
		case s.replacements <- r:
			err = <-r.result
		case <-ctx.Done():
			err = errGivenUp
		}
		if err != nil {
			u.current, u.currentSum = previous, previousSum
			u.mu.Lock()
			u.set = before
			u.mu.Unlock()
			t.finish()
			return err
		}
	}
	reloaded()
	u.clean()
	t.finish()
	return nil
}

// broken tells of a build that failed.
func (u *unit) broken(reason string, err error) {
	what, at := err.Error(), ""
	if p := (*problem.Error)(nil); errors.As(err, &p) {
		what, at = p.What, p.At
	}
	u.out.say(u.name, fmt.Sprintf("reload: %s: %s; the previous version goes on serving", reason, what))
	for line := range strings.SplitSeq(at, "\n") {
		u.out.say(u.name, "  "+strings.TrimSpace(line))
	}
}

// failed tells of a new process that did not get to serve.
func (u *unit) failed(reason string, err error) {
	u.out.say(u.name, fmt.Sprintf("reload: %s: the new process %v; the previous version goes on serving", reason, err))
	if f := (*startError)(nil); errors.As(err, &f) {
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
