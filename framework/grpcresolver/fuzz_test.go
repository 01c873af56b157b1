package grpcresolver_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// FuzzTarget looks for targets that break or block a builder, or that are built though they name no service.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{
		"etcd://gateway/user-service", "etcd:///user-service", "etcd:user-service", "etcd://gateway/", "etcd://gateway", "etcd://gateway/User",
		"etcd://gateway/user-service/x", "etcd://gateway//user-service", "etcd://gateway/user-service?x=y#z", "ETCD://gateway/user-service",
		"etcd://a@b:1/user%2Dservice", "etcd:////user-service", "etcd://gateway/%00", "://", "", "user-service", "etcd://[::1/user-service",
	} {
		f.Add(seed)
	}
	src, err := discovery.NewStatic(&discovery.Instance{Service: "user-service", Addr: "127.0.0.1:1"})
	if err != nil {
		f.Fatal(err)
	}
	c := newCache(f, src)
	b := grpcresolver.NewBuilder(c, grpcresolver.Options{Patience: time.Hour})
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := url.Parse(text); err == nil {
			tryBuild(t, b, *u)
		}
		// The same through gRPC, whose own parsing must not get in between.
		conn, err := grpc.NewClient(text, grpc.WithResolvers(b), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err == nil {
			_ = conn.Close()
		}
	})
}

func tryBuild(t *testing.T, b resolver.Builder, u url.URL) {
	t.Helper()
	target := resolver.Target{URL: u}
	_ = b.(resolver.AuthorityOverrider).OverrideAuthority(target)
	begin := time.Now()
	r, err := b.Build(target, newStub(), resolver.BuildOptions{})
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Build of %q took %v", u.String(), took)
	}
	valid := discovery.CheckService(target.Endpoint()) == nil
	if err != nil {
		if _, isStatus := status.FromError(err); isStatus && status.Code(err) != codes.Unknown {
			t.Errorf("Build of %q: a status, which would end calls that wait: %v", u.String(), err)
		}
		if valid || !strings.Contains(err.Error(), "etcd://caller/callee") || errors.Unwrap(err) == nil {
			t.Errorf("Build of %q: %v", u.String(), err)
		}
		return
	}
	r.ResolveNow(resolver.ResolveNowOptions{})
	r.Close()
	if !valid {
		t.Errorf("Build of %q took %q for a service", u.String(), target.Endpoint())
	}
}
