package app

import (
	"fmt"
	"reflect"

	"go.uber.org/fx"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/config"
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
			declare(declaration{where: where, callee: callee, client: kind}),
			fx.Provide(fx.Annotate(provide, annotations...)),
		),
		client: kind, callee: callee, where: where,
	}
}

// declared is an option that can be looked into before Fx sees it.
type declared struct {
	fx.Option
	client, callee, where string
}

// checkClients finds two clients of one type and name among the options, which Fx would report without their callees.
func checkClients(opts []fx.Option) error {
	seen := make(map[string]declared)
	var walk func(reflect.Value) error
	walk = func(v reflect.Value) error {
		for v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() == reflect.Slice { // fx.Options is a slice of options
			for i := range v.Len() {
				if err := walk(v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		}
		if !v.IsValid() || v.Type() != reflect.TypeFor[declared]() {
			return nil
		}
		d := v.Interface().(declared)
		if first, ok := seen[d.client]; ok {
			return fmt.Errorf("%s: app.Client(%q): a client of the same type is made for %q at %s; tell them apart with app.Named(...) and app.Arg(...)",
				d.where, d.callee, first.callee, first.where)
		}
		seen[d.client] = d
		return nil
	}
	return walk(reflect.ValueOf(opts))
}

// Config declares a section of the service's own configuration and provides it, typed and validated, to constructors.
// defaults is a struct whose fields carry `config:"key"` tags; if it has a method Validate() error, that is called
// before anything starts. The section must not be one of the framework's.
func Config[T any](section string, defaults T) fx.Option {
	where := caller()
	if stack.Reserved(section) {
		return misuse("Config", fmt.Errorf("section %q is the framework's own; choose another name", section))
	}
	return fx.Options(
		declare(declaration{where: where, section: &config.Section{Path: section, Defaults: defaults}}),
		fx.Provide(func(c *config.Config) (T, error) { return config.Get[T](c, section) }),
	)
}
