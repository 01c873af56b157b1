package faulttest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Row is one fault: what is done to etcd, to links or to processes while callers call, how it is known to have been
// done, and how soon all must be well again.
type Row struct {
	// ID names the row: lower case with hyphens.
	ID string
	// Covers are the failures of the design's tables that the row shows, such as "A2".
	Covers []string
	// Fault says what is done, for readers.
	Fault string
	// Members is the size of the etcd cluster.
	Members int
	// Limit is the time within which all must be well again after the fault has ended.
	Limit time.Duration
	// From says what Limit and the time to converge are counted from, when it is not the end of the fault.
	From string

	cluster ClusterConfig // Members is filled in
	writes  float64       // the share of calls that must not be repeated
	links   links
	hold    time.Duration // 0: that of the options
	work    time.Duration // how long handlers take, so that calls are under way when a server ends
	// settled: calls of callers that start during the fault cannot be answered by anybody before its end, and do not count
	// until then. Those of the first caller do.
	settled bool
	// orderly: who leaves can tell etcd so at once, and is gone from there within Limit. In other rows the keys of those that
	// were killed, or left while etcd did not answer, are gone when their leases have ended; that is looked at at the end.
	orderly bool
	// prepare runs before servers and callers start, ready when all of them work; neither is part of the fault.
	prepare, ready func(s *stage, ctx context.Context) error
	// inject does it. It also changes the set: the suite waits for what stage.newcomer starts.
	inject func(s *stage, ctx context.Context) error
	// proof looks during the fault, after once it has ended, whether it took place. At least one is there.
	proof, after func(s *stage, ctx context.Context) (string, error)
	// heal ends the fault. Nil: there is nothing to end.
	heal func(s *stage, ctx context.Context) error
}

// Harmless is the row without its fault: the set changes, and that is all. It must come out void; so it is known that the
// proof is one.
func (r Row) Harmless() Row {
	r.heal = nil
	r.inject = func(s *stage, ctx context.Context) error {
		s.newcomers(ctx)
		return nil
	}
	return r
}

// links says who reaches etcd through proxies, one for each member, which the row may then cut.
type links struct {
	clients, servers bool
	// pinned lets them reach only the first member until all of them work, so that their streams are there.
	pinned bool
}

// RowOptions are the circumstances that all rows share. The zero value is what docs/faults.md is made with.
type RowOptions struct {
	// Adapters stand side by side against the one etcd of each row. Empty: all of the lab's.
	Adapters []string
	// Servers is how many each adapter starts with; default 3. Rate is the number of calls a second of each adapter's
	// caller; default 250.
	Servers, Rate int
	// TTL is that of announcements; default 5 s. Hold is [DialConfig.Hold]; default 20 s. Deadline is that of calls;
	// default 2 s.
	TTL, Hold, Deadline time.Duration
	// Busy is by how much calls may be made late before a row says nothing because the machine was busy with other things;
	// default a quarter of Deadline.
	Busy time.Duration
	// Grace is how much longer than the limit is waited for those who are late; default 3 s.
	Grace time.Duration
	// Progress is told of each step; nil: nobody.
	Progress func(format string, args ...any)
}

func (o RowOptions) withDefaults(adapters []Adapter) RowOptions {
	if len(o.Adapters) == 0 {
		for _, a := range adapters {
			o.Adapters = append(o.Adapters, a.Name)
		}
	}
	o.Servers, o.Rate = orInt(o.Servers, 3), orInt(o.Rate, 250)
	o.TTL, o.Hold = orDuration(o.TTL, 5*time.Second), orDuration(o.Hold, 20*time.Second)
	o.Deadline, o.Grace = orDuration(o.Deadline, 2*time.Second), orDuration(o.Grace, 3*time.Second)
	o.Busy = orDuration(o.Busy, o.Deadline/4)
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	return o
}

