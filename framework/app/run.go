package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/stopsignal"
	"github.com/newsvc/newsvc/framework/stack"
)

// Run starts the service, waits for a signal or a failure, stops it and exits the process: with 0 when all work was
// finished, with 1 when the start failed or something was cut, with 128+n when a second signal n arrives during the
// stop. SIGINT, SIGTERM, SIGHUP and SIGQUIT stop; SIGQUIT logs the stacks of all goroutines first. service is the name
// others call it by. It does not return.
func Run(service string, opts ...fx.Option) {
	os.Exit(run(service, opts))
}

func run(service string, opts []fx.Option) int {
	signalled, release := stopsignal.Watch(os.Exit)
	defer release()
	env := processEnvironment(service)
	if err := checkClients(opts); err != nil {
		return complain(os.Stderr, service, err)
	}
	var b *boot
	ev := &events{}
	fxApp := fx.New(
		fx.WithLogger(ev.logger),
		fx.Supply(env, ev),
		fx.RecoverFromPanics(),
		Module(service, opts...),
		fx.Populate(&b),
	)
	if err := fxApp.Err(); err != nil {
		return complain(os.Stderr, service, err)
	}
	defer flush(b.log)
	status := 0
	start, cancel := context.WithTimeout(signalled, b.config.App.StartTimeout)
	defer cancel()
	if err := fxApp.Start(start); err != nil && signalled.Err() == nil {
		return complain(os.Stderr, service, err)
	} else if err == nil {
		status = wait(signalled, fxApp, b.log)
	}
	// Every part of the stop has a budget of its own; this bounds their sum.
	stop, cancelStop := context.WithTimeout(context.Background(), b.config.App.StopTimeout+2*endTimeout+5*time.Second)
	defer cancelStop()
	err := errors.Join(fxApp.Stop(stop), b.failure())
	if err != nil {
		b.log.Error("stopped, but not cleanly", zap.Error(err))
		return 1
	}
	b.log.Info("stopped")
	return status
}

// flush writes out the log; terminals can't be synced, which is nobody's fault.
func flush(log *zap.Logger) { _ = log.Sync() }

// wait returns when the process is asked to stop, by a signal or from within, with the exit status that whoever asked
// from within wants. Fx catches some of the signals too and may be heard first.
func wait(signalled context.Context, app *fx.App, log *zap.Logger) int {
	select {
	case asked := <-app.Wait():
		log.Info("stopping", zap.Stringer("reason", asked.Signal), zap.Int("status", asked.ExitCode))
		return asked.ExitCode
	case <-signalled.Done():
	}
	cause := context.Cause(signalled)
	log.Info("stopping", zap.String("reason", cause.Error()))
	if sig := (stopsignal.Error{}); errors.As(cause, &sig) && sig.Signal == syscall.SIGQUIT {
		stacks := make([]byte, 4<<20)
		log.Warn("goroutine stacks", zap.ByteString("stacks", stacks[:runtime.Stack(stacks, true)]))
	}
	return 0
}

// complain writes why the process does not start: the root cause first, since Fx wraps it in the path that led there.
func complain(w io.Writer, service string, err error) int {
	if errors.Is(err, errAnswered) {
		return 0
	}
	if help := (*config.HelpError)(nil); errors.As(err, &help) {
		fmt.Fprintln(os.Stdout, help.Usage)
		return 0
	}
	cause := dig.RootCause(err)
	fmt.Fprintf(w, "%s: %v\n", service, cause)
	return 1
}

// processEnvironment is the environment of this very process.
func processEnvironment(service string) *Environment {
	dev := os.Getenv("NEWSVC_DEV") == "1"
	env := &Environment{
		Sources:    config.Sources{Service: service, Args: os.Args[1:], Environ: os.Environ()},
		Process:    stack.Process{Dev: dev, PodIP: os.Getenv("POD_IP"), ReadyFile: os.Getenv("NEWSVC_READY_FILE")},
		Log:        zapcore.Lock(os.Stderr),
		Stdout:     os.Stdout,
		Introspect: os.Getenv("NEWSVC_INTROSPECT"),
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		env.Version = info.Main.Version
	}
	return env
}
