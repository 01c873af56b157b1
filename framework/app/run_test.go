package app_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSignalsStopWithStatusZero(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(sig) {
				t.Skipf("%v is ignored by whoever runs this test, nohup perhaps, and so by all processes below it", sig)
			}
			p := start(t, "all", "MY_SERVICE__REGISTRATION__ENABLED=false")
			r := p.ready()
			if r.GRPC == "" || r.HTTP == "" || r.Admin == "" || r.PID != p.cmd.Process.Pid || r.Service != "my-service" {
				t.Errorf("ready file: %+v", r)
			}
			p.signal(sig)
			p.exits(0)
			log := p.err.String()
			if !strings.Contains(log, `"msg":"stopped"`) || strings.Count(log, `"msg":"stopping"`) != 1 {
				t.Error("the log does not tell of the stop once")
			}
			if strings.Contains(log, "goroutine 1 ") != (sig == syscall.SIGQUIT) {
				t.Error("stacks belong to SIGQUIT alone")
			}
			if out := p.out.String(); out != "worker began\nworker ended\nstore closed\n" {
				t.Errorf("order: %q", out)
			}
		})
	}
}

// Without callees and a server nothing talks to etcd.
func TestNothingDialsEtcdWithoutNeed(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			_ = c.Close()
			accepted <- struct{}{}
		}
	}()
	p := start(t, "idle", "MY_SERVICE__ETCD__ENDPOINTS="+l.Addr().String())
	p.ready()
	p.signal(syscall.SIGTERM)
	p.exits(0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-accepted; ok {
		t.Error("a connection to etcd was opened")
	}
	if strings.Contains(p.err.String(), `"level":"warn"`) {
		t.Error("warnings for nothing")
	}
}

func TestServiceStartsAndStopsWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	p := start(t, "server", "NEWSVC_DEV=1")
	p.wrote(`"msg":"started"`)
	began := time.Now()
	p.signal(syscall.SIGTERM)
	p.exits(0)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the stop took %v", d)
	}
}

func TestD11SignalDuringTheStartReleasesEverything(t *testing.T) {
	t.Parallel()
	t.Run("in a hook", func(t *testing.T) {
		t.Parallel()
		p := start(t, "slow hook")
		p.wrote("hook began")
		p.signal(syscall.SIGTERM)
		p.exits(0)
		if out := p.out.String(); out != "hook began\nfirst hook stopped\nstore closed\n" {
			t.Errorf("order: %q", out)
		}
	})
	t.Run("waiting for a callee", func(t *testing.T) {
		t.Parallel()
		p := start(t, "slow callee", "MY_SERVICE__CLIENTS__USER_SERVICE__MIN_INSTANCES=1", "MY_SERVICE__LOG__LEVEL=debug")
		p.wrote("OnStart hook executing")
		p.signal(syscall.SIGQUIT)
		p.exits(0)
		p.wrote("store closed")
		p.wrote("goroutine 1 ")
	})
	t.Run("in a hook that does not return", func(t *testing.T) {
		t.Parallel()
		p := start(t, "deaf hook")
		p.wrote("hook began")
		p.signal(syscall.SIGTERM)
		p.exit()
		p.wrote("store closed")
	})
	t.Run("at random times", func(t *testing.T) {
		t.Parallel()
		for after := time.Millisecond; after < 100*time.Millisecond; after *= 2 {
			p := start(t, "all", "MY_SERVICE__REGISTRATION__ENABLED=false")
			p.wait(after)
			p.signal(syscall.SIGTERM)
			// Before Run is reached, the signal ends the process as it ends any: -1.
			if code := p.exit(); code != 0 && code != -1 {
				t.Errorf("after %v: exit status %d", after, code)
			}
		}
	})
}

// wait lets the process run for a while.
func (p *process) wait(d time.Duration) {
	ctx, cancel := context.WithTimeout(p.t.Context(), d)
	defer cancel()
	<-ctx.Done()
}

func TestD09StartTimeoutEndsTheStart(t *testing.T) {
	t.Parallel()
	p := start(t, "slow hook", "MY_SERVICE__APP__START_TIMEOUT=300ms")
	p.exits(1)
	if strings.Contains(p.err.String(), `"msg":"started"`) {
		t.Error("it served, and registered, before all hooks had run")
	}
	p.wrote("first hook stopped\nstore closed")
	p.wrote("app.start_timeout")
	p.wrote("programs_test.go:")
}

func TestMissingCalleeIsNamedWhenTheStartTimesOut(t *testing.T) {
	t.Parallel()
	p := start(t, "slow callee", "MY_SERVICE__CLIENTS__USER_SERVICE__MIN_INSTANCES=2", "MY_SERVICE__APP__START_TIMEOUT=300ms")
	p.exits(1)
	p.wrote("clients.user-service.min_instances")
	p.wrote("store closed")
}

