package main_test

import (
	"encoding/json"
	"net"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
)

// fixLine is how the remedy stands in what doctor prints for people.
var fixLine = regexp.MustCompile(`^ +fix: (.*)$`)

func remedy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: remedy CHECK [ARGS...]")
	}
	again := "newsvc doctor " + strings.Join(args[1:], " ")
	_ = ts.Exec("sh", "-c", again) // ends with 4
	fix := printedFix(ts.ReadFile("stdout"), args[0])
	if fix == "" {
		ts.Fatalf("doctor prints no finding of %q with a remedy", args[0])
	}
	ts.Logf("paste: %s", fix)
	_ = ts.Exec("sh", "-c", "{\n"+fix+"\n} >&2 || exit 99\n"+again+" -o json")
	if after, still := findingOf(ts, args[0]); still {
		ts.Fatalf("after %s there is still %+v", fix, after)
	}
}

// printedFix is the remedy of the first finding of a check, word by word.
func printedFix(out, check string) string {
	in := false
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if m := fixLine.FindStringSubmatch(line); m != nil && in {
			return m[1]
		}
		if words := strings.Fields(line); len(words) > 1 && !strings.HasPrefix(line, " ") {
			in = (words[0] == "FAIL" || words[0] == "warn") && words[1] == check
		}
	}
	return ""
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
