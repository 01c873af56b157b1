//go:build unix

package why_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func TestAnEdgeThatServesHTTPOnlyIsSaidToDoSo(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.devs = []devrecord.Record{{Services: map[string]devrecord.Service{"edge": {Instances: []devrecord.Instance{{HTTP: "127.0.0.1:8080"}}}}}}
	w.expect(w.query("edge"), problem.NotFound, "ERROR edge serves HTTP only, so it is not registered and takes no calls by name", "at: newsvc dev runs it: http://127.0.0.1:8080", "fix: curl http://127.0.0.1:8080")
}

func TestACallerBelowAnotherPrefixThanAskedForIsSaidToBeThere(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.start(calltest.Service{Name: callee})
	w.start(calltest.Service{Name: caller, Client: true, Callee: callee})
	const note = "it looks below /newsvc/default, and this command below /prod: what follows is about the former"
	q := w.query(callee)
	q.From = caller
	w.expect(q, 0, "sees 1 instance, 1 usable")
	if text, _ := w.ask(q); strings.Contains(text, "this command below") {
		t.Errorf("below one prefix it says\n%s", text)
	}
	q.Place.Prefix = "/prod"
	w.expect(q, 0, note, "sees 1 instance, 1 usable")
}

func TestWhereNoCallerIsKnownItSaysHowToNameOne(t *testing.T) {
	t.Parallel()
	w, _ := newWorld(t)
	w.expect(w.query(callee), problem.NotFound, "no running caller of it was reached (0 asked; --admin HOST:PORT names one); what follows is the fresh view")
}
