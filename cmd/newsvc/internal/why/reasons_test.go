//go:build unix

package why_test

import (
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/discovery"
)

// line waits until the answer has a line that contains addr and is like the pattern, and the exit code is as it is to be.
func (w *world) line(exit int, addr, pattern string) {
	w.t.Helper()
	like := regexp.MustCompile(pattern)
	var text string
	var code int
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the last answer, exit %d:\n%s", code, text)
		}
	}()
	eventually(w.t, "a line of "+addr+" like "+pattern, func() bool {
		text, code = w.ask(w.query(callee))
		for l := range strings.Lines(text) {
			if code == exit && strings.Contains(l, addr) && like.MatchString(l) {
				return true
			}
		}
		return false
	})
}

// client is a client of the etcd that everybody here uses.
func (w *world) client() *clientv3.Client {
	w.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{w.etcd}, DialTimeout: time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// forget deletes everything that etcd has of the callee, at once.
func (w *world) forget() {
	w.t.Helper()
	res, err := w.client().Delete(limit(w.t), discovery.ServicePrefix(discovery.DefaultPrefix, callee), clientv3.WithPrefix())
	if err != nil || res.Deleted == 0 {
		w.t.Fatalf("it was not deleted: %v", err)
	}
}

// announce registers a running instance in a state of the test's choice.
func (w *world) announce(addr string, state discovery.State) {
	w.t.Helper()
	value, err := discovery.Encode(&discovery.Instance{Service: callee, Addr: addr, State: state, Incarnation: discovery.NewIncarnation(), Weight: 100})
	if err == nil {
		_, err = w.client().Put(limit(w.t), discovery.Key(discovery.DefaultPrefix, callee, addr), string(value))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestReasonHeldByTheGuard(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	var addrs []string
	var kill []func() error
	for range 3 {
		r, p := w.start(calltest.Service{Name: callee})
		addrs, kill = append(addrs, r.GRPC), append(kill, p.Kill)
	}
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "sees 3 instances, 3 usable")
	for _, k := range kill { // as their leases would, all at once
		if err := k(); err != nil {
			t.Fatal(err)
		}
	}
	w.forget()
	for _, addr := range addrs {
		w.line(problem.Conflict, addr, `NOT USABLE +TRANSIENT_FAILURE +vanished \S+ ago without draining; held by the guard until \d\d:\d\d:\d\d; takes no calls: .*; its process is gone \(pid \d+\)`)
	}
	w.expect(w.query(callee), problem.Conflict, "etcd answers: 0 instances registered", "sees 3 instances, 0 usable", "ERROR none of 3 instances of blogger-user is usable for gateway ")
}

func TestReasonDraining(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee})
	leaves, _ := w.start(calltest.Service{Name: callee, Mute: true}) // it is registered by hand
	w.announce(leaves.GRPC, discovery.StateUp)
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "sees 2 instances, 2 usable")
	w.announce(leaves.GRPC, discovery.StateDraining)
	w.line(0, leaves.GRPC, `draining +NOT USABLE +- +not used: it is draining`)
	w.expect(w.query(callee), 0, "sees 2 instances, 1 usable")
	w.announce(leaves.GRPC, discovery.StateUp) // it changed its mind
	w.expect(w.query(callee), 0, "sees 2 instances, 2 usable")
}

func TestReasonOutsideTheSubset(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	for range 3 {
		w.start(calltest.Service{Name: callee})
	}
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee, Subset: 2})
	w.expect(w.query(callee), 0, "sees 3 instances, 2 usable")
	w.line(0, "", `up +NOT USABLE +- +not used: outside the subset of 2`)
}

func TestReasonBreakerOpen(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee, Sick: true})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee, Breaker: true})
	w.line(problem.Conflict, "  breaker open: ", `breaker open: \d+ of \d+ calls failed in the last 10s, and \d+ were refused for that \(breaker.enabled\)`)
	w.expect(w.query(callee), problem.Conflict, "sees 1 instance, 0 usable", "ERROR none of 1 instance of blogger-user is usable for gateway ", "at: breaker open: ", "the breaker lets calls pass again by itself")
}

// As it looks from a machine that has another service of its own at that port.
func TestReasonSomebodyElseAnswersAtALoopbackAddress(t *testing.T) {
	t.Parallel()
	w, _ := newWorldOn(t, nil, ownAddr(t)+":0") // so that others may be registered there, too
	other, _ := w.start(calltest.Service{Name: "mail-service"})
	w.announce(other.GRPC, discovery.StateUp)
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.line(problem.Conflict, other.GRPC, `NOT USABLE +TRANSIENT_FAILURE +it advertises a loopback address, which leads every caller to its own machine; here another service answers there: this is service "mail-service"`)
	w.expect(w.query(callee), problem.Conflict, "fix: registration.advertise: HOST in its config.yaml")
}

// ownAddr is an address of this machine that others can reach, too.
func ownAddr(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this machine has no address besides loopback")
	return ""
}
