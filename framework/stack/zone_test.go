package stack_test

import (
	"strings"
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/stack"
)

func TestCallsStayInTheZoneOfTheRegistrationAndThePageSaysWhoIsInReserve(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Registration.Zone = "a"
	near := build(t, p)
	up(t, near)
	p.Config.Registration.Zone = "b"
	up(t, build(t, p))
	caller, _, _ := params(t)
	caller.Service, caller.Serves, caller.Callees = "gateway", false, []string{service}
	caller.Replace = stack.Replace{Source: reg, Registrar: reg}
	caller.Config.Registration.Zone = "a"
	caller.Config.ClientDefaults.Zone.Prefer = true
	s := build(t, caller)
	up(t, s)
	conn, err := s.Clients().Conn(service)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.WaitInstances(limit(t), 2); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := testpb.NewTestServiceClient(conn).EmptyCall(limit(t), &testpb.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	addr, _, _ := near.Addresses()
	for _, i := range read(t, s).Callees[0].Instances {
		if own := i.Addr == addr; i.Used != own || strings.HasPrefix(i.Note, "in reserve: ") == own {
			t.Errorf("%+v", i)
		}
	}
}
