package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/internal/confined"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// marker is an interceptor that records when it is entered.
func marker(r *recorder, name string) server.Interceptor {
	return server.Interceptor{
		Name: name,
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			r.add(name)
			return h(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			r.add(name)
			return h(srv, ss)
		},
	}
}

func TestDefaultChain(t *testing.T) {
	t.Parallel()
	s := build(t, params())
	want := []string{server.SlotAccessLog, server.SlotRecovery, server.SlotAuthority, server.SlotDeadline, server.SlotShedding, server.SlotValidation}
	if got := s.Chain(); !slices.Equal(got, want) {
		t.Errorf("Chain = %q, want %q", got, want)
	}
}

func TestChainRunsInTheOrderItReports(t *testing.T) {
	t.Parallel()
	var r recorder
	p := params()
	p.Fill = map[string]server.Interceptor{}
	for _, slot := range []string{
		server.SlotTelemetry, server.SlotAccessLog, server.SlotRecovery, server.SlotAuthority, server.SlotDeadline, server.SlotShedding,
		server.SlotAuthentication, server.SlotRateLimit, server.SlotAuthorization, server.SlotValidation,
	} {
		p.Fill[slot] = marker(&r, slot)
	}
	p.Options = []server.Option{
		server.Before(server.SlotTelemetry, marker(&r, "outermost")),
		server.After(server.SlotShedding, marker(&r, "first after shedding")),
		server.After(server.SlotShedding, marker(&r, "second after shedding")),
		server.Before(server.SlotAuthentication, marker(&r, "before authentication")),
		server.After(server.SlotValidation, marker(&r, "innermost")),
	}
	s := start(t, p, &echo{chat: echoAll})
	want := []string{
		"outermost", "telemetry", "access_log", "recovery", "authority", "deadline", "shedding", "first after shedding",
		"second after shedding", "before authentication", "authentication", "rate_limit", "authorization", "validation", "innermost",
	}
	if got := s.Chain(); !slices.Equal(got, want) {
		t.Errorf("Chain = %q, want %q", got, want)
	}
	cc := dial(t, s)
	if _, err := invoke(t, cc, "x"); err != nil {
		t.Fatal(err)
	}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("a unary call went through %q, want %q", got, want)
	}
	open(t, cc, bidiMethod)
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("a stream went through %q, want %q", got, want)
	}
}

func TestOwnSlotsStandBetweenForeignOnes(t *testing.T) {
	t.Parallel()
	var r recorder
	p := params()
	p.Options = []server.Option{
		server.Before(server.SlotRecovery, marker(&r, "outside")),
		server.After(server.SlotAuthority, marker(&r, "inside")),
	}
	s := start(t, p, &echo{})
	if _, err := invoke(t, dial(t, s, grpc.WithAuthority("order-service")), "x"); status.Code(err) != codes.Unavailable {
		t.Fatalf("the call was answered with %v", err)
	}
	if got := r.take(); !slices.Equal(got, []string{"outside"}) {
		t.Errorf("entered %q, want the one outside of authority only", got)
	}
}

func TestSlotsAreSwitchedOffByName(t *testing.T) {
	t.Parallel()
	var r recorder
	p := params()
	p.Config.Chain = map[string]bool{server.SlotAuthority: false, server.SlotTelemetry: false, server.SlotValidation: true}
	p.Fill = map[string]server.Interceptor{server.SlotTelemetry: marker(&r, "telemetry")}
	s := start(t, p, &echo{})
	want := []string{server.SlotAccessLog, server.SlotRecovery, server.SlotDeadline, server.SlotShedding, server.SlotValidation}
	if got := s.Chain(); !slices.Equal(got, want) {
		t.Errorf("Chain = %q, want %q", got, want)
	}
	if _, err := invoke(t, dial(t, s, grpc.WithAuthority("order-service")), "x"); err != nil {
		t.Errorf("with authority off: %v", err)
	}
	if got := r.take(); len(got) > 0 {
		t.Errorf("telemetry ran although it is off: %q", got)
	}
}

