package stack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// workTimeout is how long tasks have to return once they are told to.
const workTimeout = 5 * time.Second

// task is one task that runs beside the server.
type task struct {
	name string
	run  func(context.Context) error
	loop *loop.Loop // nil until it runs
}

// Work has a task run for the life of the service: it begins with Start, before the instance registers, and its context
// ends when the instance has left and drained. A task that returns an error earlier, or panics, is reported to Params.Failed.
// Call it before Start.
func (s *Stack) Work(name string, run func(context.Context) error) {
	s.steps.Lock()
	defer s.steps.Unlock()
	s.tasks = append(s.tasks, &task{name: name, run: run})
}

func (s *Stack) startWork() {
	for _, t := range s.tasks {
		t.loop = loop.Start(context.Background(), func(ctx context.Context) {
			if err := guard.Recovered(ctx, t.run); err != nil && ctx.Err() == nil {
				s.fail(fmt.Errorf("worker %q ended: %w", t.name, err))
			}
		})
	}
}

// stopWork tells all tasks to stop, and waits for them with a budget of its own.
func (s *Stack) stopWork(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
	defer cancel()
	for _, t := range s.tasks {
		if t.loop != nil {
			t.loop.Cancel()
		}
	}
	var errs []error
	for _, t := range s.tasks {
		if t.loop == nil {
			continue
		}
		if t.loop.Join(ctx) != nil {
			errs = append(errs, fmt.Errorf("worker %q does not return although its context ended %v ago; it is left behind", t.name, workTimeout))
		}
	}
	return errors.Join(errs...)
}

// fail reports a failure that the service can't go on with; the first one is enough.
func (s *Stack) fail(err error) {
	s.failOnce.Do(func() {
		s.log.Error("a part failed", zap.Error(err))
		if s.p.Failed != nil {
			s.p.Failed(err)
		}
	})
}

// CloseLater has Close close a value after the drain, in reverse order, if it has a method Close() error or
// Close(context.Context) error.
func (s *Stack) CloseLater(value any) { s.closers.Add(value) }
