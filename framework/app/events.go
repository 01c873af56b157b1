package app

import (
	"sync/atomic"

	"go.uber.org/fx/fxevent"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// events passes what Fx tells of itself to the service's log at debug level, once there is one. Errors are left out:
// Run reports them, with the root cause first.
type events struct {
	to atomic.Pointer[fxevent.ZapLogger]
}

func (e *events) logger() fxevent.Logger { return e }

func (e *events) use(log *zap.Logger) {
	l := &fxevent.ZapLogger{Logger: log.Named("fx")}
	l.UseLogLevel(zapcore.DebugLevel)
	l.UseErrorLevel(zapcore.DebugLevel)
	e.to.Store(l)
}

// LogEvent implements [fxevent.Logger].
func (e *events) LogEvent(event fxevent.Event) {
	if l := e.to.Load(); l != nil {
		l.LogEvent(event)
	}
}
