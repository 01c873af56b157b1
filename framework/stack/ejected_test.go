package stack_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestWhoIsEjectedIsVisible(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	up(t, build(t, p))
	p.ServerOptions = []server.Option{server.After(server.SlotAuthority, server.Interceptor{
		Name: "sick",
		Unary: func(_ context.Context, _ any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			return nil, status.Errorf(codes.Unavailable, "%s is broken here", info.FullMethod)
		},
	})}
	sick := build(t, p)
	up(t, sick)
	addr, _, _ := sick.Addresses()
	caller, _, _ := params(t)
	caller.Service, caller.Serves, caller.Callees = "gateway", false, []string{service}
	caller.Replace = stack.Replace{Source: reg, Registrar: reg}
	e := &caller.Config.ClientDefaults.Ejection
	e.BaseTime, e.MaxTime = time.Hour, time.Hour
	s := build(t, caller)
	up(t, s)
	conn, err := s.Clients().Conn(service)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.WaitInstances(limit(t), 2); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		_, _ = testpb.NewTestServiceClient(conn).EmptyCall(limit(t), &testpb.Empty{})
	}
	m := metrics(t, s)
	if m["newsvc_client_ejected_instances user-service"] != 1 || m["newsvc_client_ejections_total user-service"] != 1 {
		t.Errorf("metrics %v", m)
	}
	for _, i := range read(t, s).Callees[0].Instances {
		want := ""
		if i.Addr == addr {
			want = "takes no calls: ejected until " + i.EjectedUntil.Format(time.TimeOnly) + " (in "
		}
		if i.Used != (i.Addr != addr) || !strings.HasPrefix(i.Note, want) || want == "" && i.Note != "" {
			t.Errorf("%+v", i)
		}
		if out := i.Addr == addr; out != (i.Ejected == "sentence") || out != strings.Contains(i.EjectedFor, "calls in a row failed") ||
			out == i.EjectedSince.IsZero() || out && i.EjectedUntil.Sub(i.EjectedSince) < 50*time.Minute {
			t.Errorf("%+v", i)
		}
	}
	if _, text := look(t, s, "?format=text"); !strings.Contains(text, "takes no calls: ejected until ") {
		t.Errorf("the page for people:\n%s", text)
	}
}
