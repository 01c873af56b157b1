package config_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

// reloader loads config.yaml with text and returns what reloads it, with the directory it lies in.
func reloader(t *testing.T, text string, more ...config.Section) (*config.Reloader, string) {
	t.Helper()
	src := config.Sources{Service: "blogger-user", Dir: t.TempDir()}
	write(t, src.Dir, "config.yaml", text)
	write(t, src.Dir, "secret", "first-value")
	all := append(sections(), more...)
	first, err := config.Load(src, all...)
	if err != nil {
		t.Fatal(err)
	}
	return config.NewReloader(first, src, all...), src.Dir
}

func takes(r *config.Reloader, section string) *atomic.Int64 {
	var calls atomic.Int64
	r.Apply(section, func(context.Context, *config.Config, *config.Config) error { calls.Add(1); return nil })
	return &calls
}

func lines(changes []config.Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	return strings.Join(out, "\n")
}

func TestReloadTakesOverWhatNeedsNoRestart(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s, listen: \":1\"}\n")
	var old, next time.Duration
	r.Apply("server", func(_ context.Context, a, b *config.Config) error {
		old, next = get[serverConfig](t, a, "server").Timeout, get[serverConfig](t, b, "server").Timeout
		return nil
	})
	write(t, dir, "config.yaml", "server:\n  timeout: 2s\n  listen: \":2\"\n")
	out := r.Reload(t.Context())
	if old != time.Second || next != 2*time.Second {
		t.Errorf("told of %v -> %v", old, next)
	}
	if got := lines(out.Applied); got != `server.timeout: "1s" -> "2s" (config.yaml:2)` {
		t.Errorf("applied %q", got)
	}
	if got := lines(out.State.Pending); got != `server.listen: ":1" -> ":2" (config.yaml:3)` {
		t.Errorf("pending %q", got)
	}
	now := get[serverConfig](t, r.Current(), "server")
	if now.Timeout != 2*time.Second || now.Listen != ":1" {
		t.Errorf("in force: %+v", now)
	}
	if got := r.Current().Origin("server.listen"); got != "config.yaml:1" {
		t.Errorf("what is in force was set at %q", got)
	}
	write(t, dir, "config.yaml", "server:\n  timeout: 2s\n  listen: \":1\"\n")
	if out = r.Reload(t.Context()); len(out.State.Pending) != 0 || len(out.Applied) != 0 {
		t.Errorf("after going back: %+v", out)
	}
}

func TestReloadRefusesTheWholeAndSaysWhy(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	calls := takes(r, "server")
	write(t, dir, "config.yaml", "server: {timeout: 2s, lisen: \":2\"}\netcd: {pin: x}\n")
	out := r.Reload(t.Context())
	if out.State.Refused == nil || out.State.Rejected != 1 || calls.Load() != 0 {
		t.Fatalf("outcome %+v, %d calls", out.State, calls.Load())
	}
	rec := httptest.NewRecorder()
	r.Handler(nil).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	var page struct {
		Refused struct{ Problems []string }
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`config.yaml:1:23: unknown key "server.lisen"; did you mean "server.listen"?`,
		`config.yaml:2:13: etcd.pin: *** is text, not a whole number; write it without quotes, for example 10`,
	}
	if diff := cmp.Diff(want, page.Refused.Problems); diff != "" {
		t.Error(diff)
	}
	if got := get[serverConfig](t, r.Current(), "server").Timeout; got != time.Second {
		t.Errorf("in force: %v", got)
	}
	write(t, dir, "config.yaml", "server: {timeout: 2s}\n")
	if out = r.Reload(t.Context()); out.State.Refused != nil || calls.Load() != 1 {
		t.Errorf("after the repair: %+v, %d calls", out.State, calls.Load())
	}
}

func TestReloadKeepsASectionWhoseTakerRefuses(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	var back []string
	r.Apply("server", func(_ context.Context, a, b *config.Config) error {
		back = append(back, get[serverConfig](t, b, "server").Timeout.String())
		return nil
	})
	no := errors.New("not on a Sunday")
	r.Apply("server", func(context.Context, *config.Config, *config.Config) error { return no })
	clients := takes(r, "clients.user-service")
	write(t, dir, "config.yaml", "server: {timeout: 2s}\nclients: {user-service: {timeout: 7s}}\n")
	out := r.Reload(t.Context())
	if !errors.Is(out.State.Failed["server"], no) || len(out.State.Pending) != 0 {
		t.Errorf("state %+v", out.State)
	}
	if diff := cmp.Diff([]string{"2s", "1s"}, back); diff != "" {
		t.Errorf("the taker before was told (-want +got):\n%s", diff)
	}
	if clients.Load() != 1 || get[policy](t, r.Current(), "clients.user-service").Timeout != 7*time.Second {
		t.Error("the other section was kept from its change")
	}
	if got := get[serverConfig](t, r.Current(), "server").Timeout; got != time.Second {
		t.Errorf("in force: %v", got)
	}
}

