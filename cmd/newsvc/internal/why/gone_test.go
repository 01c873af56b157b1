//go:build unix

package why_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/discovery"
)

// lease announces an instance that nobody runs, with a lease of a minute.
func (w *world) lease(service, addr string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(limit(w.t), 30*time.Second)
	defer cancel()
	l, err := w.client().Grant(ctx, 60)
	if err == nil {
		_, err = w.client().Put(ctx, discovery.Key(discovery.DefaultPrefix, service, addr), addr, clientv3.WithLease(l.ID))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestAProcessThatWasKilledIsSaidToBeGone(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	server, p := w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), 0, "1 usable")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil && devrecord.Alive(server.PID) {
		t.Fatal(err)
	}
	gone := fmt.Sprintf(`its process is gone \(pid %d\); its key stays until its lease ends, in at most \d+s`, server.PID)
	w.line(problem.Conflict, server.GRPC, "NOT USABLE .*"+gone)
	w.expect(w.query(callee), problem.Conflict, "fix: see the lines of blogger-user in newsvc dev, which starts it again; newsvc ls blogger-user -w")
	if text, _ := w.ask(w.query(callee)); strings.Contains(text, "loopback") {
		t.Errorf("the address is blamed:\n%s", text)
	}

	// A newsvc dev that has noticed knows how it ended, and that a fresh one runs elsewhere.
	w.devs[0].Services[callee] = devrecord.Service{Gone: []devrecord.Gone{{
		Instance: devrecord.Instance{PID: server.PID, GRPC: server.GRPC}, How: "signal: killed",
	}}}
	w.line(problem.Conflict, server.GRPC, strings.Replace(gone, `\)`, `, signal: killed\)`, 1))
	w.start(calltest.Service{Name: callee})
	w.line(0, server.GRPC, "NOT USABLE .*"+strings.Replace(gone, `\)`, `, signal: killed\)`, 1))
	w.expect(w.query(callee), 0, "sees 2 instances, 1 usable")
}

// Nobody's record tells, and etcd, the caller and all that is registered are on this machine.
func TestOnOneMachineNobodyAtALoopbackAddressIsNotTheFaultOfTheAddress(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.lease(callee, "127.0.0.1:1")
	const cause = "nobody listens there: connection refused: its process is gone or not started yet; its key stays until its lease ends, in at most "
	w.expect(w.query(callee), problem.Conflict, "the fresh view of a new caller", cause, "fix: start it: newsvc dev in its directory; newsvc ls blogger-user -w")
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.expect(w.query(callee), problem.Conflict, "none of 1 instance of blogger-user is usable for gateway ", cause)
	if text, _ := w.ask(w.query(callee)); strings.Contains(text, "loopback") {
		t.Errorf("the address is blamed:\n%s", text)
	}
	// From the moment at which another machine has something registered, the address may be the cause.
	w.lease("mail-service", "192.0.2.7:9000")
	w.line(problem.Conflict, "127.0.0.1:1", "it advertises a loopback address, which leads every caller to its own machine; here nobody listens there: connection refused")
}

func TestOnOneMachineAnotherServiceHasTheAddressOfOneThatIsGone(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	other, _ := w.start(calltest.Service{Name: "mail-service"})
	w.lease(callee, other.GRPC)
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	w.line(problem.Conflict, other.GRPC, `NOT USABLE .*its process is gone; another service answers there: this is service "mail-service",.*; its key stays until its lease ends, in at most \d+s`)
}

// A key without a lease, as other programs write them, stays for ever.
func TestAKeyThatNobodyLeasesIsSaidToStay(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.announce("127.0.0.1:1", discovery.StateUp)
	w.expect(w.query(callee), problem.Conflict, "its key has no lease and stays until somebody deletes it", "fix: newsvc doctor      has the command that deletes its key")
	if text, _ := w.ask(w.query(callee)); !regexp.MustCompile(`(?m)^  127\.0\.0\.1:1 .*NOT USABLE`).MatchString(text) {
		t.Errorf("it is not said to be of no use:\n%s", text)
	}
}
