package apptest

import (
	"context"
	"sync"
	"sync/atomic"

	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/app"
)

// Instance is one instance of a service. Its methods may be called from any goroutine; those that change something have
// changed it when they return, and what callers make of that they find out as in production.
type Instance struct {
	apps    *Apps
	service string
	addr    string // empty for one that serves no gRPC
	fx      *fx.App
	stack   *app.Stack
	log     *logBuffer
	spans   *spanRecorder

	killed, hidden atomic.Bool
	shown          atomic.Bool // the log is in a failure already
	stopping       sync.Once
}

func (i *Instance) start(s *ServiceOption) {
	t := i.apps.t
	t.Helper()
	i.fx = fx.New(
		fx.NopLogger,
		fx.Supply(i.apps.environment(i, s.settings)),
		app.Module(s.name, s.opts...),
		fx.Populate(&i.stack),
	)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := i.fx.Err()
	if err == nil {
		err = i.fx.Start(ctx)
	}
	if err != nil {
		i.shown.Store(true)
		t.Fatalf("apptest: service %q does not start: %v\n%s", i.service, err, i.log)
	}
	t.Cleanup(i.end)
	if err := waitServing(ctx, i.stack); err != nil {
		i.shown.Store(true)
		t.Fatalf("apptest: service %q is not ready: %v\n%s", i.service, err, i.log)
	}
	if server := i.stack.Server(); server != nil {
		i.addr = server.Addr()
	}
}

// end stops the app, once.
func (i *Instance) end() {
	i.stopping.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := i.fx.Stop(ctx); err != nil && !i.killed.Load() {
			i.apps.t.Errorf("apptest: service %q does not stop cleanly: %v", i.service, err)
		}
	})
}

// show prints the log when the test has failed.
func (i *Instance) show() {
	if t := i.apps.t; t.Failed() && !i.shown.Load() {
		if text := i.log.String(); text != "" {
			t.Logf("apptest: %q, instance %q, logged:\n%s", i.service, i.addr, text)
		}
	}
}

// Addr is the address under which the instance serves, in memory one that only this test can reach. The header metadata
// "newsvc-instance" of each answer says the address of the instance that gave it.
func (i *Instance) Addr() string { return i.addr }

// Stop stops the instance gracefully, as a signal would: it leaves the registry, finishes its calls and closes what it had
// opened.
func (i *Instance) Stop() { i.end() }

// Kill ends the instance as kill -9 does: its connections break in the middle of calls, nobody answers at its address any more,
// and it stays in the registry until [Instance.Expire]. What its constructors opened is closed, so that nothing outlives
// the test. Not with [WithEtcd].
func (i *Instance) Kill() {
	i.apps.t.Helper()
	if !i.breakable("Kill") || !i.killed.CompareAndSwap(false, true) {
		return
	}
	i.apps.memory.Orphan(i.service, i.addr)
	i.apps.net.cut(i.addr)
	i.end()
}

// Expire takes an instance that was killed out of the registry, as the end of its lease does.
func (i *Instance) Expire() {
	i.apps.t.Helper()
	switch {
	case !i.breakable("Expire"):
	case !i.killed.Load():
		i.apps.t.Fatalf("apptest: the lease of %q of service %q does not end while it lives; use Kill first, or Hide", i.addr, i.service)
	default:
		i.apps.memory.Drop(i.service, i.addr)
	}
}

// Hide takes the instance out of the registry although it lives and serves, as a fault of the registry would, until
// [Instance.Show]. Callers that know it keep it for a while: see discovery.guard. Not with [WithEtcd].
func (i *Instance) Hide() {
	i.apps.t.Helper()
	if i.breakable("Hide") && i.hidden.CompareAndSwap(false, true) {
		i.apps.memory.Drop(i.service, i.addr)
	}
}

// Show ends [Instance.Hide].
func (i *Instance) Show() {
	i.apps.t.Helper()
	if i.breakable("Show") && i.hidden.CompareAndSwap(true, false) {
		i.apps.memory.Return(i.service, i.addr)
	}
}

func (i *Instance) breakable(what string) bool {
	i.apps.t.Helper()
	if i.apps.memory == nil {
		i.apps.t.Fatalf("apptest: %s can't be done to an instance on a real etcd; leave WithEtcd out, or use Stop", what)
	}
	if i.addr == "" {
		i.apps.t.Fatalf("apptest: %s: service %q serves no gRPC, so nobody knows its instances; give it an app.Serve", what, i.service)
	}
	return i.apps.memory != nil && i.addr != ""
}

// broken reports whether callers can't be expected to be connected to it though it is registered.
func (i *Instance) broken() bool { return i.killed.Load() }
