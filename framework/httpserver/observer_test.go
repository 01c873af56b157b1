package httpserver_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/httpserver"
)

// observed notes what an observer is told.
type observed struct{ ends chan string }

func (o observed) Begin() time.Time { return time.Unix(7, 0) }

func (o observed) End(r *http.Request, status int, begun time.Time) {
	o.ends <- fmt.Sprintf("%s %s %q %d %d", r.Method, r.URL.Path, r.Pattern, status, begun.Unix())
}

func TestAnObserverIsToldOfEveryRequest(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plain/{id}", hello)
	mux.HandleFunc("/silent", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/teapot", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("at once") })
	mux.HandleFunc("/late", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("too late for another answer")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("flushing: %v", err)
		}
		_, _ = io.Copy(w, strings.NewReader("streamed"))
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("taking over: %v", err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\n")
		_ = rw.Flush()
		_ = c.Close()
	})
	o := observed{make(chan string, 1)}
	s := start(t, config(), mux, zap.NewNop(), httpserver.Observe(o))
	c := client(t, &http.Transport{DisableKeepAlives: true})
	for path, want := range map[string]string{
		"/plain/7":  `"GET /plain/{id}" 200 7`,
		"/silent":   `"/silent" 200 7`,
		"/teapot":   `"/teapot" 418 7`,
		"/panic":    `"/panic" 500 7`,
		"/late":     `"/late" 200 7`,
		"/stream":   `"/stream" 200 7`,
		"/nowhere/": `"" 404 7`,
	} {
		_, _, _ = do(t, c, http.MethodGet, "http://"+s.Addr()+path, "") // the answer of one that panics late is cut
		if got := receive(t, "the end of a request", o.ends); got != "GET "+path+" "+want {
			t.Errorf("told is %s, want GET %s %s", got, path, want)
		}
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Errorf("the answer is %q, %v", line, err)
	}
	if got := receive(t, "the end of a request", o.ends); got != `GET /hijack "/hijack" 101 7` {
		t.Errorf("told is %s", got)
	}
}
