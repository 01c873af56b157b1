package construct_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/construct"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct{}

func (thing) Read([]byte) (int, error) { return 0, io.EOF }
func (thing) Write([]byte) int         { return 0 }

func newThing(string) thing { return thing{} }

func TestParse(t *testing.T) {
	t.Parallel()
	for _, fn := range []any{
		newThing, func() (thing, error) { return thing{}, nil }, func() int { return 0 },
	} {
		if _, err := construct.Parse(fn); err != nil {
			t.Error(err)
		}
	}
	var none func() thing
	for _, fn := range []any{
		nil, 5, none, func() {}, func() error { return nil }, func() (thing, int) { return thing{}, 0 },
		func() (thing, int, error) { return thing{}, 0, nil }, func(...string) thing { return thing{} },
	} {
		if _, err := construct.Parse(fn); err == nil || !strings.Contains(err.Error(), "want a") {
			t.Errorf("%T: err = %v", fn, err)
		}
	}
}

func parse(t *testing.T, fn any) construct.Func {
	t.Helper()
	f, err := construct.Parse(fn)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMissingMethodsAreNamed(t *testing.T) {
	t.Parallel()
	f := parse(t, newThing)
	for _, c := range []struct {
		kind reflect.Type
		says string // empty: it fits
	}{
		{reflect.TypeFor[io.Reader](), ""},
		{reflect.TypeFor[any](), ""},
		{reflect.TypeFor[thing](), ""},
		{reflect.TypeFor[io.Closer](), "construct_test.newThing returns construct_test.thing, which is no io.Closer: method Close() error is missing"},
		{reflect.TypeFor[io.Writer](), "method Write does not have the signature"},
		{reflect.TypeFor[int](), "which is no int"},
	} {
		err := f.MustMake(c.kind)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%v: err = %v", c.kind, err)
		}
	}
	if err := parse(t, func() io.Reader { return nil }).MustMake(reflect.TypeFor[io.ReadCloser]()); err == nil || !strings.Contains(err.Error(), "Close") {
		t.Errorf("of an interface: %v", err)
	}
}

func TestAdaptedConstructorTakesOneParameterMore(t *testing.T) {
	t.Parallel()
	trouble := errors.New("trouble")
	f := parse(t, func(s string) (*thing, error) {
		switch s {
		case "fail":
			return nil, trouble
		case "nil":
			return nil, nil
		}
		return &thing{}, nil
	})
	made := f.Adapt("main.go:7", reflect.TypeFor[string](), reflect.TypeFor[int](), func(made, extra reflect.Value) reflect.Value {
		return reflect.ValueOf(fmt.Sprintf("%s %d", made.Type(), extra.Int()))
	}).(func(string, int) (string, error))
	if got, err := made("", 3); got != "*construct_test.thing 3" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := made("fail", 0); !errors.Is(err, trouble) || !strings.HasPrefix(err.Error(), "main.go:7: construct_test.TestAdapted") {
		t.Errorf("err = %v", err)
	}
	if _, err := made("nil", 0); err == nil || !strings.Contains(err.Error(), "returned nil") {
		t.Errorf("err = %v", err)
	}
}

// inlined calls may share their caller's program counter.
func outer() string  { return middle() }
func middle() string { return construct.Caller("some/other") }

func TestCallerIsOutsideOfThePackages(t *testing.T) {
	t.Parallel()
	if got := outer(); !strings.HasPrefix(got, "construct_test.go:") {
		t.Errorf("nearest caller %q", got)
	}
	if got := construct.Caller("github.com/newsvc/newsvc/framework/internal/construct_test"); !strings.HasPrefix(got, "testing.go:") {
		t.Errorf("outside of this package %q", got)
	}
}

func TestWalkFindsValuesInNestedSlices(t *testing.T) {
	t.Parallel()
	var found []thing
	construct.Walk([]any{thing{}, []any{5, []thing{{}, {}}}, nil, "x"}, func(x thing) { found = append(found, x) })
	if len(found) != 3 {
		t.Errorf("found %d", len(found))
	}
}

func TestLocateLeavesOtherShapesAlone(t *testing.T) {
	t.Parallel()
	type annotated struct {
		Target  any
		FuncPtr uintptr
	}
	f := parse(t, newThing)
	if got := construct.Locate(annotated{Target: 1}, f).(annotated); got.FuncPtr != reflect.ValueOf(newThing).Pointer() || got.Target != 1 {
		t.Errorf("got %+v", got)
	}
	for _, v := range []any{5, "x", struct{ FuncPtr string }{"x"}, errors.ErrUnsupported} {
		if got := construct.Locate(v, f); got != v {
			t.Errorf("%v became %v", v, got)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	const fn = `function "example.com/a/user".NewServer (/home/a/user/server.go:12)`
	root := errors.New("boom")
	wrap := func(text string, err error) error { return fmt.Errorf("could not build: %w", &chained{text, err}) }
	for _, c := range []struct {
		err  error
		want string
	}{
		{root, "boom"},
		{wrap("missing dependencies for "+fn+": missing type: *user.Store", root), "main.go:9: user.NewServer needs *user.Store, which nothing provides; add app.Provide or fx.Provide with a constructor that returns it, app.Config if it is a section of the configuration, or app.Client if"},
		{wrap("received non-nil error from "+fn+": boom", root), "main.go:9: user.NewServer: boom"},
		{wrap("cannot provide "+fn+`: cannot provide *user.Store from [0]: already provided by "example.com/a/b".New (/x/b.go:3)`, root),
			"user.NewServer (server.go:12) and b.New (b.go:3) both make a *user.Store"},
	} {
		if got := construct.Explain(c.err, root, map[string]string{"user.NewServer": "main.go:9"}); !strings.HasPrefix(got, c.want) {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

type chained struct {
	text string
	err  error
}

func (c *chained) Error() string { return c.text }
func (c *chained) Unwrap() error { return c.err }
