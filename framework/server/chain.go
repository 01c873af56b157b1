package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// segment is a run of neighbouring slots of our own, folded into one interceptor: what stands side by side needs no
// closure per call between its links. The order of the fields is the order of the chain; the zero value of a field
// leaves that slot out.
type segment struct {
	log        *accessLog
	drain      bool // streams that end because the server stops end with UNAVAILABLE
	recovery   *recovery
	authority  *authority
	maxTimeout time.Duration
	validation *validation
}

// compile folds the effective chain into the two functions that gRPC is given.
func compile(stages []stage, own segment) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	var open *segment // the segment that is being filled
	slot := func() *segment {
		if open == nil {
			open = &segment{}
			unary = append(unary, open.unary)
			stream = append(stream, open.stream)
		}
		return open
	}
	drained := false
	for _, st := range stages {
		// Telemetry and access log shall see the status that the peer sees, so the stop's is made inside of them.
		if !drained && st.Name != SlotTelemetry && st.Name != SlotAccessLog && st.own {
			slot().drain, drained = true, true
		}
		if !st.own {
			open = nil
			if st.Unary != nil {
				unary = append(unary, st.Unary)
			}
			if st.Stream != nil {
				stream = append(stream, st.Stream)
			}
			continue
		}
		switch st.Name {
		case SlotAccessLog:
			slot().log = own.log
		case SlotRecovery:
			slot().recovery = own.recovery
		case SlotAuthority:
			slot().authority = own.authority
		case SlotDeadline:
			slot().maxTimeout = own.maxTimeout
		case SlotValidation:
			slot().validation = own.validation
		}
	}
	if !drained {
		slot().drain = true
	}
	return nestUnary(unary), nestStream(stream)
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
		defer s.log.unary(ctx, info.FullMethod, time.Now(), &err)
	}
	if s.recovery != nil {
		defer s.recovery.recover(ctx, info.FullMethod, &err)
	}
	if s.authority != nil {
		if err := s.authority.check(ctx); err != nil {
			return nil, err
		}
	}
	if s.maxTimeout > 0 {
		// Most calls come with a deadline that is nearer; they must not pay for a context.
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > s.maxTimeout {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.maxTimeout)
			defer cancel()
		}
	}
	if s.validation != nil {
		if err := s.validation.check(req); err != nil {
			return nil, err
		}
	}
	return handler(ctx, req)
}

func (s *segment) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	if s.log != nil {
		defer s.log.stream(ss.Context(), info.FullMethod, time.Now(), &err)
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
	if s.validation != nil {
		ss = &validatedStream{ServerStream: ss, validation: s.validation}
	}
	return handler(srv, ss)
}
