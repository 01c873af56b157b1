package docs_test

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// faults are the known ways in which discovery fails. Each must be shown somewhere: in the table of faults.md, by a test
// whose name begins with its number, or by a decision that says why it is dealt with in another way.
var faults = map[string]string{
	"A1": "etcd is down when a server starts", "A2": "etcd is away for long", "A3": "reconnecting takes longer than a lease",
	"A4": "renewals stop though the lease lives", "A5": "renewals without a leader", "A6": "the process is paused",
	"A7": "elections", "A8": "an old or slow leader revokes living leases", "A9": "one member swallows everything",
	"A10": "all members are out of reach", "A11": "a restart on the same address", "A12": "registered again after the leave",
	"A13": "renewals go on after the leave", "A14": "a second lease after the watch of the own key failed",
	"A15": "somebody deletes keys", "A16": "the answer to a write is lost", "A17": "etcd has no space",
	"A18": "any other error of etcd", "A19": "tokens and permissions", "A20": "everybody at once after a restart of etcd",
	"A21": "clocks jump", "A22": "a TTL below etcd's minimum", "A23": "the dead linger after elections",
	"A24": "many leases end slowly", "A25": "many services in a process", "A26": "which address is advertised",
	"A27": "two announce the same address", "A28": "registered before it can serve", "A29": "leaks by losses",
	"A30": "etcd advertises addresses that cannot be reached", "A31": "death without a word",

	"B1": "etcd is down at the first call", "B2": "changes between list and watch", "B3": "compaction", "B4": "a quiet service in a busy etcd",
	"B5": "a token expires under a watch", "B6": "a permission is taken from a watch", "B7": "a member without a leader",
	"B8": "half-open connections", "B9": "etcd is away while calls go on", "B10": "etcd is restored from an older copy",
	"B11": "etcd is wiped", "B12": "all instances vanish at once", "B13": "values that cannot be read", "B14": "names that begin alike",
	"B15": "nobody is registered yet", "B16": "a state that gRPC refuses", "B17": "errors beside a good set",
	"B18": "metadata that changes", "B19": "a new process at the same address", "B20": "many changes in a short time",
	"B21": "subsets that change", "B22": "slow consumers", "B23": "very many instances", "B24": "many connections to one callee",
	"B25": "deadlocks while reconnecting", "B26": "a watch replays what is past", "B27": "closing and idling",
	"B28": "many hints to resolve", "B29": "etcd loses events", "B30": "a list from a member that lags", "B31": "deletions without the former value",
	"B32": "proxies of the environment", "B33": "schemes and global registration", "B34": "progress requests on a dead watch",
	"B35": "resuming from the wrong revision",

	"D1": "no time between leave and end", "D2": "calls that do not end", "D3": "a handshake delays the end",
	"D4": "Stop behind GracefulStop", "D5": "streams at the end", "D6": "a second signal", "D7": "the leave fails",
	"D8": "serving fails after registration", "D9": "the start times out", "D10": "a panic after registration",
	"D11": "a signal during the start", "D12": "what health says", "D13": "all replicas leave at once",
	"D14": "the caller does not hear of the leave", "D15": "containers",
}

// shown is where the repository shows that a fault was thought of.
type shown struct {
	table   map[string]bool   // in faults.md
	tests   map[string]string // by number, the first test of that name
	decided map[string]string // by number, the page
}

// hidden returns the faults that are not shown anywhere, with their titles.
func (s shown) hidden(faults map[string]string) []string {
	var out []string
	for _, id := range slices.SortedFunc(maps.Keys(faults), byNumber) {
		if _, tested := s.tests[id]; s.table[id] || tested || s.decided[id] != "" {
			continue
		}
		out = append(out, id+": "+faults[id])
	}
	return out
}

