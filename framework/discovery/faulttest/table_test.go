package faulttest_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

func TestRowsAreTold(t *testing.T) {
	t.Parallel()
	rows := faulttest.Rows()
	if len(rows) < 24 {
		t.Errorf("there are %d rows, want 24 or more", len(rows))
	}
	var ids []string
	code := regexp.MustCompile(`^[A-D][1-9][0-9]?$`)
	for _, r := range rows {
		if slices.Contains(ids, r.ID) || !regexp.MustCompile(`^[a-z-]+$`).MatchString(r.ID) {
			t.Errorf("id %q is there twice, or no id", r.ID)
		}
		ids = append(ids, r.ID)
		if r.Fault == "" || r.Limit <= 0 || r.Members != 1 && r.Members != 3 || len(r.Covers) == 0 {
			t.Errorf("row %+v is not complete", r)
		}
		if slices.ContainsFunc(r.Covers, func(c string) bool { return !code.MatchString(c) }) {
			t.Errorf("row %s covers %q, want codes like A2", r.ID, r.Covers)
		}
	}
}

func TestThePageTellsWhatARunShowed(t *testing.T) {
	t.Parallel()
	row := func(id string) faulttest.Row {
		return faulttest.Row{ID: id, Covers: []string{"A2", "B9"}, Fault: "a | b", Members: 1, Limit: 3 * time.Second}
	}
	var page strings.Builder
	err := faulttest.Table{
		Facts: []string{"a machine"}, About: map[string]string{"good": "is good", "bad": "is not"},
		Results: []faulttest.Result{
			{Row: row("one"), Proof: "seen", Cells: []faulttest.Cell{
				{Adapter: "good", Total: 900, Rate: 250, Converged: true, After: 1200 * time.Millisecond},
				{Adapter: "bad", Total: 900, Failed: 17, Misrouted: 5, Rate: 240, Missing: "1 of 4 servers get no calls", FirstError: "x|y"},
			}},
			{Row: row("two"), Proof: "seen", Cells: []faulttest.Cell{
				{Adapter: "good", Total: 900, Writes: 400, Failed: 2, FailedWrites: 2, Rate: 250, Converged: true},
				{Adapter: "bad", Void: "it does not start"},
			}},
			{Row: row("three"), Void: "no proof"},
			{Row: row("four"), Proof: "seen", Cells: []faulttest.Cell{
				{Adapter: "good", Total: 900, Silent: 7, Rate: 250, Converged: true, LateBy: time.Millisecond},
				{Adapter: "bad", Total: 900, Rate: 250, After: 4 * time.Second, LateBy: 2 * time.Second},
			}},
		},
	}.Write(&page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| `one` | A2, B9 | a \\| b | seen | 3 s | 240 | 0 of 900 | 1.2 s | 17 of 900, 5 misrouted | never |\n",
		"| `two` | A2, B9 | a \\| b | seen | 3 s | 250 | 0 of 500, writes 2 of 400 | 0.0 s | void | void |\n",
		"| `three` | A2, B9 | a \\| b | **void**: no proof | 3 s | - | void | void | void | void |\n",
		"| `four` | A2, B9 | a \\| b | seen | 3 s | 250 | 0 of 900, 7 sent to the silent server | 0.0 s | 0 of 900 | late: 4.0 s |\n",
		"- a machine\n", "- **bad**: is not\n",
		"- `one`, bad: 1 of 4 servers get no calls; x\\|y\n", "- `two`, bad: void: it does not start\n",
		"- `four`, bad: calls returned up to 2s after their deadline\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
}

func TestOnlyWhatNobodyCouldSaveIsForgiven(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cell faulttest.Cell
		want bool
	}{
		"all is well":                 {faulttest.Cell{Converged: true}, true},
		"a write that was under way":  {faulttest.Cell{Converged: true, Failed: 2, FailedWrites: 2, WritesAtKills: 2}, true},
		"more writes than were begun": {faulttest.Cell{Converged: true, Failed: 3, FailedWrites: 3, WritesAtKills: 2}, false},
		"a read":                      {faulttest.Cell{Converged: true, Failed: 2, FailedWrites: 1}, false},
		"a wrong answer":              {faulttest.Cell{Converged: true, Misrouted: 1}, false},
		"a wrong handler":             {faulttest.Cell{Converged: true, Foreign: 1}, false},
		"too late":                    {faulttest.Cell{After: time.Minute}, false},
		"void":                        {faulttest.Cell{Converged: true, Void: "x"}, false},
	} {
		if got := c.cell.Passed(); got != c.want {
			t.Errorf("%s: passed is %v, want %v", name, got, c.want)
		}
	}
}
