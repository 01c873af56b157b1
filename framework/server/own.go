package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// recovery turns panics into INTERNAL.
type recovery struct{ log logs }

// recover must be deferred directly. The peer learns nothing of the panic: its value may hold anything.
func (r *recovery) recover(ctx context.Context, method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	r.log.Error("a handler panicked", r.log.with(ctx,
		zap.String("method", method), zap.String("panic", fmt.Sprint(p)), zap.String("stack", string(debug.Stack())))...)
	*err = status.Error(codes.Internal, "internal error")
}

// logs is a logger and what it adds of a call's context, for example its trace.
type logs struct {
	*zap.Logger
	fields func(context.Context) zap.Field // nil: nothing
}

func (l logs) with(ctx context.Context, fields ...zap.Field) []zap.Field {
	if l.fields != nil {
		fields = append(fields, l.fields(ctx))
	}
	return fields
}

// authority refuses calls for other services.
type authority struct {
	service string
	accept  map[string]bool
}

func newAuthority(service string, accept []string) *authority {
	a := &authority{service: service, accept: map[string]bool{service: true, "localhost": true}}
	for _, name := range accept {
		a.accept[name] = true
	}
	return a
}

func (a *authority) check(ctx context.Context) error {
	values := metadata.ValueFromIncomingContext(ctx, ":authority")
	if len(values) == 0 {
		return nil
	}
	name := values[0]
	if name == a.service || a.accept[name] || !isServiceName(name) {
		return nil
	}
	return notprocessed.Error(fmt.Sprintf(
		"this is service %q, but the call is for %q: the address was reused or is configured wrongly; "+
			"add the name to server.accept_names if this service answers for it", a.service, name))
}

// isServiceName reports whether s has the form of a service name: [a-z][a-z0-9]*(-[a-z0-9]+)*, at most 50 characters.
func isServiceName(s string) bool {
	if s == "" || len(s) > 50 || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && s[i-1] != '-':
		default:
			return false
		}
	}
	return true
}

// accessLog logs calls that an operator wants to see one by one.
type accessLog struct {
	log    logs
	errors bool
	slow   time.Duration
}

// unary must be deferred directly, with the moment the call came.
func (a *accessLog) unary(ctx context.Context, method string, start time.Time, err *error) {
	took := time.Since(start)
	if a.slow > 0 && took >= a.slow && !(a.errors && serverFault(*err)) {
		a.log.Warn("slow call", a.fields(ctx, method, took, *err)...)
		return
	}
	a.stream(ctx, method, start, err)
}

// stream is unary without the notion of slowness: streams live as long as they live.
func (a *accessLog) stream(ctx context.Context, method string, start time.Time, err *error) {
	if a.errors && serverFault(*err) {
		a.log.Error("call failed", append(a.fields(ctx, method, time.Since(start), *err), zap.Error(*err))...)
	}
}

func (a *accessLog) fields(ctx context.Context, method string, took time.Duration, err error) []zap.Field {
	return a.log.with(ctx, zap.String("method", method), zap.Stringer("code", status.Code(err)), zap.Duration("took", took))
}

// serverFault reports whether an error is the server's rather than the caller's.
func serverFault(err error) bool {
	if err == nil {
		return false
	}
	switch status.Convert(err).Code() {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}
