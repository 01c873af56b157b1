package app

import (
	"fmt"
	"reflect"

	"go.uber.org/fx"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/construct"
	"github.com/newsvc/newsvc/framework/stack"
)

// ClientOption adjusts [Client].
type ClientOption interface{ apply(*clientOptions) }

type clientOptions struct{ name string }

type clientName string

func (n clientName) apply(o *clientOptions) { o.name = string(n) }

// Named gives the client a name, which tells a second client of the same type from the first: main then says who takes
// which, with [Arg].
func Named(name string) ClientOption { return clientName(name) }

// Client makes the service callee known and its generated client available to every constructor. newClient is the
// generated function, for example userv1.NewUserServiceClient. The connection is resolved by the callee's name and
// shared by all its clients; its policy is the section clients.<callee>, with clients.defaults under it.
func Client[C any](callee string, newClient func(grpc.ClientConnInterface) C, opts ...ClientOption) fx.Option {
	where := caller()
	if newClient == nil {
		return misuse("Client", errNil)
	}
	if err := stack.CheckCallee(callee); err != nil {
		return misuse("Client", err)
	}
	var o clientOptions
	for _, opt := range opts {
		opt.apply(&o)
	}
	provide := func(f *stack.Clients) (C, error) {
		conn, err := f.Conn(callee)
		if err != nil {
			var none C
			return none, fmt.Errorf("%s: app.Client: %w", where, err)
		}
		return newClient(conn), nil
	}
	var annotations []fx.Annotation
	if o.name != "" {
		annotations = append(annotations, fx.ResultTags(fmt.Sprintf("name:%q", o.name)))
	}
	kind := reflect.TypeFor[C]().String() + "/" + o.name
	return declared{
		Option: fx.Options(
			declare(stack.Declaration{Callee: callee}),
			fx.Provide(fx.Annotate(provide, annotations...)),
		),
		client: kind, callee: callee, where: where,
	}
}

// declared is an option that can be looked into before Fx sees it.
type declared struct {
	fx.Option
	client, callee string // of app.Client
	constructor    string // the name of a constructor
	where          string
}

// checkClients finds two clients of one type and name among the options, which Fx would report without their callees.
func checkClients(opts []fx.Option) (err error) {
	seen := make(map[string]declared)
	construct.Walk(opts, func(d declared) {
		first, twice := seen[d.client]
		switch {
		case d.client == "" || err != nil:
		case twice:
			err = fmt.Errorf("%s: app.Client(%q): a client of the same type is made for %q at %s; tell them apart with app.Named(...) and app.Arg(...)",
				d.where, d.callee, first.callee, first.where)
		default:
			seen[d.client] = d
		}
	})
	return err
}

// listed has, by the names of constructors, where they were listed.
func listed(opts []fx.Option) map[string]string {
	all := make(map[string]string)
	construct.Walk(opts, func(d declared) {
		if d.constructor != "" {
			all[d.constructor] = d.where
		}
	})
	return all
}

// Config declares a section of the service's own configuration and provides it, typed and validated, to constructors.
// defaults is a struct whose fields carry `config:"key"` tags; if it has a method Validate() error, that is called
// before anything starts. The section must not be one of the framework's.
func Config[T any](section string, defaults T) fx.Option {
	if err := stack.CheckSection(section, defaults); err != nil {
		return misuse("Config", err)
	}
	return fx.Options(
		declare(stack.Declaration{Section: &config.Section{Path: section, Defaults: defaults}}),
		fx.Provide(func(c *config.Config) (T, error) { return config.Get[T](c, section) }),
	)
}