func TestMistakesInTheChainAreErrors(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*server.Params){
		`chain: unknown slot "tracing"; the slots are telemetry, `: func(p *server.Params) { p.Config.Chain = map[string]bool{"tracing": false} },
		`placing interceptor "x" before slot "tracing"`: func(p *server.Params) {
			p.Options = []server.Option{server.Before("tracing", server.Interceptor{Name: "x"})}
		},
		`it has no name`: func(p *server.Params) {
			p.Options = []server.Option{server.After(server.SlotRecovery, server.Interceptor{})}
		},
		`filling slot "tracing"`:  func(p *server.Params) { p.Fill = map[string]server.Interceptor{"tracing": {}} },
		`"User" is no service`:    func(p *server.Params) { p.Service = "User" },
		`accept_names: "a.b" is`:  func(p *server.Params) { p.Config.AcceptNames = []string{"a.b"} },
		`listen: "9000" is no`:    func(p *server.Params) { p.Config.Listen = "9000" },
		`tls.key: not set`:        func(p *server.Params) { p.Config.TLS.Cert = "x.pem" },
		`limits.max_streams: 0`:   func(p *server.Params) { p.Config.Limits.MaxStreams = 0 },
		`limits.max_timeout: -1s`: func(p *server.Params) { p.Config.Limits.MaxTimeout = -time.Second },
		`limits.min_timeout: -1s`: func(p *server.Params) { p.Config.Limits.MinTimeout = -time.Second },
		`limits.answer_reserve: `: func(p *server.Params) { p.Config.Limits.AnswerReserve = -time.Second },
		`shedding.target: 0s`:     func(p *server.Params) { p.Config.Shedding.Target = 0 },
		`shedding.min_in_flight:`: func(p *server.Params) { p.Config.Shedding.MinInFlight = 0 },
		`drain.hard: 1s`:          func(p *server.Params) { p.Config.Drain.Hard = time.Second },
		`access_log.slow: -1s`:    func(p *server.Params) { p.Config.AccessLog.Slow = -time.Second },
	} {
		p := params()
		change(&p)
		if _, err := server.New(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want it to contain %q", err, want)
		}
	}
}

func TestPanicIsRecovered(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	p := params()
	p.Log = zap.New(core)
	p.LogContext = func(context.Context) zap.Field { return zap.String("trace_id", "t-1") }
	bomb := func(grpc.ServerStream) error { panic("secret of the stream") }
	s := start(t, p, &echo{
		call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			if in.GetValue() == "boom" {
				panic("secret of the call")
			}
			return in, nil
		},
		chat: bomb, watch: bomb,
	})
	cc := dial(t, s)
	_, err := invoke(t, cc, "boom")
	if status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" {
		t.Errorf("the caller got %v, want INTERNAL without details", err)
	}
	for _, m := range []string{bidiMethod, watchMethod} {
		cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, m)
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Internal {
			t.Errorf("%s: the caller got %v, want INTERNAL", m, err)
		}
	}
	if got, err := invoke(t, cc, "fine"); err != nil || got != "fine" {
		t.Errorf("the next call: %q, %v", got, err)
	}
	entries := logs.FilterMessage("a handler panicked").All()
	if len(entries) != 3 {
		t.Fatalf("%d lines logged, want 3", len(entries))
	}
	fields := entries[0].ContextMap()
	stack, _ := fields["stack"].(string)
	if fields["method"] != unaryMethod || fields["panic"] != "secret of the call" || fields["trace_id"] != "t-1" ||
		!strings.Contains(stack, "TestPanicIsRecovered") {
		t.Errorf("fields = %v, want method, value, trace and the stack of the handler", fields)
	}
}

