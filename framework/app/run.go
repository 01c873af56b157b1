package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"syscall"
	"time"

	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/construct"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/stopsignal"
	"github.com/newsvc/newsvc/framework/stack"
)

// Run starts the service, waits for a signal or a failure, stops it and exits the process: with 0 when all work was
// finished, with 1 when the start failed or something was cut, with 128+n when a second signal n arrives during the
// stop. SIGINT, SIGTERM, SIGHUP and SIGQUIT stop; SIGQUIT logs the stacks of all goroutines first, and with app.sighup: reload
// SIGHUP reads the configuration again instead. service is the name others call it by. It does not return.
func Run(service string, opts ...fx.Option) {
	os.Exit(run(service, opts))
}

// constructing is how long constructors, which have no context, may go on when the start is to end.
const constructing = 5 * time.Second

func run(service string, opts []fx.Option) int {
	signalled, hangup, release := stopsignal.WatchHangup(os.Exit)
	defer release()
	p := &process{hangup: hangup}
	p.starting, p.giveUp = context.WithCancelCause(signalled)
	defer p.giveUp(nil)
	defer context.AfterFunc(signalled, func() { p.tell(signalled) })()
	var fxApp *fx.App
	var err error
	// Fx would leave a start behind whose context ends, while it goes on; so it is given one that does not, and each
	// hook is ended by itself.
	built := loop.Start(context.Background(), func(context.Context) { fxApp = p.build(service, opts); err = fxApp.Err() })
	select {
	case <-built.Done():
	case <-p.starting.Done():
		patience, cancel := context.WithTimeout(context.Background(), constructing)
		defer cancel()
		if built.Join(patience) != nil {
			return complain(os.Stderr, service, fmt.Errorf("%w; and a constructor does not return", context.Cause(p.starting)), opts)
		}
	}
	if err != nil {
		return complain(os.Stderr, service, err, opts)
	}
	b := p.boot.Load()
	defer func() { _ = b.Log.Sync() }() // terminals can't be synced, which is nobody's fault
	return p.live(signalled, fxApp, func(err error) int { return complain(os.Stderr, service, err, opts) })
}

// build makes the app, which runs all constructors.
func (p *process) build(service string, opts []fx.Option) *fx.App {
	return fx.New(
		fx.Logger(log.New(io.Discard, "", 0)), // taken where the other can't be made: wrong wiring, which complain explains
		fx.WithLogger(func() fxevent.Logger { return p }),
		fx.Supply(stack.FromProcess(service), p),
		fx.Decorate(p.lifecycle),
		fx.RecoverFromPanics(),
		Module(service, opts...),
	)
}

// live starts what was built, waits for the end and stops it; it returns the exit status.
func (p *process) live(signalled context.Context, app *fx.App, complain func(error) int) int {
	b, status := p.boot.Load(), 0
	err := app.Start(context.Background()) // each hook is bounded
	if err == nil {
		status = b.wait(signalled, app)
	}
	p.tell(signalled)
	stopErr := errors.Join(app.Stop(context.Background()), b.close()) // these, too
	switch {
	case err != nil && signalled.Err() == nil:
		return complain(err)
	case stopErr != nil || b.failed.Err() != nil:
		b.Log.Error("stopped, but not cleanly", zap.Error(cmp.Or(b.failed.Err(), stopErr)))
		return 1
	}
	b.Log.Info("stopped")
	return status
}

// wait returns when the process is asked to stop, by a signal or from within, with the exit status that whoever asked
// from within wants. Fx catches some of the signals too and may be heard first.
func (b *boot) wait(signalled context.Context, app *fx.App) int {
	select {
	case asked := <-app.Wait():
		b.told.Do(func() {
			reason := zap.String("reason", "asked to end from within")
			if sig, is := asked.Signal.(syscall.Signal); is && asked.ExitCode == 0 { // as [stopsignal.Log] says it
				reason = zap.String("reason", stopsignal.Error{Signal: sig}.Error())
			}
			status := zap.Skip()
			if asked.ExitCode != 0 {
				status = zap.Int("status", asked.ExitCode)
			}
			b.Log.Info("stopping", reason, status)
		})
		return asked.ExitCode
	case <-signalled.Done():
		return 0
	}
}

// tell logs, once, which signal ended the process.
func (p *process) tell(signalled context.Context) {
	if b := p.boot.Load(); b != nil && signalled.Err() != nil {
		b.told.Do(func() { stopsignal.Log(signalled, b.Log) })
	}
}

// complain writes why the process does not start: the root cause first, since Fx wraps it in the path that led there.
func complain(w io.Writer, service string, err error, opts []fx.Option) int {
	if errors.Is(err, ErrAnswered) {
		return 0
	}
	if help := (*config.HelpError)(nil); errors.As(err, &help) {
		fmt.Fprintln(os.Stdout, help.Usage)
		return 0
	}
	fmt.Fprintf(w, "%s: %s\n", service, construct.Explain(err, dig.RootCause(err), listed(opts)))
	return 1
}
