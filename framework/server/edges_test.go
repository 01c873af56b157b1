package server_test

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
)

// What PriorityHeader tells callers to do, done by a handler for its own background work.
func TestAHandlersOwnPriorityHolds(t *testing.T) {
	t.Parallel()
	told := make(chan []string, 1)
	callee := start(t, params(), &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		md, _ := metadata.FromOutgoingContext(ctx)
		told <- md.Get(server.PriorityHeader)
		return in, nil
	}})
	next := dial(t, callee)
	s := start(t, params(), &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		ctx = metadata.AppendToOutgoingContext(ctx, "newsvc-priority", "sheddable")
		return in, next.Invoke(ctx, unaryMethod, in, new(wrapperspb.StringValue))
	}})
	ctx := metadata.AppendToOutgoingContext(t.Context(), server.PriorityHeader, "critical")
	if err := dial(t, s).Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, "the call of the callee", told); len(got) != 1 || got[0] != "sheddable" {
		t.Errorf("the callee takes the call for %q, want sheddable: its caller said so", got)
	}
}

func TestAccessLogLinesAreBounded(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	p := params()
	p.Log = zap.New(core)
	s := start(t, p, &echo{call: func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return nil, status.Error(codes.Internal, "x")
	}})
	_, _ = invoke(t, dial(t, s, grpc.WithUserAgent(strings.Repeat("a", 50_000))), "x")
	lines := logs.FilterMessage("call failed").All()
	if len(lines) == 0 {
		t.Fatal("no line")
	}
	if n := len(lines[0].ContextMap()["user_agent"].(string)); n > 1000 {
		t.Errorf("a caller has %d bytes of its own in each line", n)
	}
}
