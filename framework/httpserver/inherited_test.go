//go:build unix

package httpserver_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/httpserver"
)

// socket opens a listening socket as a parent of several servers does, and returns one copy of it for each.
func socket(t *testing.T, copies int) (addr string, files []*os.File) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for range copies {
			n, err := syscall.Dup(int(fd))
			if err != nil {
				t.Error(err)
				return
			}
			files = append(files, os.NewFile(uintptr(n), "socket"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), files
}

// named answers with its name.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

// Between a server and its successor there is no moment at which the port is closed, and no request is lost: neither those
// on connections that were made before, nor those that ask for a new one.
func TestASuccessorTakesOverAnInheritedSocketWithoutALostRequest(t *testing.T) {
	t.Parallel()
	addr, files := socket(t, 2)
	cfg := config()
	cfg.Listen = "192.0.2.1:1" // nobody's: the socket counts
	old := start(t, cfg, named("old"), nil, httpserver.Inherited(files[0]))
	if old.Addr() != addr {
		t.Errorf("Addr = %q, want %q", old.Addr(), addr)
	}
	kept, fresh := client(t, &http.Transport{}), client(t, &http.Transport{DisableKeepAlives: true})
	get := func(c *http.Client) string {
		t.Helper()
		code, body, err := do(t, c, http.MethodPost, "http://"+addr, "a body, so that no client repeats it by itself")
		if err != nil || code != http.StatusOK {
			t.Fatalf("%d %v", code, err)
		}
		return body
	}
	if a, b := get(kept), get(fresh); a != "old" || b != "old" {
		t.Fatalf("answers %q and %q", a, b)
	}
	start(t, cfg, named("new"), nil, httpserver.Inherited(files[1]))
	old.Yield()
	for range 20 {
		if got := get(fresh); got != "new" {
			t.Fatalf("a new connection was taken by %q", got)
		}
	}
	// The connection that is open is answered by the one that has it, and closed with that answer.
	if got := get(kept); got != "old" {
		t.Errorf("the open connection was answered by %q", got)
	}
	if got := get(kept); got != "new" {
		t.Errorf("the next request was answered by %q", got)
	}
	if err := closeWithin(old, 5*time.Second); err != nil {
		t.Errorf("Close = %v", err)
	}
	if old.Err() != nil {
		t.Errorf("Err = %v", old.Err())
	}
	if got := get(kept); got != "new" {
		t.Errorf("after Close: %q", got)
	}
}

// As behind a load balancer that has not noticed yet: what it sends is answered, and no connection is kept.
func TestYieldWithoutASuccessorTakesWhatComesAndKeepsNoConnection(t *testing.T) {
	t.Parallel()
	s := start(t, config(), named("only"), nil)
	c := client(t, &http.Transport{})
	closes := func() bool {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "only" {
			t.Fatalf("%q %v", body, err)
		}
		return res.Close
	}
	if closes() {
		t.Error("the connection is closed although nobody leaves")
	}
	s.Yield()
	for range 2 { // on the old connection, and on a new one
		if !closes() {
			t.Error("the connection is kept")
		}
	}
}

func TestWhatIsNoSocketCannotBeInherited(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	s, err := httpserver.New(config(), named("x"), nil, httpserver.Inherited(f))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), os.DevNull) {
		t.Errorf("Listen = %v", err)
	}
}
