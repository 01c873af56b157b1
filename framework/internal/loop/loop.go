// Package loop owns goroutines, one each, so that every background task of the framework has an owner, a way
// to be told to stop and a moment at which it is known to be gone. It is the only place of the framework that
// holds a go statement; archtest sees to that.
package loop

import (
	"context"
	"sync"
)

// Loop is one owned goroutine. Its methods may be called from any goroutine, any number of times.
type Loop struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Start runs body in a goroutine of its own and returns at once. The body must return soon after its context ends;
// the context carries the values of parent and ends with it.
func Start(parent context.Context, body func(ctx context.Context)) *Loop {
	ctx, cancel := context.WithCancel(parent)
	l := &Loop{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer cancel()
		body(ctx)
	}()
	return l
}

// Cancel tells the body to stop and does not wait.
func (l *Loop) Cancel() { l.cancel() }

// Done is closed when the body has returned.
func (l *Loop) Done() <-chan struct{} { return l.done }

// Stop tells the body to stop and waits until it has returned. It must not be called from the body itself, nor while
// holding a lock that the body takes.
func (l *Loop) Stop() {
	l.cancel()
	<-l.done
}

// Join waits until the body has returned or ctx ends, whichever is first; it cancels nothing.
func (l *Loop) Join(ctx context.Context) error {
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Group is a set of loops that are stopped together. The zero value is ready for use.
type Group struct {
	mu    sync.Mutex
	loops []*Loop
}

// Start is [Start], with the loop added to the group. It must not be called after Stop.
func (g *Group) Start(parent context.Context, body func(ctx context.Context)) *Loop {
	l := Start(parent, body)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loops = append(g.loops, l)
	return l
}

// Stop cancels every loop of the group first and then waits for all of them.
func (g *Group) Stop() {
	g.mu.Lock()
	loops := g.loops
	g.loops = nil
	g.mu.Unlock()
	for _, l := range loops {
		l.cancel()
	}
	for _, l := range loops {
		<-l.done
	}
}
