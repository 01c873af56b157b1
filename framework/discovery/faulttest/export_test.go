package faulttest

import (
	"io"
	"os"

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

// Left says that whoever was at addr had left at that revision.
func (h *History) Left(addr string, revision int64) { h.w.leftAt(addr, revision) }

// SetBack says that etcd has other data.
func (h *History) SetBack() {
	h.w.pause()
	h.w.again()
}

// Verdict tells what was wrong.
func (h *History) Verdict() error { return h.w.verdict() }
