package grpcresolver_test

import (
	"errors"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

func TestACalleeWithoutInstancesIsToldOnceAndSoIsItsReturn(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := cache.New(r, cache.Options{HoldTTL: -1})
	t.Cleanup(c.Close)
	core, logs := observer.New(zap.InfoLevel)
	missing := make(chan string, 10)
	cc, _ := build(t, c, grpcresolver.Options{Log: zap.New(core), Missing: func(callee string) { missing <- callee }})
	if got := <-missing; got != callee {
		t.Errorf("missing %q", got)
	}
	for n := range 3 { // each time with news, and none of it is any
		r.SetErr(errors.New("away"))
		cc.wait(t, "the outage", func(_ []resolver.State, errs []error) bool { return len(errs) > 2*n+1 })
		r.SetErr(nil)
		cc.wait(t, "its end", func(_ []resolver.State, errs []error) bool { return len(errs) > 2*n+2 })
	}
	r.Put(instance("10.0.0.1:9000"))
	cc.wait(t, "the instance", func(states []resolver.State, _ []error) bool { return len(states) > 0 })
	if n := logs.Len(); n != 2 {
		t.Errorf("%d lines, want one for the want and one for its end: %v", n, logs.All())
	}
	r.DropAll(callee)
	if got := <-missing; got != callee || logs.FilterMessage("the callee has no instances").Len() != 2 {
		t.Errorf("missing %q again, and the log says %v", got, logs.All())
	}
}