// byNumber orders A2 before A10.
func byNumber(a, b string) int {
	if a[0] == b[0] && len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

var (
	testOfFault = regexp.MustCompile(`(?m)^func Test([ABD])0?([0-9]{1,2})[A-Z]\w*\(t \*testing\.T\)`)
	faultIDs    = regexp.MustCompile(`\b[ABD][1-9][0-9]?\b`)
	wellAfter   = regexp.MustCompile(`^[0-9.]+ s$`)
	decidedLine = regexp.MustCompile(`(?mi)^[-* ]*faults: *(.*)$`)
)

// testsOf finds the tests of faults in a Go file; two digits follow the letter, then a word.
func testsOf(text string) map[string]string {
	out := map[string]string{}
	for _, m := range testOfFault.FindAllStringSubmatch(text, -1) {
		out[m[1]+m[2]] = strings.TrimSuffix(strings.TrimPrefix(m[0], "func "), "(t *testing.T)")
	}
	return out
}

// faultRow is one row of a table in faults.md, its cells by the heads of their columns.
type faultRow map[string]string

// tableOf reads the tables in a page that have a column "rows".
func tableOf(text string) (out []faultRow) {
	var heads []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			heads = nil
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if heads == nil {
			heads = cells
			continue
		}
		row := faultRow{}
		for i, c := range cells[:min(len(cells), len(heads))] {
			row[heads[i]] = c
		}
		if row["rows"] != "" && strings.Trim(row["rows"], "-") != "" {
			out = append(out, row)
		}
	}
	return out
}

// wrong says why a row shows nothing, or that newsvc did not stand it; empty when all is well.
func (r faultRow) wrong() string {
	switch rate, err := strconv.Atoi(r["calls/s"]); {
	case strings.Contains(r["proof"], "void") || r["proof"] == "":
		return "nobody has seen that the fault took place: " + r["proof"]
	case err != nil || rate < 200:
		return "there were too few calls to notice anything: " + r["calls/s"] + " a second"
	case !strings.HasPrefix(r["newsvc failed"], "0 of "):
		return "newsvc lost calls: " + r["newsvc failed"]
	case !wellAfter.MatchString(r["newsvc well after"]):
		return "newsvc was not well in time: " + r["newsvc well after"]
	}
	return ""
}

// covered are the known faults that the rows show in which all is well.
func covered(rows []faultRow) map[string]bool {
	out := map[string]bool{}
	for _, r := range rows {
		if r.wrong() != "" {
			continue
		}
		for _, id := range faultIDs.FindAllString(r["rows"], -1) {
			out[id] = true
		}
	}
	return out
}

func TestTheTableOfFaultsHolds(t *testing.T) {
	t.Parallel()
	rows := tableOf(read(t, "docs/faults.md"))
	if len(rows) < 20 {
		t.Errorf("docs/faults.md has %d rows, want 20 or more; write it with make faults", len(rows))
	}
	for _, r := range rows {
		if why := r.wrong(); why != "" {
			t.Errorf("%s: %s", r["id"], why)
		}
	}
}

func TestARowThatShowsNothingIsNoticed(t *testing.T) {
	t.Parallel()
	const head = "| id | rows | proof | calls/s | newsvc failed | newsvc well after |\n|---|---|---|---|---|---|\n"
	for row, want := range map[string]string{
		"| `a` | A1 | seen | 250 | 0 of 99 | 0.3 s |":                "",
		"| `a` | A1 | seen | 250 | 0 of 99, writes 2 of 9 | 0.3 s |": "",
		"| `a` | A1 | **void**: busy | 250 | void | void |":          "took place",
		"| `a` | A1 | seen | 20 | 0 of 99 | 0.3 s |":                 "too few",
		"| `a` | A1 | seen | 250 | 3 of 99 | 0.3 s |":                "lost calls",
		"| `a` | A1 | seen | 250 | 0 of 99 | never |":                "in time",
		"| `a` | A1 | seen | 250 | 0 of 99 | late: 5.2 s |":          "in time",
	} {
		rows := tableOf(head + row + "\n")
		if len(rows) != 1 {
			t.Fatalf("%d rows in %q", len(rows), row)
		}
		if why := rows[0].wrong(); !strings.Contains(why, want) || (why == "") != (want == "") {
			t.Errorf("%s: wrong() = %q, want %q", row, why, want)
		}
		if covered(rows)["A1"] != (want == "") {
			t.Errorf("%s: counts as shown: %v", row, covered(rows)["A1"])
		}
	}
}

