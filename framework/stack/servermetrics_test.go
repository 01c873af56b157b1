package stack_test

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestRefusedCallsAreCountedByMethodAndReason(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Callees = []string{service}
	p.Config.Server.RateLimits = map[string]server.RateLimit{"*": {Rate: 0.0001, Burst: 1}}
	s := build(t, p)
	up(t, s)
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	if err := callTo(t, s, service); status.Code(err) != codes.Unavailable {
		t.Fatalf("a call beyond the limit of the only instance ends with %v", err)
	}
	const method = " /grpc.testing.TestService/EmptyCall"
	m := metrics(t, s)
	if n := m["newsvc_server_refused_total"+method+" rate_limit"]; n < 1 || n > 4 {
		t.Errorf("%v refusals are counted, want 1 to 4: the client repeats such calls within their deadline", n)
	}
	for _, name := range []string{"newsvc_server_refused_total" + method + " overload", "newsvc_server_shedding_bound" + method, "newsvc_server_shedding_in_flight" + method} {
		if n, told := m[name]; n != 0 || !told {
			t.Errorf("%s is %v, told: %v; want 0", name, n, told)
		}
	}
}

func TestRateLimitsAreReadFromTheConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := "server:\n  rate_limits:\n    /user.v1.UserService/CreateUser: {rate: 10, burst: 20}\n    \"*\": {rate: 1000, per_caller: true}\n"
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, cfg, err := stack.LoadConfig(config.Sources{Service: service, Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]server.RateLimit{"/user.v1.UserService/CreateUser": {Rate: 10, Burst: 20}, "*": {Rate: 1000, PerCaller: true}}
	for key, limit := range want {
		if got := cfg.Server.RateLimits[key]; got != limit {
			t.Errorf("%s is %+v, want %+v", key, got, limit)
		}
	}
}
