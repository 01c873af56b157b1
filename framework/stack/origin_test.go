package stack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestALimitThatFiresSaysWhereItWasSet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		yaml   string
		env    []string
		args   []string
		callee string // user-service unless said
		want   string
	}{
		"in the file":            {yaml: "clients:\n  user-service:\n    timeout: 50ms\n", want: "50ms (clients.user-service.timeout, from config.yaml:3)"},
		"in the file, for all":   {yaml: "clients:\n  defaults:\n    timeout: 50ms\n", want: "50ms (clients.user-service.timeout, from clients.defaults (config.yaml:3))"},
		"in the environment":     {env: []string{"GATEWAY__CLIENTS__USER_SERVICE__TIMEOUT=50ms"}, want: "50ms (clients.user-service.timeout, from env GATEWAY__CLIENTS__USER_SERVICE__TIMEOUT)"},
		"as a flag":              {args: []string{"--set", "clients.user-service.timeout=50ms"}, want: "50ms (clients.user-service.timeout, from --set)"},
		"the last of them wins":  {yaml: "clients:\n  user-service:\n    timeout: 1h\n", args: []string{"--set", "clients.user-service.timeout=50ms"}, want: "(clients.user-service.timeout, from --set)"},
		"for an unforeseen name": {args: []string{"--set", "clients.defaults.timeout=50ms"}, callee: "other-service", want: "50ms (clients.defaults.timeout, from --set)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := settled(t, c.yaml, c.env, c.args, c.callee).EmptyCall(t.Context(), &testpb.Empty{})
			if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v; want the limit %q", err, c.want)
			}
		})
	}
	_, err := settled(t, "clients:\n  user-service:\n    open_timeout: 50ms\n", nil, nil, "").StreamingInputCall(t.Context())
	if want := "(clients.user-service.open_timeout, from config.yaml:3"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v; want the limit %q", err, want)
	}
}

// settled is a client of a service that has no instances, with settings from these layers.
func settled(t *testing.T, yaml string, env, args []string, callee string) testpb.TestServiceClient {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, cfg, err := stack.LoadConfig(config.Sources{Service: "gateway", Dir: dir, Environ: env, Args: args}, []string{service})
	if err != nil {
		t.Fatal(err)
	}
	p, _, _ := params(t)
	cfg.Admin.Enabled = false
	p.Service, p.Serves, p.Callees, p.Config, p.Settings = "gateway", false, []string{service}, cfg, settings
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if callee == "" {
		callee = service
	}
	conn, err := s.Clients().Conn(callee)
	if err != nil {
		t.Fatal(err)
	}
	return testpb.NewTestServiceClient(conn)
}
