package faulttest_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

func rowNamed(t *testing.T, id string) faulttest.Row {
	t.Helper()
	rows := faulttest.RowsMatching(regexp.MustCompile("^" + id + "$"))
	if len(rows) != 1 {
		t.Fatalf("%d rows are called %q, want 1", len(rows), id)
	}
	return rows[0]
}

// runRow runs a row with newsvc alone and returns what it showed.
func runRow(t *testing.T, row faulttest.Row) faulttest.Cell {
	t.Helper()
	program, err := subject()
	must(t, err)
	where := faulttest.LabOptions{Binary: program, Dir: t.TempDir(), Adapters: newsvc.Adapters()}
	res, err := faulttest.RunRow(within(t, 2*time.Minute), where, row, faulttest.RowOptions{
		Adapters: []string{newsvc.Name}, Servers: 2, Rate: 50, Progress: t.Logf,
		Deadline: 5 * time.Second, Busy: 2 * time.Minute, Grace: time.Second, // other tests run meanwhile
	})
	must(t, err)
	if res.Void != "" || len(res.Cells) != 1 {
		t.Fatalf("the row is void: %q, cells are %v", res.Void, res.Cells)
	}
	return res.Cells[0]
}

func TestWhoLeftMustNotStayInEtcd(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"servers-rolled": "1 of 2 servers that left are still in etcd", // while the row waits for all to be well
		"server-killed":  "at the end 1 of 2 servers that left are still in etcd",
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			c := runRow(t, rowNamed(t, id).Haunted())
			if c.Missing != want || c.Converged || c.Passed() {
				t.Errorf("missing is %q, converged %v; want %q and not converged", c.Missing, c.Converged, want)
			}
		})
	}
}

func TestAnAddressThatWasTakenOverIsNoRemainder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		left, live, inEtcd string
		want               string
	}{
		"nobody left":               {"", "a/1", "a/1", ""},
		"all are gone":              {"a/1 a/2", "a/3", "a/3", ""},
		"one stays":                 {"a/1 a/2", "a/3", "a/3 a/2", "1 of 2 servers that left are still in etcd"},
		"somebody took its address": {"a/1 a/2", "a/1", "a/1", ""},
		"another service took it":   {"a/1", "b/1", "a/1 b/1", "1 of 1 servers that left are still in etcd"},
		"of another service":        {"b/1", "a/2", "b/1 a/2", "1 of 1 servers that left are still in etcd"},
	} {
		if got := faulttest.Stale(strings.Fields(tt.left), strings.Fields(tt.live), strings.Fields(tt.inEtcd)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
