package faulttest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Spoil puts a file in the place of the data.
func (m *Member) Spoil() error {
	if err := m.removeData(); err != nil {
		return err
	}
	return os.WriteFile(m.data(), nil, 0o600)
}

// RaftSender finds who speaks between members.
func RaftSender(chunk []byte) string { return raftSender(chunk) }

// Metrics reads what etcd exposes.
func Metrics(r io.Reader) (EtcdStats, error) {
	s := EtcdStats{Requests: map[string]int64{}}
	return s, s.add(r)
}

// Stale says which of those that left are still among the keys in etcd. All are given as service/addr, and etcd's keys lie
// below /p/.
func Stale(left, live, inEtcd []string) string {
	procs := func(names []string) (all []*ServerProc) {
		for _, n := range names {
			service, addr, _ := strings.Cut(n, "/")
			all = append(all, &ServerProc{opt: ServerOptions{Service: service}, addr: addr})
		}
		return all
	}
	keys := map[string]bool{}
	for _, n := range inEtcd {
		keys["/p/"+n] = true
	}
	d := &side{adapter: Adapter{Keys: func(service string) string { return "/p/" + service + "/" }}, left: procs(left), live: procs(live)}
	return d.stale(keys)
}

// Retire takes down what a server ran for others before it is ended.
func Retire(ctx context.Context, p *ServerProc) (foreign int64, err error) {
	d := &side{live: []*ServerProc{p}}
	_, err = new(stage).retire(ctx, d)
	return d.cell.Foreign, err
}

// CellOf counts what a caller saw while servers stood still.
func CellOf(r Report, silent ...string) (c Cell) {
	c.add(r, silent)
	return c
}

// Haunted is the row, and of each adapter the key of one that left is put into etcd once more.
func (r Row) Haunted() Row {
	inject := r.inject
	r.inject = func(s *stage, ctx context.Context) error { return errors.Join(inject(s, ctx), s.haunt(ctx)) }
	return r
}

// HauntedLate is like Haunted, when all had been well.
func (r Row) HauntedLate() Row {
	after := r.after
	r.after = func(s *stage, ctx context.Context) (string, error) {
		text, err := after(s, ctx)
		return text, errors.Join(err, s.haunt(ctx))
	}
	return r
}

func (s *stage) haunt(ctx context.Context) error {
	for _, d := range s.sides {
		if _, err := s.etcd().Put(ctx, d.keyOf(d.left[0]), "x"); err != nil {
			return err
		}
	}
	return nil
}

// History is what was written below a prefix, told by a test in place of etcd.
type History struct{ w *registryWatch }

// NewHistory is empty.
func NewHistory() *History { return &History{newRegistryWatch(nil, "/p/")} }

// Put says that an incarnation wrote itself.
func (h *History) Put(addr, incarnation string, revision int64) {
	value, err := discovery.Encode(&discovery.Instance{Service: "s", Addr: addr, Incarnation: incarnation, State: discovery.StateUp})
	if err != nil {
		panic(err)
	}
	h.w.note(h.w.epoch, &clientv3.Event{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: []byte("/p/s/" + addr), Value: value, ModRevision: revision}}, false)
}

// Started says that a server starts at addr.
func (h *History) Started(addr string) { h.w.started("/p/s/" + addr) }

// Left says that whoever was at addr had left at that revision.
func (h *History) Left(addr string, revision int64) { h.w.leftAt(addr, revision) }

// SetBack says that etcd has other data.
func (h *History) SetBack() {
	h.w.pause()
	h.w.again()
}

// Verdict tells what was wrong.
func (h *History) Verdict() error { return h.w.verdict() }

// Judge judges what clients report, told by a test in place of a run.
type Judge struct{ s *soak }

// NewJudge judges on a machine that does nothing else.
func NewJudge() *Judge {
	return &Judge{&soak{pulse: &pulse{}, waiting: func() int { return 0 }}}
}

// Killed says that the server at addr was killed then.
func (j *Judge) Killed(addr string, at time.Time) { j.s.kills = append(j.s.kills, kill{addr, at, at}) }

// Report judges a phase of a client with 20 calls a second and one stream.
func (j *Judge) Report(r Report) error {
	return j.s.judge(&soakClient{opt: ClientOptions{Rate: 20, Streams: 1}}, r)
}

// Phases are those so far, and those that could not be judged.
func (j *Judge) Phases() (all, unjudged int) { return j.s.report.Phases, j.s.report.Unjudged }

// End judges whether enough was judged.
func (j *Judge) End(took time.Duration) error { return j.s.judged(took) }
