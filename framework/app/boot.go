package app

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/stack"
)

// Environment is everything an app takes from the process around it. [Run] fills it from the process; tests make one up
// and supply it to Fx.
type Environment = stack.Environment

// boot is what is known before the first constructor of the service runs.
type boot struct {
	service  string
	env      *Environment
	settings *config.Config
	config   stack.Config
	callees  []string
	serves   bool
	log      *zap.Logger
	levels   *stack.Levels
	stack    *stack.Stack // nil until it is built
	down     fx.Shutdowner
	told     sync.Once // why the process stops
	closing  sync.Once
	failed   guard.First // why the status is not 0
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
var ErrAnswered = errors.New("the question was answered")

func newBoot(service string, p bootParams) (*boot, error) {
	b := &boot{service: service, env: p.Env}
	if b.env == nil {
		b.env = stack.FromProcess(service)
	}
	b.env = b.env.Filled()
	own := b.declared(p.Declarations)
	var err error
	if b.settings, b.config, err = stack.LoadConfig(b.env.Sources, b.callees, own...); err != nil {
		return nil, err
	}
	if b.env.Introspect != "" {
		return nil, b.answer(string(p.Dot))
	}
	b.log, b.levels, err = stack.NewLog(b.config, service, b.env.Process.Dev, b.env.Log)
	if err != nil {
		return nil, err
	}
	if p.Process != nil {
		p.Process.booted(b)
	}
	return b, nil
}

// answer prints what NEWSVC_INTROSPECT asks for; its error is ErrAnswered when that worked.
func (b *boot) answer(dot string) error {
	q := stack.Question{Ask: b.env.Introspect, Service: b.service, Settings: b.settings, Callees: b.callees, Serves: b.serves, Dot: dot}
	if err := q.Print(b.env.Stdout); err != nil {
		return err
	}
	return ErrAnswered
}

// declared collects what the service's options say; it returns the service's own sections.
func (b *boot) declared(all []declaration) []config.Section {
	var own []config.Section
	for _, d := range all {
		b.serves = b.serves || d.serves
		if d.callee != "" {
			b.callees = append(b.callees, d.callee)
		}
		if d.section != nil {
			own = append(own, *d.section)
		}
	}
	slices.Sort(b.callees)
	b.callees = slices.Compact(b.callees)
	return own
}

// partFailed ends the process when a listener or a worker fails by itself.
func (b *boot) partFailed(err error) {
	b.failed.Set(err)
	if err := b.down.Shutdown(fx.ExitCode(1)); err != nil {
		b.log.Error("could not ask the process to stop", zap.Error(err))
	}
}

// drain has the stack's own budget, from a fresh context: Fx's is shared by all hooks.
func (b *boot) drain(ctx context.Context) error {
	err := b.stack.Drain(context.WithoutCancel(ctx))
	if err != nil {
		b.log.Error("not all work could be finished", zap.Error(err))
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
			b.log.Error("not everything could be closed", zap.Error(err))
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