func TestReloadSeparatesDefaultsAndCallees(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {}\n")
	user, billing := takes(r, "clients.user-service"), takes(r, "clients.billing")
	write(t, dir, "config.yaml", "clients: {defaults: {retries: 9}, billing: {retries: 0}}\n")
	out := r.Reload(t.Context())
	if user.Load() != 1 || billing.Load() != 0 {
		t.Errorf("%d and %d calls", user.Load(), billing.Load())
	}
	if got := lines(out.Applied); got != `clients.user-service.retries: 1 -> 9 (clients.defaults (config.yaml:1))` {
		t.Errorf("applied %q", got)
	}
	if got := lines(out.State.Pending); got != `clients.defaults.retries: 1 -> 9 (config.yaml:1)` {
		t.Errorf("nobody takes the defaults, yet pending is %q", got)
	}
}

func TestReloadTellsChangedSecretsWithoutShowingThem(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "etcd: {password: \"${file:secret}\"}\n")
	write(t, dir, "secret", "second-value")
	out := r.Reload(t.Context())
	if got := lines(out.State.Pending); got != `etcd.password: "***" -> "***" (config.yaml:1)` {
		t.Errorf("pending %q", got)
	}
}

func TestReloadOfMapsWithRestartKeys(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {quota: {eu: {rate: 1}}, labels: {a: b}}\n")
	takes(r, "server")
	write(t, dir, "config.yaml", "server: {quota: {us: {rate: 2}}, labels: {}}\n")
	out := r.Reload(t.Context())
	want := `server.labels.a: "b" -> null (removed)
server.quota.eu.burst: 0 -> null (removed)
server.quota.eu.rate: 1 -> null (removed)
server.quota.us.burst: null -> 0 (default)
server.quota.us.rate: null -> 2 (config.yaml:1)`
	if diff := cmp.Diff(want, lines(out.State.Pending)); diff != "" {
		t.Error(diff)
	}
}

type mixed struct {
	Low  int                 `config:"low" reload:"live"`
	High int                 `config:"high"`
	Per  map[string]mixedPer `config:"per"`
}

type mixedPer struct {
	Live int `config:"live" reload:"live"`
	Dead int `config:"dead"`
}

func (m mixed) Validate() error {
	if m.Low > m.High {
		return errors.New("low: above high")
	}
	return nil
}

func TestReloadWaitsForARestartWhenAPartWouldBeInvalid(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "m: {low: 1, high: 2}\n", config.Section{Path: "m", Defaults: mixed{}})
	calls := takes(r, "m")
	write(t, dir, "config.yaml", "m: {low: 5, high: 9}\n")
	out := r.Reload(t.Context())
	if got := lines(out.State.Pending); got != "m.high: 2 -> 9 (config.yaml:1)\nm.low: 1 -> 5 (config.yaml:1)" || calls.Load() != 0 {
		t.Errorf("pending %q, %d calls", got, calls.Load())
	}
}

func TestReloadOfEntriesWithKeysOfBothKinds(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "m: {per: {a: {live: 1, dead: 1}, b: {}}}\n", config.Section{Path: "m", Defaults: mixed{}})
	takes(r, "m")
	write(t, dir, "config.yaml", "m: {per: {a: {live: 2, dead: 2}, c: {live: 3}}}\n")
	out := r.Reload(t.Context())
	if got := lines(out.Applied); got != `m.per.a.live: 1 -> 2 (config.yaml:1)` {
		t.Errorf("applied %q", got)
	}
	if got := get[mixed](t, r.Current(), "m").Per; len(got) != 2 || got["a"] != (mixedPer{2, 1}) {
		t.Errorf("in force: %+v", got)
	}
}

