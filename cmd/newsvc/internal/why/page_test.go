//go:build unix

package why_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// pageOf is an admin server that says this of one callee.
func pageOf(t *testing.T, callee string) string {
	t.Helper()
	now := time.Now().Format(time.RFC3339Nano)
	text := strings.ReplaceAll(`{"service":"gateway","incarnation":"ABCDEFGH","time":"NOW","prefix":"/newsvc/default","callees":[`+callee+`]}`, "NOW", now)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debug/discovery" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text)) // the test sees that it is not there
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestAnOpenBreakerMakesNothingUsable(t *testing.T) {
	t.Parallel()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	w := &world{t: t, etcd: etcd.Addr()}
	q := w.query(callee)
	q.Admin = pageOf(t, `{"callee":"blogger-user","connection":{"connectivity":"READY","breaker":"open: 40 of 60 calls failed"},"known":true,"revision":7,
		"as_of":"NOW","began":"NOW","failing_since":"NOW","error":"no sign of life","instances":[{"addr":"192.0.2.1:9","state":"up","used":true}]}`)
	text, exit := w.ask(q)
	for _, want := range []string{"breaker open: 40 of 60 calls failed", "failing since 0.", "no sign of life", "ERROR none of 1 instance of blogger-user is usable for gateway abcd"} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if exit != 4 || t.Failed() {
		t.Errorf("exit %d:\n%s", exit, text)
	}
}

func TestAnAdminServerOfSomebodyElseIsSaidToBeOne(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	w := &world{t: t, etcd: "127.0.0.1:1"}
	q := w.query(callee)
	q.Admin = s.URL
	text, exit := w.ask(q)
	if exit != 3 || !strings.Contains(text, "no caller answers") || !strings.Contains(text, "404") {
		t.Errorf("exit %d:\n%s", exit, text)
	}
}
