package app

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/stack"
)

// process is what [Run] knows and [Module] alone does not: the process is its own.
type process struct {
	starting context.Context // ends when the start is to end: with the first signal, or when it takes too long
	giveUp   context.CancelCauseFunc
	hangup   func(instead func()) // what SIGHUP does from then on
	boot     atomic.Pointer[boot]
	events   atomic.Pointer[fxevent.ZapLogger]
}

// booted takes note that the configuration is known; nothing has used gRPC yet.
func (p *process) booted(b *boot) {
	stack.TakeGRPCLog(b.Log)
	l := &fxevent.ZapLogger{Logger: b.Log.Named("fx")}
	l.UseLogLevel(zapcore.DebugLevel)
	l.UseErrorLevel(zapcore.DebugLevel) // Run reports errors, with the root cause first
	p.events.Store(l)
	p.boot.Store(b)
	if b.Config.App.SIGHUP == stack.SIGHUPReload {
		p.hangup(b.Live.Kick)
	}
	limit := b.Config.App.StartTimeout
	time.AfterFunc(limit, func() { p.giveUp(fmt.Errorf("the start did not end within %v (app.start_timeout)", limit)) })
}

// LogEvent implements [fxevent.Logger]: what Fx tells of itself goes to the service's log at debug level, once there is one.
func (p *process) LogEvent(event fxevent.Event) {
	if l := p.events.Load(); l != nil {
		l.LogEvent(event)
	}
}

// hookTimeout is how long a stop hook of the service's own may take.
const hookTimeout = 5 * time.Second

// hooks is Fx's lifecycle with bounds: start hooks end with the start, a stop hook has a budget of its own, and one that
// panics or does not return costs no other its turn. Fx itself would skip all that come after it.
type hooks struct {
	fx.Lifecycle
	p *process
}

func (p *process) lifecycle(lc fx.Lifecycle) fx.Lifecycle { return hooks{lc, p} }

// Append implements [fx.Lifecycle].
func (h hooks) Append(hook fx.Hook) {
	where := caller()
	if hook.OnStop != nil {
		hook.OnStop = guard.Within(hookTimeout, where+": a stop hook", hook.OnStop, func(err error) {
			h.p.boot.Load().Log.Error("a stop hook failed", zap.Error(err))
		})
	}
	h.append(where+": a start hook", hook)
}

// append bounds the start only.
func (h hooks) append(what string, hook fx.Hook) {
	if hook.OnStart != nil {
		hook.OnStart = guard.UntilEnd(h.p.starting, what, hook.OnStart)
	}
	h.Lifecycle.Append(hook)
}

// own appends a hook of this package, whose stop has budgets of its own.
func own(lc fx.Lifecycle, hook fx.Hook) {
	if h, ok := lc.(hooks); ok {
		h.append("", hook)
		return
	}
	lc.Append(hook)
}
