package server_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
)

// logged returns parameters whose access log can be read.
func logged(cfg server.AccessLog) (server.Params, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	p := params()
	p.Log = zap.New(core).Named("server")
	p.Config.AccessLog = cfg
	p.LogContext = func(context.Context) zap.Field { return zap.String("trace_id", "t1") }
	return p, logs
}

func failing(text string) *echo {
	return &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		if in.GetValue() == text {
			return nil, errors.New("disk on fire")
		}
		return in, nil
	}}
}

func TestFailedCallsAreLoggedByDefault(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.DefaultConfig().AccessLog)
	cc := dial(t, start(t, p, failing("fault")), grpc.WithUserAgent("order-service"))
	for _, text := range []string{"fine", "fault"} {
		_, _ = invoke(t, cc, text) // the log is what matters here
	}
	all := logs.All()
	if len(all) != 1 {
		t.Fatalf("%d lines, want 1: %v", len(all), all)
	}
	line := all[0].ContextMap()
	if !strings.HasPrefix(line["peer"].(string), "127.0.0.1:") || !strings.HasPrefix(line["user_agent"].(string), "order-service grpc-go/") || line["took"].(time.Duration) <= 0 {
		t.Errorf("line = %v", line)
	}
	for _, varies := range []string{"peer", "user_agent", "took"} {
		delete(line, varies)
	}
	want := map[string]any{"method": unaryMethod, "code": "Unknown", "error": "disk on fire", "request_bytes": int64(7), "trace_id": "t1"}
	if diff := cmp.Diff(want, line); diff != "" || all[0].LoggerName != "server.access" || all[0].Level != zap.ErrorLevel {
		t.Errorf("%s %s (-want +got):\n%s", all[0].LoggerName, all[0].Level, diff)
	}
}

func TestEveryCallIsLoggedWhenAsked(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{All: true})
	e := failing("fault")
	e.chat = echoAll
	cc := dial(t, start(t, p, e))
	for _, text := range []string{"fine", "fault"} {
		_, _ = invoke(t, cc, text)
	}
	cs := open(t, cc, bidiMethod)
	if err := cs.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var got []map[string]any
	for _, e := range logs.All() {
		m := e.ContextMap()
		for _, varies := range []string{"peer", "user_agent", "took", "trace_id"} {
			if m[varies] == nil {
				t.Errorf("%s: no %s", e.Message, varies)
			}
			delete(m, varies)
		}
		m["msg"] = e.Level.String() + " " + e.Message
		got = append(got, m)
	}
	want := []map[string]any{
		{"msg": "info call", "method": unaryMethod, "code": "OK", "request_bytes": int64(6), "response_bytes": int64(6)},
		{"msg": "info call", "method": unaryMethod, "code": "Unknown", "request_bytes": int64(7), "error": "disk on fire"},
		{"msg": "info call", "method": bidiMethod, "code": "OK", "received": int64(1), "received_bytes": int64(7), "sent": int64(1), "sent_bytes": int64(7)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// TestAStormOfCallsIsNoneOfLines calls until some later second has told what was left out before.
func TestAStormOfCallsIsNoneOfLines(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{All: true, Errors: true, MaxPerSecond: 3})
	cc := dial(t, start(t, p, failing("fault")))
	began, calls, told := time.Now(), 0, false
	for !told && time.Since(began) < 20*time.Second {
		_, _ = invoke(t, cc, "fault")
		calls++
		last := logs.All()[logs.Len()-1].ContextMap()
		_, told = last["left_out"]
	}
	sum := 0
	for _, e := range logs.All() {
		n, _ := e.ContextMap()["left_out"].(int64)
		sum += 1 + int(n)
	}
	if !told || sum != calls {
		t.Errorf("%d calls, but %d in lines and left out", calls, sum)
	}
	if seconds := int(time.Since(began)/time.Second) + 2; logs.Len() > 3*seconds {
		t.Errorf("%d lines within %d seconds", logs.Len(), seconds)
	}
	if _, err := invoke(t, cc, "fine"); err != nil {
		t.Fatal(err)
	}
	if last := logs.All()[logs.Len()-1]; last.Message != "call" {
		t.Errorf("last line is %q: failed calls took the room of the others", last.Message)
	}
}

func TestTheAccessLogChangesUnderCalls(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{})
	s := start(t, p, &echo{})
	cc := dial(t, s)
	for i, all := range []bool{false, true, false} {
		if i > 0 {
			if err := s.SetAccessLog(server.AccessLog{All: all}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := invoke(t, cc, "x"); err != nil {
			t.Fatal(err)
		}
		if got := len(logs.TakeAll()) == 1; got != all {
			t.Errorf("all is %t, logged is %t", all, got)
		}
	}
	err := s.SetAccessLog(server.AccessLog{MaxPerSecond: -1})
	if err == nil || err.Error() != "changing the access log: max_per_second: -1 is negative; use 0 for no bound" {
		t.Errorf("error = %v", err)
	}
}

func TestStreamsThatEndWithTheServerAreNoFaults(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.DefaultAccessLog())
	s := start(t, p, &echo{chat: echoAll})
	cs := open(t, dial(t, s), bidiMethod)
	if err := stop(t, s, 0, 10*time.Second); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	if logs.FilterMessage("call failed").Len() != 0 {
		t.Errorf("log: %v", logs.All())
	}
}
