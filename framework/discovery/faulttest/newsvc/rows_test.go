package newsvc_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

// rowBudget is what one row may take on a machine that has other things to do.
const rowBudget = 2 * time.Minute

// runRow runs a row of the table with newsvc alone.
func runRow(t *testing.T, row faulttest.Row) faulttest.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rowBudget)
	defer cancel()
	where := faulttest.LabOptions{Binary: built.subject, Dir: t.TempDir(), Adapters: newsvc.Adapters()}
	res, err := faulttest.RunRow(ctx, where, row, faulttest.RowOptions{
		Adapters: []string{newsvc.Name}, Servers: 2, Rate: 100, Progress: t.Logf,
		Deadline: 5 * time.Second, Busy: rowBudget, // other tests run meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func rowNamed(t *testing.T, id string) faulttest.Row {
	t.Helper()
	rows := faulttest.RowsMatching(regexp.MustCompile("^" + regexp.QuoteMeta(id) + "$"))
	if len(rows) != 1 {
		t.Fatalf("%d rows are called %q, want 1", len(rows), id)
	}
	return rows[0]
}

// The whole table is the work of make faults; these three are quick.
func TestFaultsCostNewsvcNoCall(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"keys-deleted", "compacted", "servers-rolled"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			res := runRow(t, rowNamed(t, id))
			if res.Void != "" || res.Proof == "" {
				t.Fatalf("the row is void: %q, proof %q", res.Void, res.Proof)
			}
			if len(res.Cells) != 1 || res.Cells[0].Total < 100 || !res.Cells[0].Passed() {
				t.Errorf("cells are %v, want one that passed", res.Cells)
			}
		})
	}
}

func TestAFaultThatDidNotTakePlaceMakesTheRowVoid(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"leases-revoked", "etcd-frozen"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			res := runRow(t, rowNamed(t, id).Harmless())
			if !strings.Contains(res.Void, "no proof that the fault took place") || len(res.Cells) != 0 {
				t.Errorf("void is %q, cells are %v; want no cells for want of a proof", res.Void, res.Cells)
			}
		})
	}
}