func TestC10CallsForAnotherServiceAreRefused(t *testing.T) {
	t.Parallel()
	p := params()
	p.Config.AcceptNames = []string{"old-echo"}
	s := start(t, p, &echo{chat: echoAll})
	for authority, refused := range map[string]bool{
		"echo-service": false, "old-echo": false, "localhost": false, "order-service": true, "a": true, "a1-b2": true,
		"localhost:9000": false, "10.0.0.1": false, "10.0.0.1:9000": false, "[::1]:9000": false, "echo.example.com": false,
		"%2Ftmp%2Fsock": false, "Order-Service": false, "a--b": false, "-a": false, "a-": false, "1a": false, strings.Repeat("a", 51): false,
	} {
		cc := dial(t, s, grpc.WithAuthority(authority))
		_, err := invoke(t, cc, "x")
		if notprocessed.Is(err) != refused || (err != nil) != refused {
			t.Errorf("authority %q: error %v, want refused = %v", authority, err, refused)
		}
		if refused && (!strings.Contains(err.Error(), `"echo-service"`) || !strings.Contains(err.Error(), `"`+authority+`"`)) {
			t.Errorf("authority %q: error %v, want both names in it", authority, err)
		}
	}
	cs, err := dial(t, s, grpc.WithAuthority("order-service")).NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, bidiMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); !notprocessed.Is(err) {
		t.Errorf("a stream for another service: %v, want it refused", err)
	}
}

func TestARefusalThatAHandlerPassesOnIsNone(t *testing.T) {
	t.Parallel()
	refusal := fmt.Errorf("booking: %w", notprocessed.Error("a callee of ours drains"))
	foreign := server.After(server.SlotValidation, server.Interceptor{
		Name: "foreign",
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, req)
		},
	})
	for name, options := range map[string][]server.Option{"own chain": nil, "foreign end": {foreign}} {
		p := params()
		p.Options = options
		cc := dial(t, start(t, p, &echo{
			call:  func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) { return nil, refusal },
			watch: func(grpc.ServerStream) error { return refusal },
		}))
		_, err := invoke(t, cc, "x")
		wantPassedOn(t, name+", unary", err)
		cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, watchMethod)
		if err != nil {
			t.Fatal(err)
		}
		wantPassedOn(t, name+", stream", cs.RecvMsg(new(wrapperspb.StringValue)))
	}
}

func TestWhereACalleeWasLookedForIsNotToldToCallers(t *testing.T) {
	t.Parallel()
	nobody := confined.New(codes.Unavailable, "nobody is there", `nothing under "/newsvc/default"`)
	for name, passedOn := range map[string]error{"as it is": nobody, "wrapped": fmt.Errorf("booking: %w", nobody)} {
		cc := dial(t, start(t, params(), &echo{
			call:  func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) { return nil, passedOn },
			watch: func(grpc.ServerStream) error { return passedOn },
		}))
		_, unary := invoke(t, cc, "x")
		cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, watchMethod)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{unary, cs.RecvMsg(new(wrapperspb.StringValue))} {
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nobody is there") || strings.Contains(err.Error(), "/newsvc/") {
				t.Errorf("%s: callers are told %v", name, err)
			}
		}
	}
}

func wantPassedOn(t *testing.T, what string, err error) {
	t.Helper()
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "a callee of ours drains") {
		t.Errorf("%s: %v, want the callee's error", what, err)
	}
	if notprocessed.Is(err) {
		t.Errorf("%s: the error says that no handler ran, and the caller would repeat the call", what)
	}
}

func TestDeadlineIsCapped(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	p := params()
	p.Config.Limits.MaxTimeout = 30 * time.Second
	s := start(t, p, &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			return nil, errors.New("no deadline")
		}
		left <- time.Until(deadline)
		return in, nil
	}})
	cc := dial(t, s)
	for asked, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Hour: 30 * time.Second, 10 * time.Second: 10 * time.Second} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if asked > 0 {
			ctx, cancel = context.WithTimeout(ctx, asked)
		}
		err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if got := <-left; got > want || got < want-5*time.Second {
			t.Errorf("asked for %s: the handler had %s, want about %s", asked, got, want)
		}
	}
}

