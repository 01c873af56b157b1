package config_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

// bubble loads a configuration of one key whose change needs no restart, within a bubble.
func bubble(t *testing.T, dir string) *config.Reloader {
	t.Helper()
	src := config.Sources{Service: "blogger-user", Dir: dir}
	write(t, dir, "config.yaml", "server: {timeout: 1s}\n")
	first, err := config.Load(src, sections()...)
	if err != nil {
		t.Fatal(err)
	}
	return config.NewReloader(first, src, sections()...)
}

// run runs a reloader; stop returns when it has.
func run(t *testing.T, r *config.Reloader, every time.Duration) (outcomes chan config.Outcome, stop func()) {
	t.Helper()
	outcomes = make(chan config.Outcome, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, every, func(o config.Outcome) { outcomes <- o }) }()
	return outcomes, func() { cancel(); <-done }
}

func timeout(t *testing.T, c *config.Config) time.Duration {
	t.Helper()
	return get[serverConfig](t, c, "server").Timeout
}

// What a taker did after it was left behind is known once it returns: the same values count as taken over then, with no second call.
func TestATakerThatReturnsLateIsHeard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := bubble(t, dir)
		var told []string
		hold := make(chan error)
		r.Apply("server", func(_ context.Context, a, b *config.Config) error {
			told = append(told, timeout(t, a).String()+" to "+timeout(t, b).String())
			return <-hold
		})
		outcomes, stop := run(t, r, 0)
		write(t, dir, "config.yaml", "server: {timeout: 2s}\n")
		r.Kick()
		if out := <-outcomes; out.State.Failed["server"] == nil {
			t.Errorf("state %+v", out.State)
		}
		hold <- nil
		if out := <-outcomes; len(out.State.Failed) > 0 || timeout(t, r.Current()) != 2*time.Second || len(out.Applied) != 1 {
			t.Errorf("after it has returned: %+v", out)
		}

		// Late, and not what is wanted any more: it is told to go back.
		write(t, dir, "config.yaml", "server: {timeout: 3s}\n")
		r.Kick()
		<-outcomes
		write(t, dir, "config.yaml", "server: {timeout: 2s}\n")
		r.Kick()
		if out := <-outcomes; !strings.Contains(out.State.Failed["server"].Error(), "still busy") {
			t.Errorf("while it is busy with values that nobody wants: %+v", out.State)
		}
		hold <- nil
		synctest.Wait()
		hold <- nil
		if out := <-outcomes; len(out.State.Failed) > 0 || timeout(t, r.Current()) != 2*time.Second {
			t.Errorf("after it went back: %+v", out.State)
		}

		// Late, and refused: it is asked again.
		write(t, dir, "config.yaml", "server: {timeout: 4s}\n")
		r.Kick()
		<-outcomes
		hold <- errors.New("no")
		synctest.Wait()
		hold <- nil
		if out := <-outcomes; len(out.State.Failed) > 0 || timeout(t, r.Current()) != 4*time.Second {
			t.Errorf("after it was asked again: %+v", out.State)
		}
		want := []string{"1s to 2s", "2s to 3s", "3s to 2s", "2s to 4s", "2s to 4s"}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		stop()
	})
}

