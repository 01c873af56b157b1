package faulttest_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
	probev1 "github.com/newsvc/newsvc/proto/probe/v1"
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
	c := runRow(t, rowNamed(t, "servers-rolled").Haunted())
	if want := "1 of 2 servers that left are still in etcd"; c.Missing != want || c.Converged || c.Passed() {
		t.Errorf("missing is %q, converged %v; want %q and not converged", c.Missing, c.Converged, want)
	}
}

// Callers send it calls until they notice, or until its lease ends, 3.3 s to 5 s after the stop.
func TestASilentServerGetsCallsThatNobodyLostUntilItIsGone(t *testing.T) {
	t.Parallel()
	c := runRow(t, rowNamed(t, "server-silent").HauntedLate())
	if c.Failed > 0 || c.Silent == 0 {
		t.Errorf("%v; the silent server got %d calls until %v after the stop", c, c.Silent, c.After)
	}
	// Who could not say that it left is looked for at the end.
	if want := "at the end 1 of 1 servers that left are still in etcd"; c.Missing != want || c.Converged || c.Passed() {
		t.Errorf("missing is %q, converged %v; want %q and not converged", c.Missing, c.Converged, want)
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

func TestWhoLeavesIsAskedBeforeWhatItRanForOthers(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	p, err := newLab(t).StartServer(ctx, faulttest.ServerOptions{
		Adapter: newsvc.NoAuthority, Service: "mine", Etcd: faulttest.Etcd{Endpoints: []string{"127.0.0.1:1"}}, // none is there
	})
	must(t, err)
	cc, err := grpc.NewClient(p.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer cc.Close()
	for _, wanted := range []string{"mine", "yours"} {
		_, err = probev1.NewProbeServiceClient(cc).Read(metadata.AppendToOutgoingContext(ctx, "probe-service", wanted), &probev1.ReadRequest{}, grpc.WaitForReady(true))
		must(t, err)
	}
	if foreign, err := faulttest.Retire(ctx, p); err != nil || foreign != 1 {
		t.Errorf("it ran %d calls for others, %v; want 1", foreign, err)
	}
	must(t, p.Kill(ctx))
	if _, err := faulttest.Retire(ctx, p); err == nil {
		t.Error("a server that was killed told what it ran")
	}
}

func TestOnlyWhatASilentServerDidNotAnswerIsNoFailure(t *testing.T) {
	t.Parallel()
	const silent, living = "127.0.0.1:1", "127.0.0.1:2"
	late := func(server string) faulttest.Failure {
		return faulttest.Failure{Kind: faulttest.KindRead, Code: "DeadlineExceeded", Text: "late", Server: server}
	}
	for name, tt := range map[string]struct {
		r                    faulttest.Report
		failed, writes, told int64
		first                string
	}{
		"sent to it": {faulttest.Report{
			Failed: 3, FailedWrites: 1, Failures: []faulttest.Failure{late(silent)},
			Unanswered: map[string]faulttest.Unanswered{silent: {Count: 3, Writes: 1}},
		}, 0, 0, 3, ""},
		"sent to a living one": {faulttest.Report{
			Failed: 3, FailedWrites: 1, Failures: []faulttest.Failure{late(silent), late(living)},
			Unanswered: map[string]faulttest.Unanswered{silent: {Count: 1}, living: {Count: 2, Writes: 1}},
		}, 2, 1, 1, "a read failed, DeadlineExceeded: late"},
		"cut by it": {faulttest.Report{
			Failed: 1, Failures: []faulttest.Failure{{Kind: faulttest.KindRead, Code: "Unavailable", Text: "cut", Server: silent}},
		}, 1, 0, 0, "a read failed, Unavailable: cut"},
	} {
		c := faulttest.CellOf(tt.r, silent)
		if c.Failed != tt.failed || c.FailedWrites != tt.writes || c.Silent != tt.told || c.FirstError != tt.first {
			t.Errorf("%s: %d failed, %d of them writes, %d were sent to it, first %q; want %d, %d, %d, %q",
				name, c.Failed, c.FailedWrites, c.Silent, c.FirstError, tt.failed, tt.writes, tt.told, tt.first)
		}
	}
}
