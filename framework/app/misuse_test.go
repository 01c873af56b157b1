package app_test

import (
	"strings"
	"testing"
)

// A mistake in main is told in one line: the place, what is wrong, what to do.
func TestMistakesAreExplained(t *testing.T) {
	t.Parallel()
	const listed = "programs_test.go:"
	for program, want := range map[string][]string{
		"missing":           {listed, "app_test.needStore needs *app_test.store, which nothing provides", "add app.Provide", "app.Config if it is a section"},
		"missing in plain":  {"app_test.newIndex needs *app_test.store, which nothing provides"},
		"constructor error": {listed, "app_test.failStore: no such disk"},
		"plain error":       {"app_test.failStore: no such disk"},
		"panic":             {"no disk", "app_test.programs.func", listed},
		"nil value":         {listed, "returned nil; return a value"},
		"cycle":             {"constructors need each other", "app_test.newEgg", "app_test.newHen"},
		"twice":             {"app_test.newStore", "app_test.failStore", "both make a *app_test.store"},
		"wrong kind":        {listed, "app.Serve: app_test.newStore returns *app_test.store, which is no grpc_testing.TestServiceServer: method"},
		"two clients":       {listed, `app.Client("user-eu")`, `"user-service"`, "app.Named"},
		"reserved":          {listed, `app.Config: section "server" is the framework's own`},
		"no struct":         {listed, `app.Config: register section "user"`, "give a struct"},
		"http twice":        {listed, "app.HTTP: a handler is given at programs_test.go:", "one mux"},
		"arg range":         {listed, `app.HTTP: app.Arg(1, "x"): app_test.needStore has 1 parameters`},
		"arg in":            {listed, "app.Arg: parameter 0 of", "fx.In"},
		"bad callee":        {listed, `"User_Service" is not a service name; use lower-case letters`},
		"bad name":          {`"My_Service"`, "lower-case"},
		"nil serve":         {listed, "app.Serve: the function is nil"},
		"nil client":        {listed, "app.Client: the function is nil"},
		"nil http":          {listed, "app.HTTP: want a constructor"},
		"nil ready":         {listed, "app.Ready: the function is nil"},
		"invoke":            {"wrong invoke"},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			p := start(t, program)
			p.exits(1)
			said := p.err.String()
			for _, part := range want {
				if !strings.Contains(said, part) {
					t.Errorf("the error lacks %q", part)
				}
			}
			if program != "panic" && strings.Count(said, "\n") > 1 || strings.Contains(said, "[Fx]") || strings.Contains(said, "makeFuncStub") {
				t.Error("the error is more than the cause")
			}
		})
	}
}

func TestWhatWasBuiltIsClosedWhenAnInvokeFails(t *testing.T) {
	t.Parallel()
	p := start(t, "invoke")
	p.exits(1)
	p.wrote("store closed")
}

func TestUnknownKeysAreErrorsWithTheNearestKey(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"MY_SERVICE__AUTH__JWT":                     "auth",
		"MY_SERVICE__GATEWAY__CORS":                 "gateway",
		"MY_SERVICE__CLIENTS__USER_SERVICE__TARGET": "clients.user",
		"MY_SERVICE__SERVER__LISTN":                 "MY_SERVICE__SERVER__LISTEN",
	} {
		p := start(t, "server", setting+"=x")
		p.exits(1)
		if said := p.err.String(); !strings.Contains(said, want) {
			t.Errorf("%s: error lacks %q: %s", setting, want, said)
		}
	}
}
