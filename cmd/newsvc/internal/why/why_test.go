//go:build unix

package why_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/why"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

// envEtcd makes this process an etcd that writes its address into that file; it listens at envListen, which may be empty.
const (
	envEtcd   = "WHY_ETCD"
	envListen = "WHY_ETCD_LISTEN"
)

func TestMain(m *testing.M) {
	if code, ran := calltest.Main(); ran {
		os.Exit(code)
	}
	if addr := os.Getenv(envEtcd); addr != "" {
		os.Exit(etcdMain(addr))
	}
	goleak.VerifyTestMain(m)
}

// etcdMain is an etcd that lives until it is killed; it writes where it listens into a file.
func etcdMain(file string) int {
	etcd, err := devetcd.Start(context.Background(), devetcd.Config{Fast: true, ClientAddr: os.Getenv(envListen)})
	if err == nil {
		err = os.WriteFile(file+".tmp", []byte(etcd.Addr()), 0o600)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-etcd.Done()
	return 0
}

// world is an etcd and services, each in a process of its own.
type world struct {
	t    *testing.T
	etcd string
	devs []devrecord.Record
	on   []string // the command that starts programs on another machine; empty: on this one
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := limit(t)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// spawn starts this program in another role. It is killed, and waited for, at the end of the test.
func spawn(t *testing.T, on []string, env ...string) *os.Process {
	t.Helper()
	line := append(slices.Clone(on), os.Args[0])
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed
	})
	return cmd.Process
}

func newWorld(t *testing.T) (*world, *os.Process) {
	t.Helper()
	return newWorldOn(t, nil, "")
}

// newWorldOn has its etcd listen at an address of the machine that on leads to.
func newWorldOn(t *testing.T, on []string, listen string) (*world, *os.Process) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "etcd")
	p := spawn(t, on, envEtcd+"="+file, envListen+"="+listen)
	w := &world{t: t, on: on}
	eventually(t, "etcd", func() bool {
		addr, err := os.ReadFile(file)
		w.etcd = string(addr)
		return err == nil
	})
	return w, p
}

// start starts a service and waits until it is ready. It is in the record of a newsvc dev from then on.
func (w *world) start(o calltest.Service) (stack.Ready, *os.Process) {
	w.t.Helper()
	o.Etcd, o.ReadyFile = []string{w.etcd}, filepath.Join(w.t.TempDir(), "ready")
	p := spawn(w.t, w.on, calltest.Env(o))
	var r stack.Ready
	eventually(w.t, o.Name, func() bool {
		var err error
		r, err = stack.ReadReady(o.ReadyFile)
		return err == nil
	})
	w.devs = append(w.devs, devrecord.Record{Services: map[string]devrecord.Service{o.Name: {Instances: []devrecord.Instance{{PID: r.PID, GRPC: r.GRPC, Admin: r.Admin}}}}})
	return r, p
}

func (w *world) query(callee string) why.Query {
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = []string{w.etcd}
	return why.Query{
		Callee: callee, Timeout: 2 * time.Second,
		Place: locate.Place{Etcd: cfg, Prefix: discovery.DefaultPrefix, How: locate.HowFlag, Devs: w.devs},
	}
}

// ask returns the report as text, followed by the verdict, and the exit code.
func (w *world) ask(q why.Query) (text string, exit int) {
	w.t.Helper()
	r, err := why.Ask(limit(w.t), q)
	if err == nil {
		var b bytes.Buffer
		if err := r.Write(&b); err != nil {
			w.t.Fatal(err)
		}
		text = b.String()
		err = r.Err()
	}
	if err != nil {
		text += "\nERROR " + err.Error()
	}
	return text, problem.Code(err)
}

// expect asks until the answer is as it is to be.
func (w *world) expect(q why.Query, exit int, lines ...string) {
	w.t.Helper()
	var text string
	var code int
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the last answer, exit %d:\n%s", code, text)
		}
	}()
	eventually(w.t, fmt.Sprintf("exit %d and %q", exit, lines), func() bool {
		text, code = w.ask(q)
		for _, l := range lines {
			if !strings.Contains(text, l) {
				return false
			}
		}
		return code == exit
	})
}

const (
	callee = "blogger-user"
	caller = "gateway"
)

func TestAUsableCalleeIsSaidToBeUsable(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	server, _ := w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "sees 1 instance, 1 usable", server.GRPC, "READY", "up to date: last word from etcd", "etcd answers: 1 instance registered")
	q := w.query(callee)
	q.From = "nobody"
	w.expect(q, problem.NotFound, "no running instance of nobody is known")
	q.From, q.Callee = caller, "blogger-usr"
	w.expect(q, problem.NotFound, "gateway does not call blogger-usr; it calls blogger-user\n", "fix: newsvc why blogger-user")
	q = w.query(callee)
	q.Admin = "127.0.0.1:1"
	w.expect(q, problem.Environment, "no caller answers", "connection refused")
}

