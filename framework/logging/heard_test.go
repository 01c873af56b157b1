package logging_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/logging"
)

func TestALevelForALoggerThatNobodyHasHeardOfSaysSo(t *testing.T) {
	t.Parallel()
	l := levels(t, logging.Config{Level: "info", Format: "json", Levels: map[string]string{"servr": "warn"}})
	log, _ := observed(l)
	h := logging.NewLevelHandler(l, zap.NewNop())
	defer h.Close()
	for _, name := range []string{"discovery.etcd", "server"} {
		log.Named(name).Info("x")
	}
	const servr = `"servr":{"level":"warn","configured":"warn","note":"no logger \"servr\" has logged anything yet; did you mean \"server\"?; known: discovery.etcd, server"}`
	wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info","loggers":{`+servr+`}}`)
	// The name of those above counts as heard; one that is written later is, too.
	wantAnswer(t, h, http.MethodPut, `{"logger":"discovery","level":"debug"}`, 200,
		`{"level":"info","configured":"info","loggers":{"discovery":{"level":"debug","configured":"info"},`+servr+`}}`)
	log.Named("servr").Warn("x")
	wantAnswer(t, h, http.MethodGet, "", 200,
		`{"level":"info","configured":"info","loggers":{"discovery":{"level":"debug","configured":"info"},"servr":{"level":"warn","configured":"warn"}}}`)
}

// Somebody who makes a logger for each request must not fill the memory, and nobody is doubted from then on.
func TestNamesOfLoggersAreKeptWithinBounds(t *testing.T) {
	t.Parallel()
	l := levels(t, logging.Config{Level: "info", Format: "json"})
	log, _ := observed(l)
	h := logging.NewLevelHandler(l, zap.NewNop())
	defer h.Close()
	for n := range 10_000 {
		log.Named(fmt.Sprintf("request%d", n)).Info("x")
	}
	if code, answer := request(h, http.MethodPut, `{"logger":"discvery","level":"debug"}`); code != http.StatusOK || strings.Contains(answer, "note") {
		t.Errorf("it answers %d %s", code, answer)
	}
}
