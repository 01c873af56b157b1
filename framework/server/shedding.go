package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server/internal/shed"
)

// PriorityHeader is the metadata in which a caller says how important its call is: "critical" or "0", "1", "default" or "2",
// "3", "sheddable" or "4". Under overload the least important calls are refused first. A call without it, or with anything
// else, has the default. The handler's context carries it on, so the calls that it makes have the priority of the one it
// serves. Whoever calls sets it without any of our packages:
//
//	ctx = metadata.AppendToOutgoingContext(ctx, "newsvc-priority", "sheddable")
//
// It is believed; an edge to the outside must not pass it on from there.
const PriorityHeader = "newsvc-priority"

// pushbackHeader is the trailer by which gRPC's own retries are told how long to wait.
const pushbackHeader = "grpc-retry-pushback-ms"

// Shedding configures [SlotShedding], which bounds the calls of a method in flight while they queue up, and no longer. The
// algorithm is CoDel's, with BBR's bound: overload is that for 200 ms even the fastest call takes longer than usual, by
// Target and twofold, while more calls come than are answered; the calls in flight are then bounded by twice the rate of
// answers times the usual latency, corrected ten times a second. What is beyond the bound is refused before anything ran,
// which callers of ours repeat on another instance, with pushback. See [PriorityHeader] for who goes first. Each unary method
// is looked at by itself, so one that is overloaded harms no other. The health and reflection services are never refused,
// and neither are streams: how long they last says nothing.
type Shedding struct {
	// Target is the wait in a queue that is tolerated, if it is not longer than the work itself. Default 10ms. Less keeps
	// latency lower when the server is full; more sheds later, which suits methods that hardly anybody waits for.
	Target time.Duration `config:"target"`
	// MinInFlight is the number of calls of one method that are never refused. Default 10; more protects small bursts
	// during overload, less protects a resource that serves only a few at once.
	MinInFlight int `config:"min_in_flight"`
}

func (s Shedding) validate() error {
	switch {
	case s.Target <= 0:
		return fmt.Errorf(`target: %s is too short; write for example "10ms", or switch shedding off with chain.shedding: false`, s.Target)
	case s.MinInFlight < 1:
		return fmt.Errorf("min_in_flight: %d is too small; use 1 or more", s.MinInFlight)
	}
	return nil
}

// shedding is the slot of that name: a limiter for each method of somebody's work.
type shedding struct {
	methods map[string]*shedded // complete before the server serves
}

type shedded struct {
	*shed.Limiter
	account *method
}

func newShedding(c Shedding, all *calls) *shedding {
	s := &shedding{methods: map[string]*shedded{}}
	for name, m := range all.methods {
		if !m.system {
			l := shed.New(shed.Options{Target: c.Target, MinInFlight: c.MinInFlight})
			s.methods[name] = &shedded{Limiter: l, account: m}
		}
	}
	return s
}

// priority reads the caller's and has the context pass it on to callees.
func priority(ctx context.Context) (context.Context, shed.Priority) {
	values := metadata.ValueFromIncomingContext(ctx, PriorityHeader)
	if len(values) == 0 {
		return ctx, shed.Default
	}
	// A handler that gives a call of its own another priority appends it to the one that it passes on.
	value := values[len(values)-1]
	p, known := shed.ParsePriority(value)
	if !known {
		return ctx, shed.Default
	}
	return metadata.AppendToOutgoingContext(ctx, PriorityHeader, value), p
}

// overloadText is what a caller is told whose call was shed.
const overloadText = "this instance is overloaded; other instances take the call"

// refuse counts and returns the refusal. Callers wait for differing times, so that they do not return together.
func (s *shedded) refuse(tell func(metadata.MD)) error {
	s.account.shed.Add(1)
	wait := 25*time.Millisecond + rand.N(50*time.Millisecond)
	return pushback(tell, wait, overloadText)
}

// callersFault reports whether a call failed by what its caller did, which is no sign that the server can't keep up.
func callersFault(err error) bool {
	switch codeOf(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.FailedPrecondition,
		codes.OutOfRange, codes.Unauthenticated, codes.Unimplemented:
		return true
	case codes.Unavailable:
		return pushedBack(err) // by a rate limit
	default:
		return false
	}
}

// maxRetryPushback bounds what gRPC's own retries are told to wait: they wait that long for another instance, too.
const maxRetryPushback = 100 * time.Millisecond

// pushback refuses a call unprocessed and says how long to wait before it is repeated: to gRPC's retries in the trailer,
// to our client, which tries another instance before it waits, in the status.
func pushback(tell func(metadata.MD), wait time.Duration, text string) error {
	tell(metadata.Pairs(pushbackHeader, strconv.FormatInt(max(1, min(wait, maxRetryPushback).Milliseconds()), 10)))
	return notprocessed.Later(text, wait)
}

// trailerOf sends trailers of a unary call. It can only fail outside of a call.
func trailerOf(ctx context.Context) func(metadata.MD) {
	return func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }
}

// contextStream is a stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *contextStream) Context() context.Context { return s.ctx }

// Refusals are the calls of one method that were refused before their handler ran, by reason, since the server was made.
type Refusals struct {
	Method string
	// Shed is what load shedding refused, Limited what a rate limit did.
	Shed, Limited int64
	// InFlight is the number of calls that shedding has admitted and that have not ended; Bound is how many of them it admits,
	// 0 while there is no overload.
	InFlight, Bound int
}

// Refusals returns an entry for each method of the registered services; nothing before [Server.Start].
func (s *Server) Refusals() []Refusals {
	s.mu.Lock()
	all, shedding := s.calls, s.shedding
	s.mu.Unlock()
	if all == nil {
		return nil
	}
	var list []Refusals
	for name, m := range all.methods {
		if m.system {
			continue
		}
		r := Refusals{Method: name, Shed: m.shed.Load(), Limited: m.limited.Load()}
		if shedding != nil {
			state := shedding.methods[name].State()
			r.InFlight, r.Bound = state.InFlight, state.Bound
		}
		list = append(list, r)
	}
	return list
}

// pushedBack reports whether err refuses a call because there are too many. Under overload there are thousands of them;
// they are counted, and a log has better things to tell then.
func pushedBack(err error) bool { return notprocessed.Is(err) && notprocessed.Wait(err) > 0 }