func TestATakerThatCouldNotGoBackIsToldAgain(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	var told []string
	r.Apply("server", func(_ context.Context, a, b *config.Config) error {
		told = append(told, timeout(t, a).String()+" to "+timeout(t, b).String())
		if len(told) == 2 {
			return errors.New("stuck")
		}
		return nil
	})
	r.Apply("server", func(context.Context, *config.Config, *config.Config) error { return errors.New("no") })
	write(t, dir, "config.yaml", "server: {timeout: 2s}\n")
	if out := r.Reload(t.Context()); !strings.Contains(out.State.Failed["server"].Error(), "going back to the old values failed: stuck") {
		t.Errorf("failed: %v", out.State.Failed)
	}
	write(t, dir, "config.yaml", "server: {timeout: 1s}\n")
	if out := r.Reload(t.Context()); len(out.State.Failed) > 0 {
		t.Errorf("failed: %v", out.State.Failed)
	}
	if diff := cmp.Diff([]string{"1s to 2s", "2s to 1s", "2s to 1s"}, told); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestAfterAStopNoTakerIsCalled(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	ctx, cancel := context.WithCancel(t.Context())
	r.Apply("server", func(context.Context, *config.Config, *config.Config) error { cancel(); return nil })
	second, user := takes(r, "server"), takes(r, "clients.user-service")
	write(t, dir, "config.yaml", "server: {timeout: 2s}\nclients: {user-service: {timeout: 7s}}\n")
	out := r.Reload(ctx)
	if second.Load() != 0 || user.Load() != 0 || timeout(t, r.Current()) != time.Second || len(out.State.Failed) != 2 {
		t.Errorf("%d and %d calls after the stop, failed: %v", second.Load(), user.Load(), out.State.Failed)
	}
	r.Reload(ctx)
	if second.Load() != 0 {
		t.Error("a reload that begins after the stop calls takers")
	}
	if out = r.Reload(t.Context()); len(out.State.Failed) > 0 || second.Load() != 1 || user.Load() != 1 {
		t.Errorf("a later reload: %v", out.State.Failed)
	}
}

// A stop waits for the taker that runs, but not for one that hangs.
func TestAStopJoinsTheTakerThatRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := bubble(t, dir)
		began, ended, hang := make(chan struct{}, 2), false, make(chan struct{})
		r.Apply("server", func(ctx context.Context, _, b *config.Config) error {
			began <- struct{}{}
			<-ctx.Done()
			if timeout(t, b) == 3*time.Second {
				<-hang
			}
			<-time.NewTimer(500 * time.Millisecond).C
			ended = true
			return nil
		})
		outcomes, stop := run(t, r, 0)
		write(t, dir, "config.yaml", "server: {timeout: 2s}\n")
		r.Kick()
		<-began
		stop()
		if !ended || len(outcomes) != 0 {
			t.Errorf("ended: %v, %d outcomes are told of a reload that was broken off", ended, len(outcomes))
		}
		write(t, dir, "config.yaml", "server: {timeout: 3s}\n")
		_, stop = run(t, r, 0)
		r.Kick()
		<-began
		at := time.Now()
		stop()
		if took := time.Since(at); took > 2*time.Second {
			t.Errorf("the stop took %v", took)
		}
		close(hang)
		wait(t, time.Second)
	})
}

func TestAKickWaitsUntilFilesHaveSettled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := bubble(t, dir)
		takes(r, "server")
		outcomes, stop := run(t, r, 0) // files are looked at when somebody kicks
		at := time.Now()
		r.Kick()
		if <-outcomes; time.Since(at) != 0 {
			t.Errorf("without a change a kick takes %v", time.Since(at))
		}
		write(t, dir, "config.yaml", "server: {timeout: 5s, max:")
		r.Kick()
		wait(t, 150*time.Millisecond)
		write(t, dir, "config.yaml", "server: {timeout: 5s, max: 1}\n")
		r.Kick() // one more changes nothing
		out := <-outcomes
		if out.State.Refused != nil || timeout(t, r.Current()) != 5*time.Second {
			t.Errorf("outcome %+v", out.State)
		}
		if took := time.Since(at); took > time.Second {
			t.Errorf("it took %v", took)
		}

		// A file that never settles does not keep what comes from elsewhere.
		at = time.Now()
		r.SetLayer(config.Layer{Name: "etcd /x", Settings: []config.Setting{{Key: "server.timeout", Text: "9s"}}})
		for i := 0; len(outcomes) == 0 && i < 100; i++ {
			write(t, dir, "config.yaml", "server: {}\n"+strings.Repeat("#", i))
			wait(t, 100*time.Millisecond)
		}
		if took := time.Since(at); timeout(t, r.Current()) != 9*time.Second || took > 5*time.Second {
			t.Errorf("after %v in force: %v", took, timeout(t, r.Current()))
		}
		stop()
	})
}
