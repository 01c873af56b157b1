package server

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/status"
)

// mostRefusedKinds bounds what is told of in one second.
const mostRefusedKinds = 1000

// refusedCalls are calls that were refused because there are too many, and that no line tells of yet. A line for each
// would make a flood of calls one of lines, so there is one for all of a second that are alike.
type refusedCalls struct {
	waiting atomic.Bool
	told    atomic.Int64 // the second in which lines were written last

	mu    sync.Mutex
	kinds map[refusedKind]*refusedKindCalls
}

type refusedKind struct{ method, reason string }

type refusedKindCalls struct {
	calls int
	last  error
}

func (r *refusedCalls) add(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting.Store(true)
	kind := refusedKind{method, refusedBy(err)}
	if r.kinds == nil {
		r.kinds = map[refusedKind]*refusedKindCalls{}
	}
	if r.kinds[kind] == nil && len(r.kinds) >= mostRefusedKinds {
		kind = refusedKind{"(other)", "(other)"}
	}
	k := r.kinds[kind]
	if k == nil {
		k = &refusedKindCalls{}
		r.kinds[kind] = k
	}
	k.calls++
	k.last = err
}

// take returns those that have room in the log, and forgets them.
func (r *refusedCalls) take(room func() bool) map[refusedKind]*refusedKindCalls {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := map[refusedKind]*refusedKindCalls{}
	for kind, k := range r.kinds {
		if !room() {
			break
		}
		taken[kind] = k
		delete(r.kinds, kind)
	}
	r.waiting.Store(len(r.kinds) > 0)
	return taken
}

// tellRefused writes what waits, unless it did in this second. There is no timer: the next call that is looked at, of
// whatever method, has it written, or else the stop.
func (a *accessLog) tellRefused(r *accessRules, now time.Time) {
	second := now.Unix()
	before := a.refused.told.Load()
	if before == second || !a.refused.told.CompareAndSwap(before, second) {
		return
	}
	a.writeRefused(func() bool { return r.rest.room(now) })
}

// flushRefused writes whatever waits, at the end.
func (a *accessLog) flushRefused() {
	if r := a.rules.Load(); r != nil && r.All && a.refused.waiting.Load() {
		a.writeRefused(func() bool { return true })
	}
}

func (a *accessLog) writeRefused(room func() bool) {
	for kind, k := range a.refused.take(room) {
		if entry := a.log.Check(zapcore.InfoLevel, "calls refused"); entry != nil {
			entry.Write(zap.String("method", kind.method), zap.String("reason", kind.reason), zap.Int("calls", k.calls),
				zap.Stringer("code", codeOf(k.last)), zap.String("error", shorten(k.last.Error(), maxErrorText)))
		}
	}
}

// refusedBy is the reason of a refusal, as the metric newsvc_server_refused_total has it.
func refusedBy(err error) string {
	switch text := status.Convert(err).Message(); {
	case text == overloadText:
		return "overload"
	case strings.HasPrefix(text, rateLimitText):
		return "rate_limit"
	default: // by an interceptor of somebody else
		return "(other)"
	}
}