func TestReloadRefusesAFileThatIsGone(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	if err := os.Remove(filepath.Join(dir, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	out := r.Reload(t.Context())
	if out.State.Refused == nil || !strings.Contains(out.State.Refused.Error(), "was read before and is gone") {
		t.Errorf("refused: %v", out.State.Refused)
	}
}

func TestALayerOfDocumentsAndOfWhatItCannotHold(t *testing.T) {
	t.Parallel()
	c := func(settings ...config.Setting) (*config.Config, error) {
		return load(t, "server: {max: 1}\n", func(s *config.Sources) {
			s.Layers = []config.Layer{{
				Name: "etcd /x", Documents: true, Settings: settings, Refused: map[string]string{"etcd": "it is needed before"},
			}}
		})
	}
	got, err := c(config.Setting{Key: "server", Text: "max: 2\nquota: {eu: {rate: 1}}\n"}, config.Setting{Key: "server.quota.eu", Text: "burst: 3"},
		config.Setting{Key: "", Text: "clients: {billing: {retries: 4}}"}, config.Setting{Key: "server.timeout", Text: "9s"})
	if err != nil {
		t.Fatal(err)
	}
	if s := get[serverConfig](t, got, "server"); s.Max != 2 || s.Timeout != 9*time.Second || s.Quota["eu"] != (quota{1, 3}) {
		t.Errorf("server: %+v", s)
	}
	if got.Origin("server.max") != "etcd /x:1" || got.Origin("server.timeout") != "etcd /x" {
		t.Errorf("origins %q, %q", got.Origin("server.max"), got.Origin("server.timeout"))
	}
	_, err = c(config.Setting{Key: "", Text: "etcd: {pin: 1}"}, config.Setting{Key: "etcd.password", Text: "hush"}, config.Setting{Key: "server.max", Text: "many"})
	want := `the configuration has 3 problems:
  etcd /x: server.max: "many" is not a whole number; write it in digits, for example 10
  etcd /x:1:13: etcd.pin cannot be set here: it is needed before
  etcd /x: etcd.password cannot be set here: it is needed before`
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v", err)
	}
}

func TestLoadOnlyIgnoresProblemsElsewhere(t *testing.T) {
	t.Parallel()
	src := config.Sources{Service: "x", NoFile: true, Args: []string{"--set", "server.max=-1", "--set", "nope.x=1"}}
	if _, err := config.LoadOnly(src, []string{"etcd"}, sections()...); err != nil {
		t.Error(err)
	}
	if _, err := config.LoadOnly(src, []string{"server"}, sections()...); err == nil {
		t.Error("a problem of a section that is asked for passes")
	}
}

func TestRunReloadsWhenAFileHasSettled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		src := config.Sources{Service: "blogger-user", Dir: dir, Args: []string{"--env", "dev"}}
		write(t, dir, "config.yaml", "server: {timeout: 1s}\n")
		write(t, dir, "config.dev.yaml", "server: {max: 1}\n")
		first, err := config.Load(src, sections()...)
		if err != nil {
			t.Fatal(err)
		}
		r := config.NewReloader(first, src, sections()...)
		takes(r, "server")
		outcomes := make(chan config.Outcome, 9)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx, 2*time.Second, func(o config.Outcome) { outcomes <- o }) }()

		// Half a file, and the rest before it has settled.
		wait(t, 1900*time.Millisecond)
		write(t, dir, "config.dev.yaml", "server: {timeout: 5s, max:")
		wait(t, 150*time.Millisecond)
		write(t, dir, "config.dev.yaml", "server: {timeout: 5s, max: 1}\n")
		out := <-outcomes
		if out.State.Refused != nil || lines(out.Applied) != `server.timeout: "1s" -> "5s" (config.dev.yaml:1)` {
			t.Errorf("outcome %+v", out)
		}

		// Kubernetes exchanges a link above the file.
		target := filepath.Join(dir, "..2")
		write(t, dir, "..2", "server: {timeout: 6s}\n")
		if err := errors.Join(os.Symlink(target, filepath.Join(dir, "..tmp")), os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "config.dev.yaml"))); err != nil {
			t.Fatal(err)
		}
		if out = <-outcomes; lines(out.Applied) != `server.timeout: "5s" -> "6s" (config.dev.yaml:1)` {
			t.Errorf("outcome %+v", out)
		}

		// Nothing changes, nothing is told; a kick reads at once.
		wait(t, time.Minute)
		r.Kick()
		if out = <-outcomes; out.State.Unchanged != 1 || out.State.Applied != 2 {
			t.Errorf("outcome %+v", out)
		}
		cancel()
		<-done
	})
}

// wait lets the time of a bubble pass.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
	synctest.Wait()
}

func TestATakerThatDoesNotReturnIsLeftBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		src := config.Sources{Service: "blogger-user", Dir: dir}
		write(t, dir, "config.yaml", "server: {timeout: 1s}\n")
		first, err := config.Load(src, sections()...)
		if err != nil {
			t.Fatal(err)
		}
		r := config.NewReloader(first, src, sections()...)
		free := make(chan struct{})
		r.Apply("server", func(context.Context, *config.Config, *config.Config) error { <-free; return nil })
		user := takes(r, "clients.user-service")
		write(t, dir, "config.yaml", "server: {timeout: 2s}\nclients: {user-service: {timeout: 9s}}\n")
		began := time.Now()
		out := r.Reload(t.Context())
		if time.Since(began) != config.ApplyTimeout || out.State.Failed["server"] == nil || user.Load() != 1 {
			t.Errorf("after %v: %v", time.Since(began), out.State.Failed)
		}
		if out = r.Reload(t.Context()); !strings.Contains(out.State.Failed["server"].Error(), "still busy") {
			t.Errorf("then: %v", out.State.Failed)
		}
		close(free)
		synctest.Wait()
		if out = r.Reload(t.Context()); len(out.State.Failed) != 0 || get[serverConfig](t, r.Current(), "server").Timeout != 2*time.Second {
			t.Errorf("at last: %v", out.State.Failed)
		}
	})
}

func TestNamesOfEntriesMayHaveDots(t *testing.T) {
	t.Parallel()
	c, err := load(t, "server: {quota: {a.b/c: {rate: 1}}}\n", args("--set", "server.quota.a.b/c.burst=2", "--set", "server.labels.app.io/x=y"))
	if err != nil {
		t.Fatal(err)
	}
	s := get[serverConfig](t, c, "server")
	if s.Quota["a.b/c"] != (quota{1, 2}) || s.Labels["app.io/x"] != "y" {
		t.Errorf("server: %+v", s)
	}
}
