package stack_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/stack"
)

// How fast etcd notices the death of many does not matter: the key is there, and nobody is harmed.
func TestA24CallersDoNotWaitForTheLeasesOfTheDead(t *testing.T) {
	t.Parallel()
	reg := discoverytest.NewRegistry()
	for range 3 {
		reg.Put(&discovery.Instance{Service: service, Addr: reserved(t)})
	}
	replica(t, reg, impl{})
	client := clientOf(t, calling(t, stack.Replace{Source: reg, Registrar: reg}, nil))
	for n := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := client.EmptyCall(ctx, &testpb.Empty{})
		cancel()
		if err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	if n := len(reg.Instances(service)); n != 4 {
		t.Errorf("%d instances are registered, want the dead ones, too", n)
	}
}

func TestA28WhoIsRegisteredCanServe(t *testing.T) {
	t.Parallel()
	t.Run("slow to get ready", func(t *testing.T) {
		t.Parallel()
		p, reg, _ := params(t)
		s := build(t, p)
		db := s.Readiness().Condition("db")
		client := clientOf(t, calling(t, stack.Replace{Source: reg, Registrar: reg}, nil))
		first := make(chan error, 1)
		go func() { _, err := client.EmptyCall(limit(t), &testpb.Empty{}); first <- err }() // waits for the first instance
		if err := errors.Join(s.Connect(t.Context()), s.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		slow, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		<-slow.Done()
		if n := len(reg.Instances(service)); n != 0 {
			t.Error("it is registered before it is ready")
		}
		db.Set(nil)
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
	t.Run("its port is taken", func(t *testing.T) {
		t.Parallel()
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p, reg, _ := params(t)
		p.Config.Server.Listen = l.Addr().String()
		s := build(t, p)
		if err := s.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err == nil {
			t.Error("it started")
		}
		if reg.Revision() != 0 {
			t.Error(fmt.Sprint("the registry was written: ", reg.Instances(service)))
		}
	})
}