// scene is something that keeps a caller from its callee, with real processes, and what is asked then.
type scene struct {
	*world
	asked why.Query
	// server is the instance that it is about, and process its process; zero when it is about none.
	server  stack.Ready
	process *os.Process
}

func (s scene) says(exit int, lines ...string) {
	s.t.Helper()
	s.expect(s.asked, exit, lines...)
}

func wrongPrefix(t *testing.T) scene {
	t.Helper()
	w, _ := newWorld(t)
	server, p := w.start(calltest.Service{Name: callee, Prefix: "/newsvc/eu"})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	return scene{w, w.query(callee), server, p}
}

func TestCauseWrongPrefix(t *testing.T) {
	t.Parallel()
	s := wrongPrefix(t)
	s.says(problem.NotFound,
		"wrong prefix: below /newsvc/eu there is "+s.server.GRPC,
		"ERROR wrong prefix: blogger-user is registered below /newsvc/eu, and looked for below /newsvc/default",
		"fix: discovery.prefix: /newsvc/eu in the config.yaml of the caller")
}

func TestCauseWrongPrefixOfTheCallerAlone(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee, Prefix: "/newsvc/eu"})
	w.expect(w.query(callee), problem.Conflict, "ERROR wrong prefix: blogger-user is registered below /newsvc/default, and gateway ", " looks below /newsvc/eu")
}

func typo(t *testing.T) scene {
	t.Helper()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: "bloger-user"})
	return scene{world: w, asked: w.query("bloger-user")}
}

func TestCauseTypo(t *testing.T) {
	t.Parallel()
	typo(t).says(problem.NotFound,
		"ERROR no instance of bloger-user is registered; did you mean blogger-user?",
		`fix: newsvc why blogger-user      in main.go: app.Client("blogger-user", ...)`)
}

// etcdFrozen is an etcd that answers nobody any more, after the caller has learned what there is.
func etcdFrozen(t *testing.T) scene {
	t.Helper()
	w, etcd := newWorld(t)
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "1 usable")
	freeze(t, etcd)
	return scene{world: w, asked: w.query(callee), process: etcd}
}

func TestCauseEtcdFrozen(t *testing.T) {
	t.Parallel()
	s := etcdFrozen(t)
	// What the caller knows still serves: that is no error.
	s.says(0, "etcd does not answer: no answer from etcd at "+s.etcd, "what callers know may be old", "sees 1 instance, 1 usable")
	s.says(0, "failing since")
}

func serverStopped(t *testing.T) scene {
	t.Helper()
	w, _ := newWorld(t)
	server, p := w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "1 usable")
	freeze(t, p)
	return scene{w, w.query(callee), server, p}
}

func TestCauseServerStopped(t *testing.T) {
	t.Parallel()
	s := serverStopped(t)
	s.says(problem.Conflict,
		"takes connections and answers nothing: its process is stopped (SIGSTOP, a debugger) or overloaded; pid ",
		fmt.Sprintf("fix: kill -CONT %d", s.server.PID))
}

func freeze(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// ejected is a sick instance among three that are well.
func ejected(t *testing.T) scene {
	t.Helper()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: callee})
	sick, p := w.start(calltest.Service{Name: callee, Sick: true})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	return scene{w, w.query(callee), sick, p}
}

func TestCauseEjected(t *testing.T) {
	t.Parallel()
	s := ejected(t)
	lineOf := func(pattern string) {
		s.line(0, s.server.GRPC, `NOT USABLE +READY +takes no calls: `+pattern)
	}
	lineOf(`ejected until \d\d:\d\d:\d\d \(in [0-9.]+m?s\): .*(in a row failed|of its last calls failed)`)
	freeze(t, s.process) // so that it is asked after its sentence, and does not answer
	lineOf(`ejected, being probed: its health service did not answer within 1s \(ejected [0-9.]+m?s ago: `)
	s.says(0, "sees 4 instances, 3 usable") // which is no error: others take the calls
}

func loopbackAdvertised(t *testing.T) scene {
	t.Helper()
	w, _ := newWorld(t)
	server, p := w.start(calltest.Service{Name: callee, Advertise: "127.0.0.1:1"}) // as it looks from another machine: nobody is there
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	return scene{w, w.query(callee), server, p}
}

func TestCauseLoopbackAdvertised(t *testing.T) {
	t.Parallel()
	loopbackAdvertised(t).says(problem.Conflict,
		"it advertises a loopback address, which leads every caller to its own machine",
		"fix: registration.advertise: HOST in its config.yaml")
}

func TestWithoutACallerTheViewIsFresh(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	server, _ := w.start(calltest.Service{Name: callee})
	w.expect(w.query(callee), 0, "no running caller of it was reached", "the fresh view of a new caller in this process", "a new caller sees 1 instance, 1 usable", server.GRPC)
}
