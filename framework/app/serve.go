package app

import (
	"context"
	"errors"
	"net/http"
	"reflect"

	"go.uber.org/fx"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/stack"
)

// binding is one gRPC service that is offered.
type binding struct{ register func(grpc.ServiceRegistrar) }

// Serve offers a gRPC service. register is the generated function, for example userv1.RegisterUserServiceServer;
// constructor makes the implementation from its dependencies: a function that returns one value that implements S, and
// perhaps an error. That it does is checked before anything starts. A process with at least one Serve listens and, once
// it is ready, registers itself.
func Serve[S any](register func(grpc.ServiceRegistrar, S), constructor any, args ...ArgOption) fx.Option {
	if register == nil {
		return misuse("Serve", errNil)
	}
	c, err := parse(constructor, reflect.TypeFor[S](), args)
	if err != nil {
		return misuse("Serve", err)
	}
	turn := func(impl any) binding {
		return binding{func(r grpc.ServiceRegistrar) { register(r, impl.(S)) }}
	}
	return fx.Options(
		declare(stack.Declaration{Serves: true}),
		provide(c, turn, fx.ResultTags(bindingGroup)),
	)
}

// handler is what the HTTP listener serves.
type handler struct {
	where string
	http.Handler
}

// HTTP serves an [http.Handler] on the listener of the section "http"; the constructor makes it from its dependencies. A
// process has at most one; mount several on a mux of your own.
func HTTP(constructor any, args ...ArgOption) fx.Option {
	c, err := parse(constructor, reflect.TypeFor[http.Handler](), args)
	if err != nil {
		return misuse("HTTP", err)
	}
	turn := func(h any) handler { return handler{c.where, h.(http.Handler)} }
	return fx.Options(
		declare(stack.Declaration{HTTP: true}),
		provide(c, turn, fx.ResultTags(handlerGroup)),
	)
}

// Server adjusts the gRPC server beyond its configuration, for example with an interceptor of the service's own:
// app.Server(server.Before(server.SlotValidation, mine)).
func Server(opts ...stack.ServerOption) fx.Option {
	all := make([]fx.Option, 0, len(opts))
	for _, o := range opts {
		all = append(all, fx.Supply(fx.Annotate(serverOption{o}, fx.ResultTags(serverGroup))))
	}
	return fx.Options(all...)
}

// serverOption gives every option the same type, which a value group needs.
type serverOption struct{ option stack.ServerOption }

// runner is what a worker must be able to do.
type runner interface {
	Run(ctx context.Context) error
}

// worker is a task that runs beside the server.
type worker struct {
	name string
	runner
}

// Worker runs a task for the life of the process: it is started before the instance registers and stopped after it has
// left and drained. The constructor's value has a method Run(context.Context) error that returns when its context ends;
// returning earlier with an error ends the process.
func Worker(name string, constructor any, args ...ArgOption) fx.Option {
	c, err := parse(constructor, reflect.TypeFor[runner](), args)
	if err != nil {
		return misuse("Worker", err)
	}
	turn := func(w any) worker { return worker{name, w.(runner)} }
	return provide(c, turn, fx.ResultTags(workerGroup))
}

// check is one more condition of readiness.
type check struct {
	name string
	run  func(context.Context) error
}

// Ready adds a check that must pass for the instance to be ready, for example that a database answers. fn is either a
// func(context.Context) error or a constructor of one.
func Ready(name string, fn any, args ...ArgOption) fx.Option {
	if run, ok := fn.(func(context.Context) error); ok && run != nil {
		return fx.Supply(fx.Annotate(check{name, run}, fx.ResultTags(checkGroup)))
	}
	c, err := parse(fn, nil, args)
	if run, ok := fn.(func(context.Context) error); ok && run == nil {
		err = errNil
	}
	if err == nil && c.Value() != reflect.TypeFor[func(context.Context) error]() {
		err = errors.New("want a func(context.Context) error or a constructor of one")
	}
	if err != nil {
		return misuse("Ready", err)
	}
	turn := func(f any) check { return check{name, f.(func(context.Context) error)} }
	return provide(c, turn, fx.ResultTags(checkGroup))
}

// Provide is fx.Provide for one constructor whose value is closed at the end: when it has a method Close() error or
// Close(context.Context) error, that is called after the drain, in reverse order of construction. args name parameters
// as [Arg] says.
func Provide(constructor any, args ...ArgOption) fx.Option {
	c, err := parse(constructor, nil, args)
	if err != nil {
		return misuse("Provide", err)
	}
	return c.provide(c.Value(), func(made reflect.Value) reflect.Value { return made })
}

// With groups plain Fx options, for those who want one list.
func With(opts ...fx.Option) fx.Option { return fx.Options(opts...) }
