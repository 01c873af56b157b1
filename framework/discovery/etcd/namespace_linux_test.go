package etcd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own behind a cable, into which one can listen. What is lost on a real network is lost
// without a word, and so it is here: nobody gets a reset.
type namespace struct {
	t          *testing.T
	name       string
	near, here string // the link's end on our side, and our address on it
	addr       string
}

// newNamespace makes one, or skips the test with the reason why it can't. n tells namespaces of one process apart.
func newNamespace(t *testing.T, n int) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the program ip (iproute2): ", err)
	}
	id := (os.Getpid()*4 + n) % 256
	s := &namespace{
		t: t, name: fmt.Sprintf("newsvc-%d-%d", os.Getpid(), n), near: fmt.Sprintf("nsv%d", id),
		here: fmt.Sprintf("10.213.%d.1", id), addr: fmt.Sprintf("10.213.%d.2", id),
	}
	far := s.near + "x"
	if out, err := s.try("netns", "add", s.name); err != nil {
		t.Skip("network namespaces can't be made here: ", out)
	}
	t.Cleanup(func() { _, _ = s.try("link", "del", s.near); _, _ = s.try("netns", "del", s.name) })
	if out, err := s.try("link", "add", s.near, "type", "veth", "peer", "name", far, "netns", s.name); err != nil {
		t.Skip("there are no virtual cables here: ", out)
	}
	s.ip("addr", "add", s.here+"/30", "dev", s.near)
	s.ip("link", "set", s.near, "up")
	s.ip("-n", s.name, "addr", "add", s.addr+"/30", "dev", far)
	s.ip("-n", s.name, "link", "set", far, "up")
	s.ip("-n", s.name, "link", "set", "lo", "up")
	return s
}

func (s *namespace) try(args ...string) (string, error) {
	// Without the end of the test: cleanups come after it.
	out, err := exec.CommandContext(context.WithoutCancel(s.t.Context()), "ip", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (s *namespace) ip(args ...string) {
	s.t.Helper()
	if out, err := s.try(args...); err != nil {
		s.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// cut makes everything that goes out of the namespace vanish, or lets it through again.
func (s *namespace) cut(cut bool) {
	s.t.Helper()
	if cut {
		s.ip("-n", s.name, "route", "add", "blackhole", s.here+"/32")
	} else {
		s.ip("-n", s.name, "route", "del", "blackhole", s.here+"/32")
	}
}

// listen opens a socket within the namespace; the process stays where it is.
func (s *namespace) listen() net.Listener {
	s.t.Helper()
	type opened struct {
		l   net.Listener
		err error
	}
	result := make(chan opened)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		l, err := func() (net.Listener, error) {
			ns, err := os.Open("/var/run/netns/" + s.name)
			if err != nil {
				return nil, err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			return net.Listen("tcp", s.addr+":0")
		}()
		result <- opened{l, err}
	}()
	r := <-result
	if r.err != nil {
		s.t.Fatal(r.err)
	}
	return r.l
}
