package stack_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestInstanceIsRegisteredWhileItServes(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Process.ReadyFile = filepath.Join(t.TempDir(), "ready.json")
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(reg.Instances(service)) != 0 {
		t.Error("registered before the start")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ready file", func() bool { _, err := stack.ReadReady(p.Process.ReadyFile); return err == nil })
	r, err := stack.ReadReady(p.Process.ReadyFile)
	grpc, _, admin := s.Addresses()
	if err != nil || r.GRPC != grpc || r.Admin != admin || r.HTTP != "" || r.PID != os.Getpid() || r.Incarnation != s.Incarnation() {
		t.Errorf("ready file %+v, %v", r, err)
	}
	all := reg.Instances(service)
	if len(all) != 1 || all[0].Addr != grpc || all[0].Admin != admin || all[0].Incarnation != s.Incarnation() {
		t.Fatalf("instances %+v", all)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(reg.Instances(service)); n != 0 || s.Readiness().Report().Ready {
		t.Errorf("%d instances and ready=%v after the drain", n, s.Readiness().Report().Ready)
	}
	if _, err := os.Stat(p.Process.ReadyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the ready file is still there: %v", err)
	}
	free(t, grpc)
	if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context()), s.Close(t.Context())); err != nil {
		t.Error(err)
	}
	free(t, admin)
}

func TestStepsAreSafeInAnyState(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string]func(*stack.Stack) error{
		"drain alone":           func(s *stack.Stack) error { return errors.Join(s.Drain(t.Context()), s.Drain(t.Context())) },
		"close alone":           func(s *stack.Stack) error { return errors.Join(s.Close(t.Context()), s.Close(t.Context())) },
		"close, then drain":     func(s *stack.Stack) error { return errors.Join(s.Close(t.Context()), s.Drain(t.Context())) },
		"connect and close":     func(s *stack.Stack) error { return errors.Join(s.Connect(t.Context()), s.Close(t.Context())) },
		"start without connect": func(s *stack.Stack) error { return errors.Join(s.Start(t.Context()), s.Close(t.Context())) },
		"close of what still runs": func(s *stack.Stack) error {
			return errors.Join(s.Connect(t.Context()), s.Start(t.Context()), s.Close(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, reg, _ := params(t)
			s := build(t, p)
			began := time.Now()
			if err := steps(s); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("it took %v", d)
			}
			if s.Start(t.Context()) == nil || s.Connect(t.Context()) == nil {
				t.Error("it began anew")
			}
			if n := len(reg.Instances(service)); n != 0 {
				t.Errorf("%d instances are left", n)
			}
		})
	}
}

// A signal may come at any time during the start.
func TestD11StopDuringTheStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for range 100 {
		p, reg, _ := params(t)
		s := build(t, p)
		if err := s.Handle("here", http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if s.Connect(t.Context()) == nil {
				_ = s.Start(t.Context()) // it may have been stopped
			}
		})
		wg.Go(func() {
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n := len(reg.Instances(service)); n != 0 {
			t.Fatalf("%d instances are left", n)
		}
	}
}

func TestStopEndsTheWaitForACallee(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Callees = []string{"absent-service"}
	p.Config.ClientDefaults.MinInstances = 1 // there is no policy of the callee's own
	s := build(t, p)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { failed <- s.Connect(t.Context()) })
	eventually(t, "the admin server", func() bool { _, _, admin := s.Addresses(); return admin != "" })
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "absent-service") || !strings.Contains(err.Error(), "being stopped") {
		t.Errorf("connect: %v", err)
	}
}

