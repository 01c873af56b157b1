//go:build unix

package stopsignal_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/internal/stopsignal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func raise(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(syscall.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

// heed ends that SIGHUP is ignored, as it is under nohup.
func heed() {
	in := make(chan os.Signal, 1)
	signal.Notify(in, syscall.SIGHUP) // Reset alone leaves it marked as ignored
	signal.Stop(in)
}

// Not in parallel: signals reach the whole process.
func TestFirstSignalEndsTheContextAndTheSecondTheProcess(t *testing.T) {
	heed() // whoever runs this test may be under nohup
	codes := make(chan int, 1)
	ctx, stop := stopsignal.Watch(func(code int) { codes <- code })
	raise(t, syscall.SIGHUP)
	<-ctx.Done()
	var sig stopsignal.Error
	if !errors.As(context.Cause(ctx), &sig) || sig.Signal != syscall.SIGHUP || sig.Error() != "signal hangup" {
		t.Errorf("cause = %v", context.Cause(ctx))
	}
	raise(t, syscall.SIGTERM)
	if code := <-codes; code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit(%d)", code)
	}
	stop()
}

func TestHangupStaysIgnoredUnderNohup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer heed()
	ctx, stop := stopsignal.Watch(func(int) { t.Error("exit") })
	defer stop()
	raise(t, syscall.SIGHUP)
	raise(t, syscall.SIGTERM)
	<-ctx.Done()
	if sig := (stopsignal.Error{}); !errors.As(context.Cause(ctx), &sig) || sig.Signal != syscall.SIGTERM {
		t.Errorf("cause = %v", context.Cause(ctx))
	}
}

func TestStopWithoutASignal(t *testing.T) {
	ctx, stop := stopsignal.Watch(func(int) { t.Error("exit") })
	if ctx.Err() != nil {
		t.Error("it ended by itself")
	}
	stop()
	stop()
	if errors.As(context.Cause(ctx), new(stopsignal.Error)) || ctx.Err() == nil {
		t.Errorf("cause = %v", context.Cause(ctx))
	}
}

func TestStacksAreLoggedForQuit(t *testing.T) {
	t.Parallel()
	for sig, want := range map[syscall.Signal]int{syscall.SIGQUIT: 1, syscall.SIGTERM: 0} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stopsignal.Error{Signal: sig})
		core, logs := observer.New(zapcore.InfoLevel)
		stopsignal.Log(ctx, zap.New(core))
		stacks := logs.FilterMessage("goroutine stacks")
		if logs.FilterMessage("stopping").Len() != 1 || stacks.Len() != want {
			t.Errorf("%v: %v", sig, logs.All())
		}
		if want == 1 && !strings.Contains(string(stacks.All()[0].Context[0].Interface.([]byte)), "TestStacksAreLoggedForQuit") {
			t.Error("the stacks lack this test")
		}
	}
}
