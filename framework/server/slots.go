package server

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// The slots of the interceptor chain, outermost first. Each may be switched off by name in [Config] and replaced in
// [Params].
const (
	// SlotTelemetry counts, times and traces calls. Filled from outside.
	SlotTelemetry = "telemetry"
	// SlotAccessLog logs failed and slow calls, see [AccessLog].
	SlotAccessLog = "access_log"
	// SlotRecovery turns a panic into INTERNAL and logs it with its stack.
	SlotRecovery = "recovery"
	// SlotAuthority refuses calls that were meant for another service, which happens when an address is reused.
	// Refused is an :authority that could be a service name (no dot, colon or percent sign in it) and is neither the
	// server's own, nor in accept_names, nor "localhost".
	SlotAuthority = "authority"
	// SlotDeadline caps the deadline of unary calls, and refuses those whose deadline is over.
	SlotDeadline = "deadline"
	// SlotShedding refuses calls under overload, the least important first, see [Shedding] and [PriorityHeader].
	SlotShedding = "shedding"
	// SlotAuthentication finds out who is calling. Filled from outside.
	SlotAuthentication = "authentication"
	// SlotRateLimit refuses calls that come too often, see [RateLimit]. It stands where the caller is known.
	SlotRateLimit = "rate_limit"
	// SlotAuthorization decides whether the caller may. Filled from outside.
	SlotAuthorization = "authorization"
	// SlotValidation checks messages against the rules of their proto files (protovalidate).
	SlotValidation = "validation"
)

func slots() []string {
	return []string{
		SlotTelemetry, SlotAccessLog, SlotRecovery, SlotAuthority, SlotDeadline, SlotShedding,
		SlotAuthentication, SlotRateLimit, SlotAuthorization, SlotValidation,
	}
}

// Interceptor is one link of the chain. Name appears in [Server.Chain]. A nil Unary or Stream lets such calls pass.
type Interceptor struct {
	Name   string
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
}

// Option supplies what only code can supply.
type Option interface{ apply(*options) }

type options struct {
	before, after map[string][]Interceptor
	grpc          []grpc.ServerOption
	listener      net.Listener
	errs          []error
}

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// Before puts an interceptor right before (outside of) a slot, whether the slot is in use or not. Several of one slot
// keep the order of the options.
func Before(slot string, i Interceptor) Option {
	return optionFunc(func(o *options) { o.add(o.before, "before", slot, i) })
}

// After puts an interceptor right after (inside of) a slot, like [Before].
func After(slot string, i Interceptor) Option {
	return optionFunc(func(o *options) { o.add(o.after, "after", slot, i) })
}

// GRPC passes options to gRPC, after the server's own. Interceptors passed this way run outside of the whole chain,
// and are not covered by its recovery.
func GRPC(opts ...grpc.ServerOption) Option {
	return optionFunc(func(o *options) { o.grpc = append(o.grpc, opts...) })
}

// Listener has the server serve l, for example one in memory, instead of binding Config.Listen. The server closes it.
func Listener(l net.Listener) Option {
	return optionFunc(func(o *options) { o.listener = l })
}

func (o *options) add(to map[string][]Interceptor, side, slot string, i Interceptor) {
	switch {
	case !slices.Contains(slots(), slot):
		o.errs = append(o.errs, fmt.Errorf("placing interceptor %q %s slot %q: there is no such slot; the slots are %s",
			i.Name, side, slot, strings.Join(slots(), ", ")))
	case i.Name == "":
		o.errs = append(o.errs, fmt.Errorf("placing an interceptor %s slot %q: it has no name; set Interceptor.Name", side, slot))
	default:
		to[slot] = append(to[slot], i)
	}
}

// stage is one link of the effective chain: somebody else's interceptor, or one of our own slots.
type stage struct {
	Interceptor
	own bool
}

// plan lists the effective chain.
func plan(p Params, o *options) ([]stage, error) {
	errs := slices.Clone(o.errs)
	for slot := range p.Fill {
		if !slices.Contains(slots(), slot) {
			errs = append(errs, fmt.Errorf("filling slot %q: there is no such slot; the slots are %s", slot, strings.Join(slots(), ", ")))
		}
	}
	var stages []stage
	for _, slot := range slots() {
		for _, i := range o.before[slot] {
			stages = append(stages, stage{Interceptor: i})
		}
		if st, used := fill(p, slot); used {
			stages = append(stages, st)
		}
		for _, i := range o.after[slot] {
			stages = append(stages, stage{Interceptor: i})
		}
	}
	return stages, errors.Join(errs...)
}

// fill returns what goes into a slot, if anything does.
func fill(p Params, slot string) (stage, bool) {
	if on, named := p.Config.Chain[slot]; named && !on {
		return stage{}, false
	}
	if i, given := p.Fill[slot]; given {
		i.Name = slot
		return stage{Interceptor: i}, i.Unary != nil || i.Stream != nil
	}
	own := stage{Interceptor: Interceptor{Name: slot}, own: true}
	switch slot {
	case SlotRecovery, SlotAuthority, SlotShedding, SlotValidation:
		return own, true
	case SlotDeadline:
		l := p.Config.Limits
		return own, l.MaxTimeout > 0 || l.MinTimeout > 0 || l.AnswerReserve > 0
	case SlotRateLimit:
		return own, len(p.Config.RateLimits) > 0
	case SlotAccessLog:
		return own, true
	default: // filled from outside only
		return stage{}, false
	}
}
