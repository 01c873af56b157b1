package main_test

import (
	"encoding/json"
	"net"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
)

func remedy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: remedy CHECK [ARGS...]")
	}
	again := "newsvc doctor -o json " + strings.Join(args[1:], " ")
	_ = ts.Exec("sh", "-c", again) // ends with 4
	f, ok := findingOf(ts, args[0])
	if !ok {
		ts.Fatalf("doctor has no finding of %q", args[0])
	}
	if f.Fix == "" {
		ts.Fatalf("the finding has no remedy: %+v", f)
	}
	ts.Logf("paste: %s", f.Fix)
	_ = ts.Exec("sh", "-c", "{\n"+f.Fix+"\n} >&2\n"+again)
	if after, still := findingOf(ts, args[0]); still {
		ts.Fatalf("after %s there is still %+v", f.Fix, after)
	}
}

// findingOf reads what doctor just printed.
func findingOf(ts *testscript.TestScript, check string) (doctor.Finding, bool) {
	var report doctor.Report
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &report))
	if len(report.Checks) < 3 {
		ts.Fatalf("doctor looked at %d things only", len(report.Checks))
	}
	for _, f := range report.Checks {
		if f.Check == check && (f.Level == doctor.Warn || f.Level == doctor.Fail) {
			return f, true
		}
	}
	return doctor.Finding{}, false
}

func listen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen KEY")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}
