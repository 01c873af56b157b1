package stack_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

// linesOf are the messages of the log by what they are about: a registration, a watched service, a callee.
func linesOf(logs *observer.ObservedLogs) map[string][]string {
	of := map[string][]string{}
	for _, e := range logs.All() {
		f, about := e.ContextMap(), "other"
		for _, k := range []string{"key", "callee"} {
			if v, ok := f[k].(string); ok {
				about = k + " " + v
			}
		}
		if callee, ok := f["callee"].(string); ok && e.LoggerName == "discovery" {
			about = "watch " + callee
		}
		of[about] = append(of[about], e.LoggerName+": "+e.Message)
	}
	return of
}

// Who reads the log of an outage wants to see when it began and when it ended, not each attempt.
func TestALongOutageOfEtcdIsTwoLinesInTheLog(t *testing.T) {
	t.Parallel()
	cfg := devetcd.Config{Fast: true, Dir: t.TempDir()}
	etcd, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ClientAddr = etcd.Addr()
	core, logs := observer.New(zapcore.InfoLevel)
	s := serveOn(t, etcd, func(p *stack.Params) {
		p.Log = zap.New(core)
		p.Callees = []string{service}
		p.Config.Registration.TTL = 5 * time.Second
		p.Config.Etcd.CallTimeout = 200 * time.Millisecond
	})
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	_ = logs.TakeAll()
	addr, _, _ := s.Addresses()
	registration, watch := "key "+discovery.Key(discovery.DefaultPrefix, service, addr), "watch "+service
	if err := etcd.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the begin of the outage", func() bool { return len(linesOf(logs)[registration]) > 0 && len(linesOf(logs)[watch]) > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // many attempts of everybody
	<-ctx.Done()
	cancel()
	if of := linesOf(logs); len(of[registration]) != 1 || len(of[watch]) != 1 || len(of["other"]) > 0 {
		t.Errorf("the log of the outage: %v", of)
	}
	m := metrics(t, s)
	if m["newsvc_registration_registered"] != 0 || m["newsvc_discovery_staleness_seconds user-service"] < 3 || m["newsvc_discovery_watch_lag_seconds user-service"] < 3 {
		t.Errorf("metrics in the outage: %v", m)
	}
	if etcd, err = devetcd.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	eventually(t, "the end of the outage", func() bool { return len(linesOf(logs)[registration]) > 1 && len(linesOf(logs)[watch]) > 1 })
	if of := linesOf(logs); len(of[registration]) != 2 || len(of[watch]) != 2 {
		t.Errorf("the log of the outage: %v", of)
	}
	if m := metrics(t, s); m["newsvc_registration_registered"] != 1 || m["newsvc_discovery_staleness_seconds user-service"] != 0 {
		t.Errorf("metrics after the outage: %v", m)
	}
}

// A process may start long before its etcd does.
func TestAStartWithoutEtcdIsTwoLinesInTheLog(t *testing.T) {
	t.Parallel()
	cfg := devetcd.Config{Fast: true, Dir: t.TempDir(), ClientAddr: reserved(t)}
	p, _, _ := params(t)
	core, logs := observer.New(zapcore.InfoLevel)
	p.Replace, p.Callees, p.Log = stack.Replace{}, []string{service}, zap.New(core)
	p.Config.Etcd.Endpoints, p.Config.Etcd.CallTimeout = []string{cfg.ClientAddr}, 200*time.Millisecond
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, _, _ := s.Addresses()
	registration, watch := "key "+discovery.Key(discovery.DefaultPrefix, service, addr), "watch "+service
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // many attempts of everybody
	<-ctx.Done()
	cancel()
	if of := linesOf(logs); len(of[registration]) != 1 || len(of[watch]) != 1 || len(of["callee "+service]) != 0 {
		t.Errorf("the log before etcd is there: %v", of)
	}
	if m := metrics(t, s); m["newsvc_registration_registered"] != 0 || m["newsvc_registrations_total"] != 0 || m["newsvc_discovery_staleness_seconds user-service"] < 2 {
		t.Errorf("metrics before etcd is there: %v", m)
	}
	etcd, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	eventually(t, "a call, and both ends in the log", func() bool {
		of := linesOf(logs)
		return callTo(t, s, service) == nil && len(of[registration]) > 1 && len(of[watch]) > 1
	})
	if of := linesOf(logs); len(of[registration]) != 2 || len(of[watch]) != 2 || len(of["callee "+service]) > 2 {
		t.Errorf("the log once etcd is there: %v", of)
	}
}
