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

// TestRefusedCallsAreToldTogether calls more often than two limits allow until refusals of several seconds are told.
func TestRefusedCallsAreToldTogether(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{All: true, Errors: true}) // no bound for all lines together
	p.Config.RateLimits = map[string]server.RateLimit{unaryMethod: {Rate: 0.001, Burst: 1}, watchMethod: {Rate: 0.001, Burst: 1}}
	s := start(t, p, &echo{watch: func(ss grpc.ServerStream) error { return ss.SendMsg(wrapperspb.String("x")) }})
	cc := dial(t, s)
	if _, err := invoke(t, cc, "x"); err != nil {
		t.Fatal(err)
	}
	open(t, cc, watchMethod)
	refused := func() []map[string]any {
		var lines []map[string]any
		for _, e := range logs.FilterMessage("calls refused").All() {
			lines = append(lines, e.ContextMap())
		}
		return lines
	}
	want := map[string]int64{}
	began := time.Now()
	for len(refused()) < 5 && time.Since(began) < 20*time.Second {
		if _, err := invoke(t, cc, "x"); status.Code(err) != codes.Unavailable {
			t.Fatalf("%v, want it refused", err)
		}
		want[unaryMethod]++
		cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, watchMethod)
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
			t.Fatalf("%v, want it refused", err)
		}
		want[watchMethod]++
	}
	seconds := int(time.Since(began)/time.Second) + 2
	if err := stop(t, s, 0, 10*time.Second); err != nil {
		t.Error(err)
	}
	got, lines := map[string]int64{}, map[string]int{}
	for _, line := range refused() {
		method := line["method"].(string)
		got[method] += line["calls"].(int64)
		lines[method]++
		if line["reason"] != "rate_limit" || line["code"] != "Unavailable" || !strings.Contains(line["error"].(string), "calls per second of") {
			t.Errorf("line = %v", line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused calls that are told (-want +got):\n%s", diff)
	}
	for method, n := range lines {
		if n > seconds+1 { // and one of the stop
			t.Errorf("%s has %d lines within %d seconds", method, n, seconds)
		}
	}
	if n := logs.FilterMessage("call").Len() + logs.FilterMessage("call failed").Len(); n != 2 {
		t.Errorf("%d lines of single calls, want those of the two that were admitted: %v", n, logs.All())
	}
}

func TestTheRoomOfRefusedCallsIsThatOfAllLines(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{All: true, MaxPerSecond: 1})
	p.Config.RateLimits = map[string]server.RateLimit{unaryMethod: {Rate: 0.001, Burst: 1}}
	cc := dial(t, start(t, p, &echo{}))
	began, refused := time.Now(), int64(0)
	for time.Since(began) < 2*time.Second {
		if _, err := invoke(t, cc, "x"); err != nil {
			refused++
		}
	}
	if seconds := int(time.Since(began)/time.Second) + 2; logs.Len() > seconds {
		t.Errorf("%d lines within %d seconds", logs.Len(), seconds)
	}
	for _, e := range logs.FilterMessage("calls refused").All() {
		if n := e.ContextMap()["left_out"]; n != nil {
			t.Errorf("%v lines left out; refused calls are told of all the same", n)
		}
		refused -= e.ContextMap()["calls"].(int64)
	}
	if logs.FilterMessage("calls refused").Len() == 0 || refused < 0 {
		t.Errorf("%d refused calls too many in %v", -refused, logs.All())
	}
}

func TestRefusedCallsAreNotInALogOfFaults(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{Errors: true, Slow: time.Nanosecond})
	p.Config.RateLimits = map[string]server.RateLimit{unaryMethod: {Rate: 0.001, Burst: 1}}
	s := start(t, p, &echo{})
	cc := dial(t, s)
	for range 3 {
		_, _ = invoke(t, cc, "x") // the log is what matters here
	}
	if err := stop(t, s, 0, 10*time.Second); err != nil {
		t.Error(err)
	}
	if n := logs.Len(); n != 1 || logs.All()[0].Message != "slow call" {
		t.Errorf("log: %v, want the admitted call alone", logs.All())
	}
}

// A status message may quote what a caller sent, and a caller may send much.
func TestWhatAnErrorQuotesDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	p, logs := logged(server.AccessLog{All: true})
	cc := dial(t, start(t, p, &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return nil, status.Errorf(codes.NotFound, "there is no %s", in.GetValue())
	}}))
	_, err := invoke(t, cc, strings.Repeat("é", 3000))
	if len(status.Convert(err).Message()) < 6000 {
		t.Errorf("the caller got %d bytes, want all", len(status.Convert(err).Message()))
	}
	line := logs.All()[0].ContextMap()
	text := line["error"].(string)
	if !strings.HasPrefix(text, "rpc error: code = NotFound desc = there is no éé") || !strings.HasSuffix(text, "é...") || len(text) > 510 || len(text) < 490 {
		t.Errorf("error = %q", text)
	}
	if line["errorVerbose"] != nil {
		t.Errorf("line = %v", line)
	}
}
