package main

import (
	"bytes"
	"testing"

	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/examples/internal/configfile"
	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigFileNamesEveryKeyWithItsDefault(t *testing.T) {
	t.Parallel()
	configfile.Check(t, ask)
}

// ask asks the service itself, as NEWSVC_INTROSPECT does; nothing of it is started.
func ask(t *testing.T, dir, question string) []byte {
	t.Helper()
	var answer bytes.Buffer
	env := &app.Environment{
		Sources:    config.Sources{Service: "user-service", Dir: dir},
		Introspect: question, Stdout: &answer,
	}
	err := fx.New(fx.NopLogger, fx.Supply(env), app.Module("user-service", service()...)).Err()
	if answer.Len() == 0 {
		t.Fatalf("the service does not answer %q: %v", question, dig.RootCause(err))
	}
	return answer.Bytes()
}