func TestFailedStartReleasesEverything(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*stack.Params){
		"no address to advertise": func(p *stack.Params) { p.Process.Dev = false },
		"http port busy": func(p *stack.Params) {
			p.Process.Dev = false
			p.Config.Registration.Enabled = false
			p.Config.HTTP.Listen = p.Config.Admin.Listen
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, reg, _ := params(t)
			p.Config.Server.Listen, p.Config.Admin.Listen = reserved(t), reserved(t)
			spoil(&p)
			s := build(t, p)
			if err := s.Handle("here", http.NotFoundHandler()); err != nil {
				t.Fatal(err)
			}
			worked := make(chan struct{})
			s.Work("beat", func(ctx context.Context) error { defer close(worked); <-ctx.Done(); return nil })
			if err := s.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			err := s.Start(ctx)
			cancel()
			if err == nil {
				t.Fatal("it started")
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("it took %v", d)
			}
			<-worked
			free(t, p.Config.Server.Listen)
			if err := s.Close(t.Context()); err != nil || len(reg.Instances(service)) != 0 {
				t.Errorf("close: %v, instances %v", err, reg.Instances(service))
			}
			free(t, p.Config.Admin.Listen)
		})
	}
}

func TestTasksRunFromBeforeTheRegistrationUntilAfterTheDrain(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	s := build(t, p)
	began, ended := make(chan int, 1), make(chan int, 1)
	s.Work("beat", func(ctx context.Context) error {
		began <- len(reg.Instances(service))
		<-ctx.Done()
		ended <- len(reg.Instances(service))
		return ctx.Err()
	})
	up(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if <-began; <-ended != 0 {
		t.Error("the task ended before the instance had left")
	}
}

func TestFailureOfATaskIsReportedOnce(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	failed := make(chan error, 3)
	p.Failed = func(err error) { failed <- err }
	s := build(t, p)
	s.Work("a", func(context.Context) error { return errors.New("trouble") })
	s.Work("b", func(context.Context) error { panic("trouble") })
	s.Work("c", func(context.Context) error { return nil })
	up(t, s)
	if err := <-failed; !strings.Contains(err.Error(), "trouble") || !strings.Contains(err.Error(), "worker") {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil || len(failed) > 0 {
		t.Errorf("close: %v, reports: %d more", err, len(failed))
	}
}

func TestListenerThatDiesIsReported(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Replace.Listener = l
	failed := make(chan error, 1)
	p.Failed = func(err error) { failed <- err }
	s := build(t, p)
	up(t, s)
	_ = l.Close() // behind the server's back
	if err := <-failed; !strings.Contains(err.Error(), "server stopped serving") {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatWasProvidedIsClosedBeforeConnections(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	s := build(t, p)
	closed := &closer{s: s}
	s.CloseLater(closed)
	up(t, s)
	if err := s.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "close *stack_test.closer: no") {
		t.Errorf("close: %v", err)
	}
	if closed.ready || closed.conn != nil {
		t.Errorf("closed while ready=%v, connections: %v", closed.ready, closed.conn)
	}
}

type closer struct {
	s     *stack.Stack
	ready bool
	conn  error
}

func (c *closer) Close() error {
	c.ready = c.s.Readiness().Report().Ready
	_, c.conn = c.s.Clients().Conn("other-service") // a closed factory refuses
	return errors.New("no")
}

func TestDiscoveryPageDuringTheStart(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _, admin := s.Addresses()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range 20 {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/debug/discovery", http.NoBody)
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	if err := s.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewRefusesWhatIsNoServiceName(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Service = "User"
	if _, err := stack.New(p); err == nil || !strings.Contains(err.Error(), `"User"`) {
		t.Errorf("err = %v", err)
	}
	p, _, _ = params(t)
	p.Callees = []string{"no_name"}
	if _, err := stack.New(p); err == nil || !strings.Contains(err.Error(), `"no_name"`) {
		t.Errorf("err = %v", err)
	}
}

func TestEtcdClientIsThereOnlyWhenDiscoveryIsNotReplaced(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	if _, err := build(t, p).NeedEtcd(); err == nil || !strings.Contains(err.Error(), "apptest.WithEtcd") {
		t.Errorf("err = %v", err)
	}
	p.Replace = stack.Replace{}
	if cli, err := build(t, p).NeedEtcd(); err != nil || cli == nil {
		t.Errorf("client %v, err = %v", cli, err)
	}
}

func TestLogIsOptional(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Log = nil
	s := build(t, p)
	up(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUnknownQuestionIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := (stack.Question{Ask: "weather"}).Answer(); err == nil || !strings.Contains(err.Error(), "callees") {
		t.Errorf("err = %v", err)
	}
}

var _ discovery.Registrar = (*refusing)(nil)