// What does not return is waited for a while and left behind; all others have their turn.
func TestWhatDoesNotReturnIsLeftBehind(t *testing.T) {
	t.Parallel()
	hook := start(t, "deaf stop hook")
	worker := start(t, "deaf worker", "MY_SERVICE__REGISTRATION__ENABLED=false")
	constructor := start(t, "deaf constructor")
	hook.ready()
	worker.ready()
	constructor.wrote("constructor began")
	for _, p := range []*process{hook, worker, constructor} {
		p.signal(syscall.SIGTERM)
	}
	hook.exits(1)
	hook.wrote("store closed")
	hook.wrote("a stop hook does not return")
	worker.exits(1)
	worker.wrote(`worker \"beat\" does not return`)
	constructor.exits(1)
	constructor.wrote("a constructor does not return")
}

func TestD10PanicInAStartHookReleasesWhatWasBuilt(t *testing.T) {
	t.Parallel()
	p := start(t, "panicking hook")
	p.exits(1)
	if strings.Contains(p.err.String(), `"msg":"started"`) {
		t.Error("it served, and registered, before all hooks had run")
	}
	p.wrote("hook trouble")
	p.wrote("store closed")
}

// Port scanners and probes may hold a connection on which nothing is said.
func TestD03SilentConnectionsDoNotDelayTheExit(t *testing.T) {
	t.Parallel()
	p := start(t, "all", "MY_SERVICE__REGISTRATION__ENABLED=false")
	r := p.ready()
	for _, addr := range []string{r.GRPC, r.HTTP, r.Admin} {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	began := time.Now()
	p.signal(syscall.SIGTERM)
	p.exits(0)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestD06SecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, "deaf stop hook")
	p.ready()
	p.signal(syscall.SIGINT)
	p.wrote("hook began")
	began := time.Now()
	p.signal(syscall.SIGTERM)
	p.exits(128 + int(syscall.SIGTERM))
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestFailureOfAPartStopsWithStatusOne(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]string{
		"failing worker":   `worker \"beat\" ended: heart stopped`,
		"panicking worker": "heart trouble",
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			p := start(t, program)
			p.exits(1)
			p.wrote(want)
			p.wrote("stopped, but not cleanly")
		})
	}
}

func TestShutdownerChoosesTheStatus(t *testing.T) {
	t.Parallel()
	start(t, "shutdown").exits(3)
}

func TestProvidedValuesAreClosedInReverseOrder(t *testing.T) {
	t.Parallel()
	p := start(t, "order")
	p.ready()
	p.signal(syscall.SIGTERM)
	p.exits(1) // the index could not be closed
	if out := p.out.String(); out != "index closed\nstore closed\n" {
		t.Errorf("order: %q", out)
	}
	p.wrote("close app_test.index: index is broken")
}

func TestRequestThatOutlastsTheStopIsCutAndToldOf(t *testing.T) {
	t.Parallel()
	p := start(t, "all", "MY_SERVICE__REGISTRATION__ENABLED=false", "MY_SERVICE__APP__STOP_TIMEOUT=1s")
	r := p.ready()
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.HTTP+"/slow", http.NoBody)
		if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	p.wrote("request began")
	p.signal(syscall.SIGTERM)
	p.exits(0) // the request's context ends half-way, and it returns
	<-done
}

func TestLoopbackIsRefusedOutsideOfDevelopment(t *testing.T) {
	t.Parallel()
	p := start(t, "refused address", "NEWSVC_DEV=0")
	p.exits(1)
	p.wrote("set registration.advertise")
	p.wrote("NEWSVC_DEV=1")
	p.wrote("store closed")
}

func TestIntrospectionAnswersBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	for _, question := range []string{"config", "schema", "graph", "callees"} {
		p := start(t, "side effects", "NEWSVC_INTROSPECT="+question)
		p.exits(0)
		out := p.out.String()
		if !json.Valid([]byte(out)) || strings.Contains(out, "constructed") || p.err.String() != "" {
			t.Errorf("%s: %s%s", question, out, p.err.String())
		}
		if question == "callees" && !strings.Contains(out, `"name": "user-service"`) {
			t.Errorf("callees: %s", out)
		}
	}
	p := start(t, "side effects", "NEWSVC_INTROSPECT=weather")
	p.exits(1)
	p.wrote("use config, schema, graph or callees")
}

func TestAReadyFileLeftBehindIsRemovedFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := dir + "/old.json"
	if err := os.WriteFile(file, []byte(`{"service":"my-service","pid":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "slow callee", "NEWSVC_READY_FILE="+file, "MY_SERVICE__CLIENTS__USER_SERVICE__MIN_INSTANCES=1")
	eventually(t, "the old file's end", func() bool { _, err := os.Stat(file); return os.IsNotExist(err) })
	p.signal(syscall.SIGTERM)
	p.exits(0)
}

func TestGRPCsOwnLogIsTheServices(t *testing.T) {
	t.Parallel()
	p := start(t, "slow callee", "MY_SERVICE__CLIENTS__USER_SERVICE__TARGET=static:///"+closedPort(t))
	p.wrote(`"logger":"grpc"`)
	p.signal(syscall.SIGTERM)
	p.exits(0)
	for line := range strings.Lines(p.err.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line that is not the log's: %s", line)
		}
	}
}
