package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server"
)

// slowly is so rare that no second call comes to it during a test.
const slowly = 0.0001

func rateLimited(t *testing.T, limits map[string]server.RateLimit, caller func(context.Context) string) *grpc.ClientConn {
	t.Helper()
	p := params()
	p.Config.RateLimits, p.Caller = limits, caller
	return dial(t, start(t, p, &echo{chat: echoAll}))
}

// taken is how many of so many calls are answered; the others must be refused unprocessed.
func taken(t *testing.T, cc *grpc.ClientConn, calls int, header ...string) int {
	t.Helper()
	answered := 0
	for range calls {
		ctx := metadata.AppendToOutgoingContext(t.Context(), header...)
		switch err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)); {
		case err == nil:
			answered++
		case !notprocessed.Is(err):
			t.Fatalf("a call ended with %v, want an answer or NOT_PROCESSED", err)
		}
	}
	return answered
}

func TestTheNearestRateLimitHolds(t *testing.T) {
	t.Parallel()
	small, large := server.RateLimit{Rate: slowly, Burst: 2}, server.RateLimit{Rate: slowly, Burst: 5}
	for name, tc := range map[string]struct {
		limits map[string]server.RateLimit
		want   int
	}{
		"none":                     {nil, 10},
		"every method":             {map[string]server.RateLimit{"*": small}, 2},
		"of the service":           {map[string]server.RateLimit{"*": small, "/test.Echo/*": large}, 5},
		"of the method":            {map[string]server.RateLimit{"*": small, "/test.Echo/*": small, unaryMethod: large}, 5},
		"another method's":         {map[string]server.RateLimit{bidiMethod: small}, 10},
		"burst is a second's":      {map[string]server.RateLimit{"*": {Rate: 0.001}}, 1},
		"what is fast enough goes": {map[string]server.RateLimit{"*": {Rate: 1e6}}, 10},
	} {
		if got := taken(t, rateLimited(t, tc.limits, nil), 10); got != tc.want {
			t.Errorf("%s: %d of 10 calls were answered, want %d", name, got, tc.want)
		}
	}
}

func TestMethodsOfOneEntryShareIt(t *testing.T) {
	t.Parallel()
	cc := rateLimited(t, map[string]server.RateLimit{"/test.Echo/*": {Rate: slowly, Burst: 2}}, nil)
	open(t, cc, bidiMethod)
	if got := taken(t, cc, 5); got != 1 {
		t.Errorf("after a stream %d calls were answered, want 1 of the 2 that both share", got)
	}
	cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); !notprocessed.Is(err) {
		t.Errorf("a stream too many ended with %v, want NOT_PROCESSED", err)
	}
}

func TestRateLimitRefillsAndSaysWhen(t *testing.T) {
	t.Parallel()
	cc := rateLimited(t, map[string]server.RateLimit{unaryMethod: {Rate: 5, Burst: 1}}, nil)
	taken(t, cc, 1)
	var trailer metadata.MD
	err := cc.Invoke(t.Context(), unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue), grpc.Trailer(&trailer))
	if err == nil {
		t.Skip("the machine took longer for a call than the limit") // 200 ms
	}
	wait := notprocessed.Wait(err)
	if !strings.Contains(err.Error(), `this instance takes 5 calls per second of "/test.Echo/Call"`) || wait <= 0 || wait > 200*time.Millisecond {
		t.Errorf("the refusal is %v, with a wait of %s", err, wait)
	}
	if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 {
		t.Errorf("gRPC's retries are told %q", got)
	}
	timer := time.NewTimer(wait + 50*time.Millisecond)
	defer timer.Stop()
	<-timer.C
	if got := taken(t, cc, 1); got != 1 {
		t.Errorf("after %s there was no call free again", wait)
	}
}

func TestEachCallerHasARateOfItsOwn(t *testing.T) {
	t.Parallel()
	limits := map[string]server.RateLimit{"*": {Rate: slowly, Burst: 2, PerCaller: true}}
	cc := rateLimited(t, limits, func(ctx context.Context) string {
		return strings.Join(metadata.ValueFromIncomingContext(ctx, "who"), "")
	})
	for _, who := range []string{"ann", "bob"} {
		if got := taken(t, cc, 5, "who", who); got != 2 {
			t.Errorf("%d calls of %s were answered, want 2", got, who)
		}
	}
	if got := taken(t, rateLimited(t, limits, nil), 5); got != 2 {
		t.Errorf("%d calls from one address were answered, want 2", got)
	}
}

func TestRefusalsAreCountedAndNotLogged(t *testing.T) {
	t.Parallel()
	p := params()
	core, lines := observer.New(zap.DebugLevel)
	p.Log = zap.New(core)
	p.Config.RateLimits = map[string]server.RateLimit{"*": {Rate: slowly, Burst: 2}}
	s := start(t, p, &echo{})
	taken(t, dial(t, s), 7)
	if n := lines.FilterMessage("call failed").Len(); n > 0 {
		t.Errorf("the access log has %d of them", n)
	}
	for _, r := range s.Refusals() {
		if want := map[string]int64{unaryMethod: 5}[r.Method]; r.Limited != want || r.Shed != 0 {
			t.Errorf("%+v, want %d limited", r, want)
		}
	}
}

func TestLimitsOfWhatIsNotServedAreErrorsOfTheStart(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"/test.Echo/Cal":  `server.rate_limits: "/test.Echo/Cal" is not served here; did you mean /test.Echo/Call`,
		"/test.Ecko/Call": `did you mean /test.Echo/Call`,
		"/other.Thing/*":  `is not served here; served are for example /test.Echo/*, /test.Echo/Call,`,
	} {
		p := params()
		p.Config.RateLimits = map[string]server.RateLimit{key: {Rate: 1}}
		s := build(t, p)
		s.RegisterService((&echo{}).desc(), nil)
		if err := s.Listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", key, err, want)
		}
	}
	for want, limits := range map[string]map[string]server.RateLimit{
		`rate_limits: "Call" is no method; write "/package.Service/Method"`: {"Call": {Rate: 1}},
		`rate_limits: "/x/y/z" is no method`:                                {"/x/y/z": {Rate: 1}},
		`rate_limits: "/*/y" is no method`:                                  {"/*/y": {Rate: 1}},
		`rate_limits.*.rate: 0 is no rate`:                                  {"*": {}},
		`rate_limits.*.burst: -1 is negative`:                               {"*": {Rate: 1, Burst: -1}},
	} {
		p := params()
		p.Config.RateLimits = limits
		if _, err := server.New(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want it to contain %q", err, want)
		}
	}
}
