package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server/internal/shed"
)

// segment is a run of neighbouring slots of our own, folded into one interceptor: what stands side by side needs no
// closure per call between its links. The order of the fields is the order of the chain; the zero value of a field
// leaves that slot out.
type segment struct {
	log        *accessLog
	drain      bool // streams that end because the server stops end with UNAVAILABLE
	recovery   *recovery
	authority  *authority
	deadline   *deadline
	shedding   *shedding
	rateLimits *rateLimits
	validation *validation
	innermost  bool // the handler is next: its errors are none of a chain that refused the call
}

// links are the interceptors of a chain in the making; own slots are added to the segment at its end.
type links struct {
	unary  []grpc.UnaryServerInterceptor
	stream []grpc.StreamServerInterceptor
	open   *segment // nil: the chain ends with somebody else's interceptor
}

func (l *links) foreign(i Interceptor) {
	l.open = nil
	if i.Unary != nil {
		l.unary = append(l.unary, i.Unary)
	}
	if i.Stream != nil {
		l.stream = append(l.stream, i.Stream)
	}
}

func (l *links) segment() *segment {
	if l.open == nil {
		l.open = &segment{}
		l.unary = append(l.unary, l.open.unary)
		l.stream = append(l.stream, l.open.stream)
	}
	return l.open
}

// compile folds the effective chain into the two functions that gRPC is given.
func compile(stages []stage, own segment) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	var l links
	drained := false
	for _, st := range stages {
		if !st.own {
			l.foreign(st.Interceptor)
			continue
		}
		seg := l.segment()
		switch st.Name {
		case SlotAccessLog:
			seg.log = own.log
		case SlotRecovery:
			seg.recovery = own.recovery
		case SlotAuthority:
			seg.authority = own.authority
		case SlotDeadline:
			seg.deadline = own.deadline
		case SlotShedding:
			seg.shedding = own.shedding
		case SlotRateLimit:
			seg.rateLimits = own.rateLimits
		case SlotValidation:
			seg.validation = own.validation
		}
		// Telemetry and access log shall see the status that the peer sees, so it is made inside of them.
		if !drained {
			seg.drain, drained = true, true
		}
	}
	if !drained {
		l.segment().drain = true
	}
	l.segment().innermost = true
	return nestUnary(l.unary), nestStream(l.stream)
}

// nestUnary makes one interceptor of many, at one allocation per call for each but the last.
func nestUnary(list []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(list) == 1 {
		return list[0]
	}
	first, rest := list[0], nestUnary(list[1:])
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return first(ctx, req, info, func(ctx context.Context, req any) (any, error) { return rest(ctx, req, info, handler) })
	}
}

func nestStream(list []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	if len(list) == 1 {
		return list[0]
	}
	first, rest := list[0], nestStream(list[1:])
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return first(srv, ss, info, func(srv any, ss grpc.ServerStream) error { return rest(srv, ss, info, handler) })
	}
}

func (s *segment) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if s.log != nil {
		if rules := s.log.rules.Load(); rules != nil {
			defer s.log.unary(ctx, rules, info.FullMethod, time.Now(), req, &resp, &err)
		}
	}
	if s.recovery != nil {
		defer s.recovery.recover(ctx, info.FullMethod, &err)
	}
	if s.authority != nil {
		if err := s.authority.check(ctx); err != nil {
			return nil, err
		}
	}
	if s.deadline != nil {
		left, err := s.deadline.check(ctx)
		if err != nil {
			return nil, err
		}
		if left > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, left)
			defer cancel()
		}
	}
	if s.shedding != nil {
		if m := s.shedding.methods[info.FullMethod]; m != nil {
			var p shed.Priority
			ctx, p = priority(ctx)
			began, ok := m.Admit(p)
			if !ok {
				return nil, m.refuse(trailerOf(ctx))
			}
			answered := false // a panic leaves err as it is
			defer func() {
				if answered && err != nil && callersFault(err) {
					m.Mistake()
				}
				m.Done(began, answered && err == nil)
			}()
			resp, err = s.admitted(ctx, req, info, handler)
			answered = true
			return resp, err
		}
	}
	return s.admitted(ctx, req, info, handler)
}

// admitted is the part of a unary call's way after shedding.
func (s *segment) admitted(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if s.rateLimits != nil {
		if l, wait := s.rateLimits.take(ctx, info.FullMethod); l != nil {
			return nil, l.refuse(trailerOf(ctx), wait)
		}
	}
	if s.validation != nil {
		if err := s.validation.check(req); err != nil {
			return nil, err
		}
	}
	resp, err := handler(ctx, req)
	if err != nil && s.innermost {
		err = notprocessed.Clear(err)
	}
	return resp, err
}

func (s *segment) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	if s.log != nil {
		if rules := s.log.rules.Load(); rules != nil {
			counted := &countedStream{ServerStream: ss, bytes: rules.All}
			ss = counted
			defer s.log.stream(counted, rules, info.FullMethod, time.Now(), &err)
		}
	}
	if s.drain {
		defer drainStatus(ss.Context(), &err)
	}
	if s.recovery != nil {
		defer s.recovery.recover(ss.Context(), info.FullMethod, &err)
	}
	if s.authority != nil {
		if err := s.authority.check(ss.Context()); err != nil {
			return err
		}
	}
	if s.shedding != nil {
		if ctx, _ := priority(ss.Context()); ctx != ss.Context() {
			ss = &contextStream{ServerStream: ss, ctx: ctx}
		}
	}
	if s.rateLimits != nil {
		if l, wait := s.rateLimits.take(ss.Context(), info.FullMethod); l != nil {
			return l.refuse(ss.SetTrailer, wait)
		}
	}
	if s.validation != nil {
		ss = &validatedStream{ServerStream: ss, validation: s.validation}
	}
	if err = handler(srv, ss); err != nil && s.innermost {
		err = notprocessed.Clear(err)
	}
	return err
}
