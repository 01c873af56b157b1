// Package construct looks at constructors, the plain functions from which a service is wired: whether a value is one,
// what it makes, and whether that fits where it is to go. Its errors are for the person who wrote the main function.
package construct

import (
	"fmt"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
)

var errorType = reflect.TypeFor[error]()

// Func is a constructor: a function that takes its dependencies and returns one value and perhaps an error.
type Func struct {
	fn    reflect.Value
	fails bool
}

// Parse checks that fn is func(...) T or func(...) (T, error).
func Parse(fn any) (Func, error) {
	v := reflect.ValueOf(fn)
	if fn == nil || v.Kind() != reflect.Func || v.IsNil() {
		return Func{}, fmt.Errorf("want a constructor, a function that returns one value and perhaps an error; got %T", fn)
	}
	t := v.Type()
	c := Func{fn: v, fails: t.NumOut() == 2 && t.Out(1) == errorType}
	if t.IsVariadic() || t.NumOut() == 0 || t.NumOut() > 2 || t.NumOut() == 2 && !c.fails || t.Out(0) == errorType {
		return Func{}, fmt.Errorf("%s is %s; want a function that takes its dependencies and returns one value and perhaps an error", c.Name(), t)
	}
	return c, nil
}

// Value is the type of what the constructor makes.
func (c Func) Value() reflect.Type { return c.fn.Type().Out(0) }

// NumIn is the number of its parameters.
func (c Func) NumIn() int { return c.fn.Type().NumIn() }

// Name is the function's name with its package, for example user.NewServer.
func (c Func) Name() string {
	f := runtime.FuncForPC(c.fn.Pointer())
	if f == nil {
		return c.fn.Type().String()
	}
	name := f.Name()
	return name[strings.LastIndex(name, "/")+1:]
}

// Adapt returns a function that takes the constructor's parameters and, last, one of type extra, and returns a value of
// type result and an error. It calls the constructor and passes what it made, with the extra parameter, to turn. An
// error of the constructor is told with the place where and the constructor's name.
func (c Func) Adapt(where string, result, extra reflect.Type, turn func(made, extra reflect.Value) reflect.Value) any {
	t := c.fn.Type()
	in := make([]reflect.Type, 0, t.NumIn()+1)
	for i := range t.NumIn() {
		in = append(in, t.In(i))
	}
	in = append(in, extra)
	run := func(args []reflect.Value) []reflect.Value {
		last := len(args) - 1
		out := c.fn.Call(args[:last])
		if c.fails && !out[1].IsNil() {
			err := fmt.Errorf("%s: %s: %w", where, c.Name(), out[1].Interface().(error))
			return []reflect.Value{reflect.Zero(result), reflect.ValueOf(&err).Elem()}
		}
		if isNil(out[0]) {
			err := fmt.Errorf("%s: %s returned nil; return a value, or an error that says why there is none", where, c.Name())
			return []reflect.Value{reflect.Zero(result), reflect.ValueOf(&err).Elem()}
		}
		return []reflect.Value{turn(out[0], args[last]), reflect.Zero(errorType)}
	}
	return reflect.MakeFunc(reflect.FuncOf(in, []reflect.Type{result, errorType}, false), run).Interface()
}

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Interface, reflect.Func, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Chan:
		return v.IsNil()
	default:
		return false
	}
}

// In is the type of parameter number i.
func (c Func) In(i int) reflect.Type { return c.fn.Type().In(i) }

// MustMake explains what is missing when the constructor's value can't be used as a t.
func (c Func) MustMake(t reflect.Type) error {
	v := c.Value()
	if v.AssignableTo(t) {
		return nil
	}
	if t.Kind() == reflect.Interface {
		for i := range t.NumMethod() {
			want := t.Method(i)
			if have, ok := v.MethodByName(want.Name); !ok {
				return fmt.Errorf("%s returns %s, which is no %s: method %s%s is missing", c.Name(), v, t, want.Name, want.Type.String()[len("func"):])
			} else if !sameSignature(have.Type, want.Type, v) {
				return fmt.Errorf("%s returns %s, which is no %s: method %s does not have the signature %s", c.Name(), v, t, want.Name, want.Type)
			}
		}
	}
	return fmt.Errorf("%s returns %s, which is no %s", c.Name(), v, t)
}

// sameSignature compares a method of a type, whose first parameter is the receiver unless the type is an interface,
// with that of an interface.
func sameSignature(have, want, of reflect.Type) bool {
	skip := 1
	if of.Kind() == reflect.Interface {
		skip = 0
	}
	if have.NumIn()-skip != want.NumIn() || have.NumOut() != want.NumOut() {
		return false
	}
	for i := range want.NumIn() {
		if have.In(i+skip) != want.In(i) {
			return false
		}
	}
	for i := range want.NumOut() {
		if have.Out(i) != want.Out(i) {
			return false
		}
	}
	return true
}

// Caller is the file:line of the first caller outside of the packages with the given import paths, for example of the
// service's main for a function of such a package.
func Caller(packages ...string) string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		// Frames, not runtime.FuncForPC: functions that were inlined into their caller share its program counter.
		frame, more := frames.Next()
		inside := slices.ContainsFunc(packages, func(p string) bool { return strings.HasPrefix(frame.Function, p+".") })
		if !inside && frame.File != "" {
			return fmt.Sprintf("%s:%d", filepath.Base(frame.File), frame.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

// Walk calls see for each T in v: in v itself, in interfaces, and in slices of slices.
func Walk[T any](v any, see func(T)) {
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		for v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() == reflect.Slice {
			for i := range v.Len() {
				walk(v.Index(i))
			}
		} else if v.IsValid() && v.Type() == reflect.TypeFor[T]() {
			see(v.Interface().(T))
		}
	}
	walk(reflect.ValueOf(v))
}

// Locate sets, in a constructor that was annotated for Fx, which function errors are to name: f instead of the one that
// Adapt made. A value of another shape is returned as it is.
func Locate(annotated any, f Func) any {
	v := reflect.New(reflect.TypeOf(annotated)).Elem()
	v.Set(reflect.ValueOf(annotated))
	if v.Kind() == reflect.Struct {
		if at := v.FieldByName("FuncPtr"); at.IsValid() && at.CanSet() && at.Kind() == reflect.Uintptr {
			at.SetUint(uint64(f.fn.Pointer()))
		}
	}
	return v.Interface()
}
