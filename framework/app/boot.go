package app

import (
	"context"
	"sync"
	"time"

	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/stack"
)

// Environment is everything an app takes from the process around it. [Run] fills it from the process; tests make one up
// and supply it to Fx.
type Environment = stack.Environment

// boot is what is known before the first constructor of the service runs.
type boot struct {
	*stack.Boot
	stack   *stack.Stack // nil until it is built
	down    fx.Shutdowner
	told    sync.Once // why the process stops
	closing sync.Once
	failed  guard.First // why the status is not 0
}

type bootParams struct {
	fx.In
	Env          *Environment  `optional:"true"`
	Declarations []declaration `group:"newsvc.declarations"`
	Dot          fx.DotGraph
	Process      *process `optional:"true"`
}

// ErrAnswered ends the start after the question in NEWSVC_INTROSPECT was answered. Run exits with 0 then; so should
// programs that own their fx.New.
var ErrAnswered = stack.ErrAnswered

func newBoot(service string, p bootParams) (*boot, error) {
	all := make([]stack.Declaration, 0, len(p.Declarations))
	for _, d := range p.Declarations {
		all = append(all, d.Declaration)
	}
	b := &boot{}
	var err error
	b.Boot, err = stack.NewBoot(context.Background(), service, p.Env, all, string(p.Dot)) // bounds its waits itself
	if err != nil {
		return nil, err
	}
	if p.Process != nil {
		p.Process.booted(b)
	}
	return b, nil
}

// partFailed ends the process when a listener or a worker fails by itself.
func (b *boot) partFailed(err error) {
	b.failed.Set(err)
	if err := b.down.Shutdown(fx.ExitCode(1)); err != nil {
		b.Log.Error("could not ask the process to stop", zap.Error(err))
	}
}

// drain has the stack's own budget, from a fresh context: Fx's is shared by all hooks.
func (b *boot) drain(ctx context.Context) error {
	err := b.stack.Drain(context.WithoutCancel(ctx))
	if err != nil {
		b.Log.Error("not all work could be finished", zap.Error(err))
		b.failed.Set(err)
	}
	return err
}

// closeTimeout is for all that is closed after the drain.
const closeTimeout = 10 * time.Second

// close closes what the service provided and the stack, once, with a budget of its own.
func (b *boot) close() (err error) {
	if b.stack == nil {
		return nil
	}
	b.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err = b.stack.Close(ctx); err != nil {
			b.Log.Error("not everything could be closed", zap.Error(err))
			b.failed.Set(err)
		}
	})
	return err
}

// failed is told of constructors and invokes that failed.
type failed struct{ boot *boot }

// HandleError implements [fx.ErrorHandler]: Fx runs no hooks then, so what was built is closed here.
func (f *failed) HandleError(error) {
	if f.boot != nil {
		_ = f.boot.close() // it has been logged
	}
}
