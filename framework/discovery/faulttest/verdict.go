package faulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// listed says which of an adapter's living servers are not in etcd; empty: none.
func (s *stage) listed(ctx context.Context, d *side) string {
	prefix := d.adapter.Keys(d.service)
	keys, err := s.keys(ctx, prefix)
	if err != nil {
		return "etcd does not answer"
	}
	missing := 0
	for _, p := range d.live {
		if !keys[prefix+p.Addr()] {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Sprintf("%d of %d servers are not in etcd", missing, len(d.live))
	}
	return ""
}

// lingering says how many of those that left are still in etcd; empty: none. The key of a server whose address another
// one has taken over is that one's.
func (s *stage) lingering(ctx context.Context, d *side) string {
	inEtcd := map[string]bool{}
	for _, service := range d.leftServices() {
		keys, err := s.keys(ctx, d.adapter.Keys(service))
		if err != nil {
			return "etcd does not answer"
		}
		maps.Copy(inEtcd, keys)
	}
	return d.stale(inEtcd)
}

// leftServices are the services of those that left, each once.
func (d *side) leftServices() (names []string) {
	for _, p := range d.left {
		if !slices.Contains(names, p.opt.Service) {
			names = append(names, p.opt.Service)
		}
	}
	return names
}

// stale is the text of lingering, given the keys that are in etcd.
func (d *side) stale(inEtcd map[string]bool) string {
	taken := map[string]bool{}
	for _, p := range slices.Concat(d.live, d.other) {
		taken[d.keyOf(p)] = true
	}
	n := 0
	for _, p := range d.left {
		if key := d.keyOf(p); inEtcd[key] && !taken[key] {
			n++
		}
	}
	if n > 0 {
		return fmt.Sprintf("%d of %d servers that left are still in etcd", n, len(d.left))
	}
	return ""
}

// keyOf is where a server announces itself.
func (d *side) keyOf(p *ServerProc) string { return d.adapter.Keys(p.opt.Service) + p.addr }

// keys returns the keys below a prefix, as the first member says that answers for all: others may be cut off.
func (s *stage) keys(ctx context.Context, prefix string) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	type listing struct {
		resp *clientv3.GetResponse
		err  error
	}
	listings := make(chan listing, s.cluster.Members())
	var asked loop.Group
	defer asked.Stop()
	for i := range s.cluster.Members() {
		asked.Start(ctx, func(ctx context.Context) {
			resp, err := s.cluster.Member(i).direct().Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
			listings <- listing{resp, err}
		})
	}
	var err error
	for range s.cluster.Members() {
		l := <-listings
		if err = l.err; err == nil {
			keys := map[string]bool{}
			for _, kv := range l.resp.Kvs {
				keys[string(kv.Key)] = true
			}
			return keys, nil
		}
	}
	return nil, err
}

// unused says which of an adapter's living servers have not answered since then; empty: none. settled tells whether
// only newcomers are among them.
func (d *side) unused(ctx context.Context, since time.Time) (text string, settled bool) {
	settled = true
	for _, c := range d.clients {
		r, err := c.Report(ctx)
		if err != nil {
			return err.Error(), false
		}
		n := 0
		for _, p := range d.live {
			if a, ok := r.ByProcess[p.PID()]; !ok || !a.Last.After(since) {
				n++
				settled = settled && slices.Contains(d.fresh, p)
			}
		}
		if n > 0 {
			text = fmt.Sprintf("%d of %d servers get no calls", n, len(d.live))
		}
	}
	return text, settled
}

// converge waits until all sides are well again, or until it is too late.
func (s *stage) converge(ctx context.Context) {
	limited, cancel := context.WithDeadline(ctx, s.healed.Add(s.row.Limit+s.opt.Grace))
	defer cancel()
	_ = s.until(limited, func() bool { // that time was up is seen in what is missing
		s.each(func(d *side) error {
			s.look(limited, d)
			return nil
		})
		return !slices.ContainsFunc(s.sides, func(d *side) bool { return d.err == nil && !d.done })
	})
	if s.row.settled { // let those calls fail that nobody could have answered
		_ = s.wait(ctx, time.Until(s.healed.Add(s.opt.Deadline+pollEvery)))
		_ = s.markFrom(ctx, 1)
	}
}

// look finds out whether a side is well by now.
func (s *stage) look(ctx context.Context, d *side) {
	if d.done {
		return
	}
	idle, settled := d.unused(ctx, s.end(d))
	registered := s.listed(ctx, d)
	if s.row.orderly {
		registered = join(registered, s.lingering(ctx, d))
	}
	if ctx.Err() != nil {
		return // the answers are worth nothing
	}
	now := time.Now()
	if !settled || registered != "" {
		d.unsettled = now
	}
	asked, last := s.stillCalled(ctx, d)
	if d.cell.Missing = join(join(idle, asked), registered); d.cell.Missing != "" {
		return
	}
	d.done = true
	d.cell.After = max(0, d.greeted(ctx).Sub(s.end(d)), last.Sub(s.end(d)))
	if !d.unsettled.IsZero() {
		d.cell.After = max(d.cell.After, d.unsettled.Sub(s.end(d)))
	}
	s.say("%s is well after %v", d.adapter.Name, d.cell.After.Round(time.Millisecond))
}

