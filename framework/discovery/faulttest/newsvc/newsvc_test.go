package newsvc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const patience = 20 * time.Second

// field is a lab with an etcd in it.
type field struct {
	*faulttest.Lab
	t       *testing.T
	ctx     context.Context //nolint:containedctx // that of the test, for all its steps
	cluster *faulttest.Cluster
	etcd    faulttest.Etcd
}

func newField(t *testing.T, members int) *field {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	lab := newLab(t, built.subject)
	cluster, err := lab.StartCluster(ctx, faulttest.ClusterConfig{Members: members})
	if err != nil {
		t.Fatal(err)
	}
	return &field{Lab: lab, t: t, ctx: ctx, cluster: cluster, etcd: faulttest.Etcd{Endpoints: cluster.Endpoints()}}
}

func (f *field) server(adapter, service string) *faulttest.ServerProc {
	f.t.Helper()
	s, err := f.StartServer(f.ctx, faulttest.ServerOptions{Adapter: adapter, Service: service, Etcd: f.etcd})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *field) client(opt faulttest.ClientOptions) *faulttest.ClientProc {
	f.t.Helper()
	opt.Etcd = f.etcd
	c, err := f.StartClient(f.ctx, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// meets waits until the client has been answered by all servers, and begins a new phase.
func (f *field) meets(c *faulttest.ClientProc, servers ...*faulttest.ServerProc) {
	f.t.Helper()
	for _, s := range servers {
		if _, err := c.AwaitProcess(f.ctx, s); err != nil {
			f.t.Fatal(err)
		}
	}
	must(f.t)(c.Mark(f.ctx))
}

// must returns a function that fails the test at an error and passes the value on.
func must(t *testing.T) func(faulttest.Report, error) faulttest.Report {
	return func(r faulttest.Report, err error) faulttest.Report {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// failures is what failed, for texts.
func failures(all []faulttest.Failure) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(f.At.Format("15:04:05.000") + " " + f.Kind + " due " + f.Due.Format("15:04:05.000") + " of " + f.Server + " " + f.Code + ": " + f.Text + "\n")
	}
	return b.String()
}

func TestAKilledServerFailsNoCallThatMayBeRepeated(t *testing.T) {
	t.Parallel()
	f := newField(t, 1)
	a, b := f.server(newsvc.Name, "kill-service"), f.server(newsvc.Name, "kill-service")
	c := f.client(faulttest.ClientOptions{Adapter: newsvc.Name, Service: "kill-service", Rate: 200, Writes: 0.3, Work: 20 * time.Millisecond})
	f.meets(c, a, b)

	before, err := c.Stats(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err := a.Kill(f.ctx); err != nil {
		t.Fatal(err)
	}
	last, err := c.AwaitSilence(f.ctx, a.Addr(), 500*time.Millisecond)
	if err != nil || last.After(killed.Add(100*time.Millisecond)) {
		t.Errorf("it was killed at %v and answered until %v, %v", killed, last, err)
	}
	again, err := a.Again(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitProcess(f.ctx, again); err != nil {
		t.Error(err)
	}
	r := must(t)(c.Stop(f.ctx))
	if reads := r.Failed - r.FailedWrites; reads > 0 || r.FailedWrites > before.InFlight+5 {
		t.Errorf("%d reads and %d writes failed, about %d calls were in flight:\n%s", reads, r.FailedWrites, before.InFlight, failures(r.Failures))
	}
	if r.ByProcess[b.PID()].Count == 0 || r.Total < 100 || r.WorstGap == 0 || r.CloseTook == 0 {
		t.Errorf("the report is incomplete: %+v", r)
	}
}

func TestAMisroutedCallIsRefusedAndWouldBeCounted(t *testing.T) {
	t.Parallel()
	f := newField(t, 1)
	for _, tt := range []struct {
		adapter  string
		answered bool
	}{{newsvc.Name, false}, {newsvc.NoAuthority, true}} {
		s := f.server(tt.adapter, "real-service")
		wanted := "wanted-" + strings.TrimPrefix(tt.adapter, "newsvc-")
		key := discovery.Key(discovery.DefaultPrefix, wanted, s.Addr())
		if _, err := f.cluster.Admin().Put(f.ctx, key, s.Addr()); err != nil {
			t.Fatal(err)
		}
		c := f.client(faulttest.ClientOptions{Adapter: newsvc.Name, Service: wanted, Rate: 100, Streams: 1, Deadline: 500 * time.Millisecond})
		r := must(t)(c.Await(f.ctx, "calls that failed", func(r faulttest.Report) bool { return r.Failed > 50 }))
		stats, err := s.Stats(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Misrouted > 0; got != tt.answered || r.Failed != r.Total {
			t.Errorf("%s: %d of %d calls failed, %d were answered by the wrong service, want some: %v", tt.adapter, r.Failed, r.Total, r.Misrouted, tt.answered)
		}
		if got := stats.Foreign > 0; got != tt.answered || stats.Foreign != stats.Executed {
			t.Errorf("%s: the server executed %d calls for others, of %d, want some: %v", tt.adapter, stats.Foreign, stats.Executed, tt.answered)
		}
	}
}

func TestCallsThatNobodyServesFailAtTheirDeadline(t *testing.T) {
	t.Parallel()
	f := newField(t, 1)
	c := f.client(faulttest.ClientOptions{Adapter: newsvc.Name, Service: "late-service", Rate: 100, Deadline: 500 * time.Millisecond})
	r := must(t)(c.Await(f.ctx, "failed calls", func(r faulttest.Report) bool { return r.Failed > 20 }))
	if r.Total != r.Failed || r.LateBy <= 0 || r.LateBy > 400*time.Millisecond || r.WorstGap < 500*time.Millisecond {
		t.Errorf("%d of %d calls failed, up to %v after their deadline, without success for %v", r.Failed, r.Total, r.LateBy, r.WorstGap)
	}
	for _, x := range r.Failures {
		if x.Code != codes.DeadlineExceeded.String() || x.Kind != faulttest.KindRead || !strings.Contains(x.Text, "late-service") {
			t.Errorf("a failure does not say what failed: %+v", x)
		}
	}
	s := f.server(newsvc.Name, "late-service")
	if at, err := c.AwaitServer(f.ctx, s.Addr()); err != nil || time.Since(at) > time.Second {
		t.Errorf("the first answer came at %v, %v", at, err)
	}
	f.meets(c, s)
	if r := must(t)(c.Await(f.ctx, "answers", func(r faulttest.Report) bool { return r.Total > 50 })); r.Failed > 0 {
		t.Errorf("%d calls failed while a server served:\n%s", r.Failed, failures(r.Failures))
	}
}

func TestStreamsEndWithAWordOrAreLost(t *testing.T) {
	t.Parallel()
	for _, adapter := range []string{newsvc.Name, newsvc.DeafStreams} {
		t.Run(adapter, func(t *testing.T) {
			t.Parallel()
			f := newField(t, 1)
			a := f.server(adapter, "stream-service")
			c := f.client(faulttest.ClientOptions{Adapter: newsvc.Name, Service: "stream-service", Rate: 50, Streams: 6})
			must(t)(c.Await(f.ctx, "its streams open", func(r faulttest.Report) bool { return r.Streams.Open == 6 }))
			b := f.server(adapter, "stream-service")
			f.meets(c, a, b)
			if err := a.Stop(f.ctx); err != nil {
				t.Fatal(err)
			}
			r := must(t)(c.Await(f.ctx, "its streams open again", func(r faulttest.Report) bool { return r.Streams.Open == 6 }))
			if s := r.Streams; s.Drained != 6 || s.Lost > 0 || s.Opened != 6 {
				t.Errorf("%d streams ended with a word, %d were lost, %d opened:\n%s", s.Drained, s.Lost, s.Opened, failures(s.Failures))
			}
			if r.Failed > 0 {
				t.Errorf("%d calls failed:\n%s", r.Failed, failures(r.Failures))
			}
			if err := b.Kill(f.ctx); err != nil {
				t.Fatal(err)
			}
			r = must(t)(c.Await(f.ctx, "its streams lost", func(r faulttest.Report) bool { return r.Streams.Open == 0 }))
			if s := r.Streams; s.Lost != 6 || len(s.Failures) != 6 {
				t.Errorf("%d streams were lost, of 6:\n%s", s.Lost, failures(s.Failures))
			}
		})
	}
}

func TestCallsThatReturnTooLateAreMeasured(t *testing.T) {
	t.Parallel()
	lab := newLab(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := lab.StartClient(ctx, faulttest.ClientOptions{Adapter: adapterLate, Service: "x", Rate: 50, Deadline: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(c.Await(ctx, "failed calls", func(r faulttest.Report) bool { return r.Failed > 10 }))
	if r := must(t)(c.Stop(ctx)); r.LateBy < lateness || r.LateBy > 3*lateness {
		t.Errorf("calls returned %v too late, measured were %v", lateness, r.LateBy)
	}
}

func TestADialThatHangsFailsCallsAndDelaysNobody(t *testing.T) {
	t.Parallel()
	lab := newLab(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := lab.StartClient(ctx, faulttest.ClientOptions{Adapter: adapterHanging, Service: "x", Rate: 50, Streams: 2, Deadline: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(c.Await(ctx, "failed calls", func(r faulttest.Report) bool { return r.Failed > 10 }))
	r := must(t)(c.Stop(ctx))
	if r.Failed != r.Total || !r.Dialed.IsZero() || r.Failures[0].Code != faulttest.CodeNoConnection {
		t.Errorf("%d of %d calls failed, dialed %v, first %+v", r.Failed, r.Total, r.Dialed, r.Failures[0])
	}
}

func TestAClientThatStoodStillMakesNoCallsForThatTime(t *testing.T) {
	t.Parallel()
	f := newField(t, 1)
	s := f.server(newsvc.Name, "still-service")
	c := f.client(faulttest.ClientOptions{Adapter: newsvc.Name, Service: "still-service", Rate: 100, Deadline: time.Second})
	f.meets(c, s)
	if err := c.Freeze(f.ctx); err != nil {
		t.Fatal(err)
	}
	if err := backoff.Sleep(f.ctx, 2500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	r := must(t)(c.Await(f.ctx, "calls again", func(r faulttest.Report) bool { return r.Skipped > 0 && r.Total > 20 }))
	if r.Skipped < 100 || r.Skipped > 400 || r.WorstGap < 2*time.Second {
		t.Errorf("%d calls of about 250 were skipped, nothing was answered for %v", r.Skipped, r.WorstGap)
	}
	if stats, err := c.Stats(f.ctx); err != nil || stats.Stalled < 2*time.Second {
		t.Errorf("it says that it waited %v for its turn, %v", stats.Stalled, err)
	}
}