// users is a user service that accepts everything it is asked.
type users struct {
	userv1.UnimplementedUserServiceServer
}

func (users) GetUser(context.Context, *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
	return &userv1.GetUserResponse{}, nil
}

func TestMessagesThatBreakTheirRulesAreRefused(t *testing.T) {
	t.Parallel()
	s := build(t, params())
	userv1.RegisterUserServiceServer(s, users{})
	listenAndStart(t, s)
	client := userv1.NewUserServiceClient(dial(t, s))
	if _, err := client.GetUser(t.Context(), &userv1.GetUserRequest{Id: "u1"}); err != nil {
		t.Errorf("a valid message: %v", err)
	}
	_, err := client.GetUser(t.Context(), &userv1.GetUserRequest{Id: strings.Repeat("x", 65)})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
		t.Fatalf("error = %v with details %v, want INVALID_ARGUMENT with one", err, st.Details())
	}
	bad, ok := st.Details()[0].(*errdetails.BadRequest)
	if !ok || len(bad.GetFieldViolations()) != 1 {
		t.Fatalf("detail = %v, want a BadRequest with one violation", st.Details()[0])
	}
	v := bad.GetFieldViolations()[0]
	if v.GetField() != "id" || v.GetReason() != "string.max_len" || v.GetDescription() == "" {
		t.Errorf("violation = %v, want field id, reason string.max_len and a description", v)
	}
}

func TestStreamsAreValidatedMessageByMessage(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{chat: func(ss grpc.ServerStream) error {
		for {
			m := new(userv1.GetUserRequest)
			if err := ss.RecvMsg(m); err != nil {
				return err
			}
			if err := ss.SendMsg(m); err != nil {
				return err
			}
		}
	}})
	cs, err := dial(t, s).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, bidiMethod)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		id   string
		want codes.Code
	}{{"a", codes.OK}, {strings.Repeat("x", 64), codes.OK}, {strings.Repeat("x", 65), codes.InvalidArgument}} {
		if err := cs.SendMsg(&userv1.GetUserRequest{Id: tc.id}); err != nil {
			t.Fatal(err)
		}
		if err := cs.RecvMsg(new(userv1.GetUserRequest)); status.Code(err) != tc.want {
			t.Errorf("id of %d: %v, want %s", len(tc.id), err, tc.want)
		}
	}
}

func TestAccessLogHoldsFaultsAndSlowCalls(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	p := params()
	p.Log = zap.New(core)
	p.Config.AccessLog = server.AccessLog{Errors: true, Slow: 30 * time.Millisecond}
	s := start(t, p, &echo{
		call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			switch in.GetValue() {
			case "fault":
				return nil, errors.New("disk on fire")
			case "not found":
				return nil, status.Error(codes.NotFound, "no such thing")
			case "slow":
				ctx, cancel := context.WithTimeout(ctx, 40*time.Millisecond)
				defer cancel()
				<-ctx.Done()
			}
			return in, nil
		},
		chat: func(grpc.ServerStream) error { return status.Error(codes.DataLoss, "torn") },
	})
	cc := dial(t, s)
	for _, text := range []string{"fine", "fault", "not found", "slow"} {
		_, _ = invoke(t, cc, text) // the log is what matters here
	}
	cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, bidiMethod)
	if err != nil {
		t.Fatal(err)
	}
	_ = cs.RecvMsg(new(wrapperspb.StringValue))
	var got []string
	for _, e := range logs.All() {
		got = append(got, e.Message+" "+e.ContextMap()["method"].(string)+" "+e.ContextMap()["code"].(string))
	}
	want := []string{"call failed " + unaryMethod + " Unknown", "slow call " + unaryMethod + " OK", "call failed " + bidiMethod + " DataLoss"}
	if !slices.Equal(got, want) {
		t.Errorf("log = %q, want %q", got, want)
	}
}
