package app

import (
	"errors"
	"fmt"
	"reflect"

	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/internal/construct"
	"github.com/newsvc/newsvc/framework/stack"
)

// declaration is what an option says before anything is built.
type declaration struct{ stack.Declaration }

const (
	declarationGroup = `group:"newsvc.declarations"`
	bindingGroup     = `group:"newsvc.bindings"`
	handlerGroup     = `group:"newsvc.handlers"`
	workerGroup      = `group:"newsvc.workers"`
	checkGroup       = `group:"newsvc.checks"`
	serverGroup      = `group:"newsvc.server"`
)

func declare(d stack.Declaration) fx.Option {
	return fx.Supply(fx.Annotate(declaration{d}, fx.ResultTags(declarationGroup)))
}

// caller is the file:line of the code that called the exported function of this package.
func caller() string {
	const room = "github.com/newsvc/newsvc/framework/"
	return construct.Caller(room+"app", room+"gateway/gatewayfx")
}

// argument says which named value a constructor's parameter takes, so that the constructor itself needs no tags.
type argument struct {
	index int
	name  string
}

// ArgOption is the result of [Arg].
type ArgOption interface{ arg() argument }

func (a argument) arg() argument { return a }

// Arg tells [Serve], [Provide] and the like that the constructor's parameter number index, counted from 0, takes the
// value with that name, for example a client that was made with [Named].
func Arg(index int, name string) ArgOption { return argument{index, name} }

// constructor is a user's function that makes one value.
type constructor struct {
	construct.Func
	where string
	tags  []fx.Annotation
}

// parse checks a constructor, that it makes a t unless t is nil, and its arguments.
func parse(fn any, t reflect.Type, args []ArgOption) (constructor, error) {
	f, err := construct.Parse(fn)
	if err == nil && t != nil {
		err = f.MustMake(t)
	}
	if err != nil {
		return constructor{}, err
	}
	c := constructor{Func: f, where: caller()}
	tags := make([]string, f.NumIn())
	for _, a := range args {
		arg := a.arg()
		if arg.index < 0 || arg.index >= len(tags) {
			return constructor{}, fmt.Errorf("app.Arg(%d, %q): %s has %d parameters, counted from 0", arg.index, arg.name, f.Name(), len(tags))
		}
		tags[arg.index] = fmt.Sprintf("name:%q", arg.name)
	}
	if len(args) == 0 {
		return c, nil
	}
	for i := range tags {
		if dig.IsIn(f.In(i)) {
			return constructor{}, fmt.Errorf("app.Arg: parameter %d of %s is a struct with fx.In; name its values with tags at the struct's fields instead", i, f.Name())
		}
	}
	c.tags = append(c.tags, fx.ParamTags(tags...))
	return c, nil
}

// provide returns the option that runs the constructor and turns its value into a T.
func provide[T any](c constructor, turn func(made any) T, annotations ...fx.Annotation) fx.Option {
	return c.provide(reflect.TypeFor[T](), func(made reflect.Value) reflect.Value {
		value := turn(made.Interface())
		return reflect.ValueOf(&value).Elem()
	}, annotations...)
}

// provide is the same for a type that only reflection knows. What the value offers as Close is remembered and called
// after the drain.
func (c constructor) provide(result reflect.Type, turn func(reflect.Value) reflect.Value, annotations ...fx.Annotation) fx.Option {
	made := c.Adapt(c.where, result, reflect.TypeFor[*stack.Stack](), func(made, s reflect.Value) reflect.Value {
		s.Interface().(*stack.Stack).CloseLater(made.Interface())
		return turn(made)
	})
	annotated := construct.Locate(fx.Annotate(made, append(c.tags, annotations...)...), c.Func)
	return declared{Option: fx.Provide(annotated), constructor: c.Name(), where: c.where}
}

// misuse reports a wrong argument of one of this package's functions.
func misuse(function string, err error) fx.Option {
	return fx.Error(fmt.Errorf("%s: app.%s: %w", caller(), function, err))
}

var errNil = errors.New("the function is nil")
