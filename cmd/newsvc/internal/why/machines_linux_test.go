package why_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// machine is a network of its own, with a loopback of its own, as a second computer has.
type machine struct {
	name, addr string
}

// on is what starts a program there.
func (m machine) on() []string { return []string{"ip", "netns", "exec", m.name} }

// machines makes two that are joined by a cable, or skips the test with the reason why it can't.
func machines(t *testing.T) (a, b machine) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the program ip (iproute2): ", err)
	}
	ip := func(args ...string) (string, error) {
		// Without the end of the test: cleanups come after it.
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for n, m := range []*machine{&a, &b} {
		m.name, m.addr = fmt.Sprintf("newsvc-why-%d-%d", os.Getpid(), n+1), fmt.Sprintf("10.214.0.%d", n+1)
		if out, err := ip("netns", "add", m.name); err != nil {
			t.Skip("network namespaces can't be made here: ", out)
		}
		t.Cleanup(func() { // after the processes, which were started later
			if out, err := ip("netns", "del", m.name); err != nil {
				t.Errorf("a network namespace is left: %v: %s", err, out)
			}
		})
	}
	if out, err := ip("link", "add", "cable", "netns", a.name, "type", "veth", "peer", "name", "cable", "netns", b.name); err != nil {
		t.Skip("there are no virtual cables here: ", out)
	}
	for _, m := range []machine{a, b} {
		for _, args := range [][]string{{"addr", "add", m.addr + "/30", "dev", "cable"}, {"link", "set", "cable", "up"}, {"link", "set", "lo", "up"}} {
			if out, err := ip(append([]string{"-n", m.name}, args...)...); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
		}
	}
	return a, b
}

// program builds newsvc itself: a thread can move to another machine, a Go program can't.
func program(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "newsvc")
	if out, err := exec.CommandContext(limit(t), "go", "build", "-buildvcs=false", "-o", bin, "../..").CombinedOutput(); err != nil {
		t.Fatalf("build newsvc: %v\n%s", err, out)
	}
	return bin
}

// run runs newsvc on a machine, as somebody without any newsvc dev, and returns what it prints and its exit code.
func (m machine) run(t *testing.T, bin string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	line := append(append(m.on(), bin), args...)
	cmd := exec.CommandContext(limit(t), line[0], line[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir(), "NEWSVC_ETCD=")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestALoopbackAddressIsOfNoUseToASecondMachine(t *testing.T) {
	t.Parallel()
	a, b := machines(t)
	bin := program(t)
	w, _ := newWorldOn(t, a.on(), a.addr+":0")
	server, _ := w.start(calltest.Service{Name: callee}) // which advertises 127.0.0.1, where it listens
	w.on = b.on()
	client, _ := w.start(calltest.Service{Name: caller, Client: true, Callee: callee})

	const cause = "it advertises a loopback address, which leads every caller to its own machine; here nobody listens there: connection refused"
	for name, q := range map[string]struct {
		args []string
		who  string
	}{
		"a caller there": {[]string{"--admin", client.Admin}, "gateway "},
		"a new caller":   {nil, "a new caller"},
	} {
		var out, errs string
		var exit int
		row := ""
		eventually(t, "the connection to be known to fail, for "+name, func() bool {
			out, errs, exit = b.run(t, bin, append([]string{"why", callee, "--etcd", w.etcd}, q.args...)...)
			row = causeIn(out)
			return strings.Contains(row, "TRANSIENT_FAILURE")
		})
		if want := "ADDR INSTANCE up NOT USABLE TRANSIENT_FAILURE " + cause + "; last error: dial tcp ADDR: connect: connection refused"; row != want {
			t.Errorf("%s: the line is\n%s, want\n%s", name, row, want)
		}
		if !strings.Contains(out, "  "+server.GRPC+"  ") || !strings.Contains(out, q.who) {
			t.Errorf("%s: %s and %q are not in the report:\n%s", name, server.GRPC, q.who, out)
		}
		verdict := "\n   at: " + server.GRPC + ": " + cause + "\n  fix: registration.advertise: HOST in its config.yaml, an address that callers can reach\n"
		if exit != problem.Conflict || !strings.HasPrefix(errs, "newsvc: none of 1 instance of blogger-user is usable for "+q.who) || !strings.HasSuffix(errs, verdict) {
			t.Errorf("%s: exit %d with\n%s, want %d and\n%s", name, exit, errs, problem.Conflict, verdict)
		}
	}
	// On its own machine it can be called: nothing but the address is wrong.
	if out, errs, exit := a.run(t, bin, "why", callee, "--etcd", w.etcd); exit != 0 || !strings.Contains(out, "a new caller sees 1 instance, 1 usable") {
		t.Errorf("where it runs: exit %d\n%s\n%s", exit, out, errs)
	}
}