// decisionsOf reads the lines of a page that begin with "faults:".
func decisionsOf(text string) (ids []string) {
	for _, m := range decidedLine.FindAllStringSubmatch(text, -1) {
		ids = append(ids, faultIDs.FindAllString(m[1], -1)...)
	}
	return ids
}

func TestEveryKnownFaultIsShown(t *testing.T) {
	t.Parallel()
	s := shown{table: covered(tableOf(read(t, "docs/faults.md"))), tests: map[string]string{}, decided: map[string]string{}}
	walk(t, func(file string) {
		switch {
		case strings.HasSuffix(file, "_test.go"):
			maps.Copy(s.tests, testsOf(read(t, file)))
		case path.Dir(file) == "docs/decisions" && path.Ext(file) == ".md":
			for _, id := range decisionsOf(read(t, file)) {
				s.decided[id] = file
			}
		}
	})
	for _, hidden := range s.hidden(faults) {
		t.Errorf("%s: it is neither in the table of docs/faults.md nor the subject of a test, whose name would begin with Test%s, nor decided", hidden, testPrefix(hidden))
	}
	for id := range maps.Keys(s.tests) {
		if faults[id] == "" {
			t.Errorf("%s is a test of a fault that is not listed here", s.tests[id])
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.decided), byNumber) {
		t.Logf("%s: %s: see %s", id, faults[id], s.decided[id])
	}
}

// testPrefix is how the names of a fault's tests begin: A05 for "A5: ...".
func testPrefix(fault string) string {
	id, _, _ := strings.Cut(fault, ":")
	if len(id) == 2 {
		return id[:1] + "0" + id[1:]
	}
	return id
}

func TestFaultsAreFoundWhereTheyAreShown(t *testing.T) {
	t.Parallel()
	s := shown{
		table: covered(tableOf("# Faults\n\n| id | rows | proof | calls/s | newsvc failed | newsvc well after |\n|---|---|---|---|---|---|\n" +
			"| etcd-killed | A2, B9 | killed | 250 | 0 of 9 | 1 s |\n\n| other | table |\n|---|---|\n| A3 | B4 |\n")),
		tests: testsOf("package x\n\nfunc TestA05RenewalsAreFew(t *testing.T) {\n}\n\nfunc TestD12Health(t *testing.T) {}\n\n" +
			"// func TestA07InAComment is none.\nfunc TestA1(t *testing.T) {}\n\nfunc TestA6x(t *testing.T) {}\n\nfunc helpA08Me(t *testing.T) {}\n"),
		decided: map[string]string{},
	}
	for _, id := range decisionsOf("# 1: x\n\nfaults: B2, A25\n\nThis is about faults such as A9.\n") {
		s.decided[id] = "x.md"
	}
	all := map[string]string{}
	for _, id := range []string{"A1", "A2", "A3", "A5", "A6", "A7", "A8", "A9", "A10", "A25", "B2", "B4", "B9", "D12"} {
		all[id] = "a fault"
	}
	want := []string{"A1: a fault", "A3: a fault", "A6: a fault", "A7: a fault", "A8: a fault", "A9: a fault", "A10: a fault", "B4: a fault"}
	if got := s.hidden(all); !slices.Equal(got, want) {
		t.Errorf("hidden faults are %q, want %q", got, want)
	}
	if a, b := testPrefix("A5: x"), testPrefix("D12: x"); a != "A05" || b != "D12" {
		t.Errorf("prefixes are %q and %q", a, b)
	}
}