// stillCalled says whether servers that stand still get calls, as far as is known: calls return at their deadlines. Last is when the
// latest was due that one of them got; not before the end of the fault.
func (s *stage) stillCalled(ctx context.Context, d *side) (text string, last time.Time) {
	last = s.end(d)
	if len(d.silent) == 0 {
		return "", last
	}
	for _, c := range d.clients {
		r, err := c.Report(ctx)
		if err != nil {
			return err.Error(), last
		}
		for _, p := range d.silent {
			if due := r.Unanswered[p.addr].LastDue; due.After(last) {
				last = due
			}
		}
	}
	if time.Since(last) < s.opt.Deadline+inUse {
		return "a server that stands still may get calls", last
	}
	return "", last
}

// greeted is when the last newcomer answered its first call.
func (d *side) greeted(ctx context.Context) (last time.Time) {
	for _, c := range d.clients {
		r, err := c.Report(ctx)
		if err != nil {
			continue
		}
		for _, p := range d.fresh {
			if a, ok := r.ByProcess[p.PID()]; ok && a.First.After(last) {
				last = a.First
			}
		}
	}
	return last
}

// finish looks once more whether all servers are in use and those that left are gone, and takes down what the callers saw.
func (s *stage) finish(ctx context.Context) {
	_ = s.wait(ctx, max(inUse, time.Until(s.healed.Add(s.opt.TTL+inUse)))) // leases of those that are gone end meanwhile
	limited, cancel := context.WithDeadline(ctx, s.healed.Add(s.opt.TTL+leaseEnds))
	defer cancel()
	var all sync.WaitGroup
	for _, d := range s.sides {
		all.Go(func() {
			_ = s.until(limited, func() bool { return !d.done || s.lingering(limited, d) == "" }) // the verdict asks once more
			s.judge(ctx, d)
		})
	}
	all.Wait()
}

func (s *stage) judge(ctx context.Context, d *side) {
	c := &d.cell
	if c.Void != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if d.done {
		idle, _ := d.unused(ctx, time.Now().Add(-inUse))
		if later := join(idle, join(s.listed(ctx, d), s.lingering(ctx, d))); later != "" {
			c.Missing = "at the end " + later
		}
	}
	if d.err != nil {
		c.Missing = d.err.Error()
	}
	c.Converged = d.done && c.Missing == "" && c.After <= s.row.Limit
	for _, client := range d.clients {
		r, err := client.Report(ctx)
		if err != nil {
			c.Void = err.Error()
			return
		}
		c.add(r, addrsOf(d.silent))
		d.behind = max(d.behind, r.Behind)
		if r.Skipped > 0 {
			d.behind = max(d.behind, stall)
		}
	}
	killed := 0
	for _, p := range d.left {
		if !p.Running() && p.status == 128+int(syscall.SIGKILL) {
			killed++
		}
	}
	c.WritesAtKills = mostInKills(killed, s.opt.Rate*len(d.clients))
	for _, p := range slices.Concat(d.live, d.other) {
		if st, err := p.Stats(ctx); err == nil {
			c.Foreign += st.Foreign
		}
	}
}

// add counts what a caller saw. What it sent to silent servers, and was not answered, nobody has failed.
func (c *Cell) add(r Report, silent []string) {
	c.Total, c.Failed, c.Writes, c.FailedWrites = c.Total+r.Total, c.Failed+r.Failed, c.Writes+r.Writes, c.FailedWrites+r.FailedWrites
	c.Misrouted, c.Rate, c.LateBy = c.Misrouted+r.Misrouted, c.Rate+r.Rate(), max(c.LateBy, r.LateBy)
	for _, addr := range silent {
		u := r.Unanswered[addr]
		c.Silent, c.Failed, c.FailedWrites = c.Silent+u.Count, c.Failed-u.Count, c.FailedWrites-u.Writes
	}
	for _, f := range r.Failures {
		if c.FirstError == "" && !(f.unanswered() && slices.Contains(silent, f.Server)) {
			c.FirstError = fmt.Sprintf("a %s failed, %s: %s", f.Kind, strings.Trim(f.Code, `"`), f.Text)
		}
	}
}

func addrsOf(procs []*ServerProc) (all []string) {
	for _, p := range procs {
		all = append(all, p.addr)
	}
	return all
}

// close ends what does not belong to the lab.
func (s *stage) close() error {
	var errs []error
	for _, closer := range s.closers {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

// String is the cell as one line.
func (c Cell) String() string {
	if c.Void != "" {
		return "void: " + c.Void
	}
	return fmt.Sprintf("failed %s; well after %s; %.0f calls/s; %s", c.lost(), c.well(), c.Rate, c.trouble())
}
