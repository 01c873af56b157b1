package app_test

import (
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// archive is domain code: of logging it knows the standard library.
type archive struct{}

func newArchive(log *slog.Logger) *archive {
	log.With("logger", "store").Debug("opened", "rows", 7)
	return &archive{}
}

func TestConstructorsTakeALoggerOfTheStandardLibrary(t *testing.T) {
	t.Parallel()
	out, reg := &output{}, discoverytest.NewRegistry()
	env := &app.Environment{Log: out}
	env.Sources.NoFile = true
	env.Sources.Args = []string{"--set", "admin.enabled=false", "--set", "log.format=json", "--set", "log.levels.store=debug"}
	env.Replace.Source, env.Replace.Registrar = reg, reg
	var made *archive
	fxApp := fx.New(fx.NopLogger, fx.Supply(env), app.Module("my-service", app.Provide(newArchive)), fx.Populate(&made))
	if err := fxApp.Err(); err != nil {
		t.Fatal(err)
	}
	if err := fxApp.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fxApp.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if want := `"logger":"store","msg":"opened","service":"my-service","rows":7}`; !strings.Contains(out.String(), want) {
		t.Errorf("log = %s, want it to hold %s", out, want)
	}
}
