package server

import (
	"context"
	"fmt"
	"runtime/debug"

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
