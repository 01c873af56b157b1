package client_test

import (
	"context"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
)

// startIll is a server whose calls fail, and whose health service does so until well is set.
func startIll(t *testing.T) (s *server, well *atomic.Bool) {
	t.Helper()
	well = &atomic.Bool{}
	fail := func(*server, string, string, grpc.ServerStream) error { return status.Error(codes.Unavailable, "sick") }
	return startServer(t, "127.0.0.1:0", fail, grpc.UnaryInterceptor(
		func(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if info.FullMethod == healthpb.Health_Check_FullMethodName && !well.Load() {
				return nil, status.Error(codes.Internal, "the disk is full")
			}
			return next(ctx, in)
		})), well
}

func TestAnEjectedInstanceTellsHowFarItIsOnItsWayBack(t *testing.T) {
	t.Parallel()
	ill, well := startIll(t)
	c := connect(t, newRegistry(ill.addr, startPatient(t).addr, startPatient(t).addr), func(p *client.Policy) {
		p.Ejection.BaseTime, p.Ejection.MaxTime = 2*time.Second, 2*time.Second
	})
	eventually(t, "all take calls", func() bool { return allIn(c, 3) })
	state := func() client.EndpointState {
		for _, e := range c.Endpoints() {
			if e.Addr == ill.addr {
				return e
			}
		}
		return client.EndpointState{}
	}
	began := time.Now()
	for state().Ejection == nil && t.Context().Err() == nil {
		_, _ = call(t.Context(), c, methodPut) // that it fails is what is wanted
	}
	e := state()
	if e.Ejection.Phase != client.EjectionSentence || e.Ejection.Since.Before(began) || e.Ejection.ProbeError != "" ||
		!e.Ejection.Until.After(e.Ejection.Since) || e.Ejection.Until.Sub(e.Ejection.Since) > 2200*time.Millisecond {
		t.Errorf("just ejected: %+v", *e.Ejection)
	}
	says(t, e, `^ejected until `+e.Ejection.Until.Format(time.TimeOnly)+` \(in \d(\.\d)?s|\d+ms\): 3 calls in a row failed, the last with Unavailable$`)

	within(t, 30*time.Second, "its sentence is over and it is asked", func() bool { return state().Ejection.ProbeError != "" })
	e = state()
	if e.Ejection.Phase != client.EjectionProbing || !e.Ejection.Until.IsZero() || e.Ejection.ProbeError != "its health service fails: Internal: the disk is full" {
		t.Errorf("being probed: %+v", *e.Ejection)
	}
	says(t, e, `^ejected, being probed: its health service fails: Internal: the disk is full \(ejected \d+(\.\d)?s ago: 3 calls in a row failed, the last with Unavailable\)$`)

	well.Store(true) // and without calls nothing tries it
	within(t, 30*time.Second, "it is on trial", func() bool { e = state(); return e.Ejection == nil || e.Ejection.Phase == client.EjectionTrial })
	says(t, e, `^ejected, on trial: it answers its health probe and gets one call at a time \(ejected \d+(\.\d)?s ago: 3 calls in a row failed`)
	within(t, 30*time.Second, "it is let in, since nobody calls", func() bool { e = state(); return e.Ejection == nil && e.Ejected == "" })
}

func says(t *testing.T, e client.EndpointState, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(e.Ejected) {
		t.Errorf("it says %q, want %s", e.Ejected, pattern)
	}
}