func orInt(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func orDuration(v, def time.Duration) time.Duration {
	if v == 0 {
		return def
	}
	return v
}

// Result is what a row showed.
type Result struct {
	// Row is the row, Began and Took when and how long.
	Row   Row
	Began time.Time
	Took  time.Duration
	// Proof is what shows that the fault took place. Void is why the row says nothing: there was no proof, or the suite
	// itself failed.
	Proof, Void string
	// Behind is the most by which a call was made later than it was due: the machine was busy. TooBusy says that it was
	// too much, and the row is void for that; it may be run again.
	Behind  time.Duration
	TooBusy bool
	// Cells are the results of the adapters, in the order of RowOptions.Adapters.
	Cells []Cell
}

// Cell is what a row showed of one adapter.
type Cell struct {
	// Adapter is its name.
	Adapter string
	// Void is why the cell says nothing: the adapter did not even work before the fault.
	Void string
	// Total counts the calls during and after the fault, Failed those that failed, all of them while servers were alive.
	// Writes and FailedWrites are those among them that must not be repeated.
	Total, Failed, Writes, FailedWrites int64
	// WritesAtKills bounds the failed writes that killed servers explain: for each kill, those that begin in 100 ms.
	WritesAtKills int64
	// Silent counts the calls that were sent to a server that stood still, and got no answer before their deadlines. No
	// living server had them: they are not among Failed and FailedWrites.
	Silent int64
	// Misrouted counts the calls that another service answered, Foreign those that another service's handler ran.
	Misrouted, Foreign int64
	// Rate is the number of calls a second.
	Rate float64
	// Converged says whether all was well within the limit: each living server has answered calls, the newcomers too, and
	// is in etcd; those that left are not, or at the end of the row where they could not say so. After is how long that took; Missing what was missing when it was not.
	Converged bool
	After     time.Duration
	Missing   string
	// FirstError is what the first failed call said.
	FirstError string
	// LateBy is the most by which a call returned after its deadline, from the beginning of the fault on.
	LateBy time.Duration
}

// Passed reports whether nothing was lost: no call that may be repeated failed, and of the others
// no more than can have been under way at the servers that were killed; none went to the wrong service, and all
// was well again in time.
func (c Cell) Passed() bool {
	return c.Void == "" && c.Failed == c.FailedWrites && c.FailedWrites <= c.WritesAtKills && c.Misrouted == 0 && c.Foreign == 0 && c.Converged
}

// rowTimeout bounds a whole row, should something of the suite itself hang.
const rowTimeout = 4 * time.Minute

// RunRow runs one row in a lab of its own, with a fresh etcd. The result tells everything; the error says that ctx ended.
func RunRow(ctx context.Context, where LabOptions, row Row, opt RowOptions) (Result, error) {
	opt = opt.withDefaults(where.Adapters)
	res := Result{Row: row, Began: time.Now()}
	lab, err := NewLab(where)
	if err == nil {
		s := newStage(lab, row, opt)
		limited, cancel := context.WithTimeout(ctx, rowTimeout)
		err = s.run(limited, &res)
		cancel()
		if cerr := errors.Join(s.close(), lab.Close()); cerr != nil {
			opt.Progress("%s: clearing up: %v", row.ID, cerr)
		}
	}
	res.Took = time.Since(res.Began)
	if err != nil {
		res.Void = err.Error()
	}
	if res.Void != "" {
		opt.Progress("%s: void: %s", row.ID, res.Void)
	}
	return res, context.Cause(ctx)
}

// run is the course of a row. Its error says what went wrong in the suite itself.
func (s *stage) run(ctx context.Context, res *Result) error {
	if err := s.setUp(ctx); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if err := s.mark(ctx); err != nil {
		return err
	}
	s.say("fault")
	if err := s.do(ctx, s.row.inject); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	proof, err := s.prove(ctx, s.row.proof)
	if err != nil {
		res.Void = "no proof that the fault took place: " + err.Error()
	}
	if err := s.do(ctx, s.row.heal); err != nil {
		return fmt.Errorf("end the fault: %w", err)
	}
	if s.healed.IsZero() {
		s.healed = time.Now()
	}
	if res.Void != "" {
		return nil
	}
	s.say("ended; waiting until everybody knows everybody")
	s.converge(ctx)
	late, err := s.prove(ctx, s.row.after)
	if err != nil {
		res.Void = "no proof that the fault took place: " + err.Error()
	}
	res.Proof = join(proof, late)
	s.finish(ctx)
	for _, d := range s.sides {
		res.Cells = append(res.Cells, d.cell)
		res.Behind = max(res.Behind, d.behind)
	}
	if res.Behind > s.opt.Busy && res.Void == "" {
		res.TooBusy = true
		res.Void = fmt.Sprintf("the machine was busy with other things: calls were made up to %v late", res.Behind.Round(time.Millisecond))
	}
	return nil
}

func (s *stage) do(ctx context.Context, step func(*stage, context.Context) error) error {
	if step == nil {
		return nil
	}
	return step(s, ctx)
}

func (s *stage) prove(ctx context.Context, look func(*stage, context.Context) (string, error)) (string, error) {
	if look == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return look(s, ctx)
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
