package app_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"go.uber.org/fx"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/app"
)

type impl struct {
	testpb.UnimplementedTestServiceServer
}

func newImpl() impl { return impl{} }

func (impl) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

type store struct{}

func (*store) Close() error { say("store closed"); return nil }

func newStore() *store { return &store{} }

type index struct{}

func (index) Close(context.Context) error { say("index closed"); return errors.New("index is broken") }

func newIndex(*store) index { return index{} }

func needStore(*store) http.Handler { return http.NotFoundHandler() }

func needIndex(index) http.Handler { return http.NotFoundHandler() }

func failStore() (*store, error) { return nil, errors.New("no such disk") }

type egg struct{}
type hen struct{}

func newEgg(hen) egg { return egg{} }
func newHen(egg) hen { return hen{} }

func needEgg(egg) http.Handler { return http.NotFoundHandler() }

// say writes a line that the test waits for.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		say("request began")
		<-r.Context().Done()
	})
	return m
}

type worker func(context.Context) error

func (w worker) Run(ctx context.Context) error { return w(ctx) }

func work(f func(context.Context) error) func() worker { return func() worker { return f } }

func run(opts ...fx.Option) func() { return func() { app.Run("my-service", opts...) } }

var serve = app.Serve(testpb.RegisterTestServiceServer, newImpl)

// programs are the mains of services that the tests run.
func programs() map[string]func() {
	return map[string]func(){
		"idle":   run(),
		"server": run(serve),
		"all": run(serve, app.HTTP(mux), app.Provide(newStore), fx.Invoke(func(*store) {}),
			app.Worker("beat", work(func(ctx context.Context) error { say("worker began"); <-ctx.Done(); say("worker ended"); return nil }))),
		"order": run(app.Provide(newIndex), app.HTTP(needIndex), app.Provide(newStore)),
		"slow hook": run(serve, app.Provide(newStore), fx.Invoke(func(lc fx.Lifecycle, _ *store) {
			lc.Append(fx.Hook{OnStop: func(context.Context) error { say("first hook stopped"); return nil }})
			lc.Append(fx.StartHook(func(ctx context.Context) error { say("hook began"); <-ctx.Done(); return ctx.Err() }))
		})),
		"deaf hook": run(app.Provide(newStore), fx.Invoke(func(lc fx.Lifecycle, _ *store) {
			lc.Append(fx.StartHook(func() { say("hook began"); select {} }))
		})),
		"deaf stop hook": run(app.Provide(newStore), fx.Invoke(func(lc fx.Lifecycle, _ *store) {
			lc.Append(fx.StopHook(func() { say("hook began"); select {} }))
		})),
		"panicking hook": run(app.Provide(newStore), fx.Invoke(func(lc fx.Lifecycle, _ *store) {
			lc.Append(fx.StartHook(func() { panic("hook trouble") }))
		})),
		"deaf constructor": run(app.HTTP(func() http.Handler { say("constructor began"); select {} })),
		"slow callee":      run(serve, app.Provide(newStore), fx.Invoke(func(*store) {}), app.Client("user-service", testpb.NewTestServiceClient)),
		"failing worker":   run(serve, app.Worker("beat", work(func(context.Context) error { return errors.New("heart stopped") }))),
		"panicking worker": run(serve, app.Worker("beat", work(func(context.Context) error { panic("heart trouble") }))),
		"deaf worker":      run(serve, app.Worker("beat", work(func(context.Context) error { select {} }))),
		"shutdown": run(serve, fx.Invoke(func(lc fx.Lifecycle, s fx.Shutdowner) {
			lc.Append(fx.StartHook(func() error { return s.Shutdown(fx.ExitCode(3)) }))
		})),
		"invoke":          run(app.Provide(newStore), fx.Invoke(func(*store) error { return errors.New("wrong invoke") })),
		"side effects":    run(serve, app.Config("user", struct{}{}), app.Client("user-service", testpb.NewTestServiceClient), app.Provide(func() *store { say("constructed"); return nil }), app.HTTP(needStore), fx.Invoke(func(*store) { say("invoked") })),
		"refused address": run(serve, app.Provide(newStore), fx.Invoke(func(*store) {})),

		"missing":           run(app.HTTP(needStore)),
		"missing in plain":  run(fx.Provide(newIndex), app.HTTP(needIndex)),
		"constructor error": run(app.HTTP(needStore), app.Provide(failStore)),
		"plain error":       run(app.HTTP(needStore), fx.Provide(failStore)),
		"panic":             run(app.HTTP(needStore), app.Provide(func() *store { panic("no disk") })),
		"nil value":         run(app.HTTP(func() http.Handler { return nil })),
		"cycle":             run(app.HTTP(needEgg), app.Provide(newEgg), app.Provide(newHen)),
		"twice":             run(app.HTTP(needStore), app.Provide(newStore), fx.Provide(failStore)),
		"wrong kind":        run(app.Serve(testpb.RegisterTestServiceServer, newStore)),
		"two clients":       run(app.Client("user-service", testpb.NewTestServiceClient), app.Client("user-eu", testpb.NewTestServiceClient)),
		"reserved":          run(app.Config("server", struct{}{})),
		"no struct":         run(app.Config("user", 5)),
		"http twice":        run(app.HTTP(mux), app.HTTP(mux)),
		"arg range":         run(app.HTTP(needStore, app.Arg(1, "x"))),
		"arg in":            run(app.HTTP(func(struct{ fx.In }, string) http.Handler { return nil }, app.Arg(1, "x"))),
		"bad callee":        run(app.Client("User_Service", testpb.NewTestServiceClient)),
		"bad name":          func() { app.Run("My_Service", serve) },
		"nil serve":         run(app.Serve[testpb.TestServiceServer](nil, newImpl)),
		"nil client":        run(app.Client[testpb.TestServiceClient]("user-service", nil)),
		"nil http":          run(app.HTTP(nil)),
		"nil ready":         run(app.Ready("db", (func(context.Context) error)(nil))),
	}
}
