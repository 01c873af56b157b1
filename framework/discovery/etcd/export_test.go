package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// Snapshot lets benchmarks and fuzz tests reach the fold without an etcd.
type Snapshot struct{ s *snapshot }

func NewSnapshot(service string) Snapshot { return Snapshot{newSnapshot(service, zap.NewNop())} }

func (s Snapshot) Put(key string, value []byte, revision int64) bool {
	return s.s.put(&mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: revision})
}

func (s Snapshot) Remove(key string) bool { return s.s.remove(key) }

func (s Snapshot) Replace(kvs []*mvccpb.KeyValue, reset bool) bool {
	return s.s.replace(kvs, 0, reset).changed
}

func (s Snapshot) View() []*discovery.Instance { return s.s.view() }

// Pause is the wait of a registration after an error that may pass by itself.
func Pause(ctx context.Context, cli *clientv3.Client, bound time.Duration) {
	pause(ctx, cli, backoff.New(bound, bound), bound, errEnded)
}

// HoldLists makes every list of the source wait until release is called.
func (s *Source) HoldLists() (release func()) {
	for range maxLists {
		s.lists <- struct{}{}
	}
	return func() {
		for range maxLists {
			<-s.lists
		}
	}
}

// Mailbox lets tests reach what stands between a watch and its reader.
type Mailbox struct{ b *mailbox }

func NewMailbox() Mailbox { return Mailbox{newMailbox()} }

func (m Mailbox) Put(u discovery.Update) { m.b.put(u) }

func (m Mailbox) Take() []discovery.Update { return m.b.take() }

// Held is how many instances that said goodbye are kept.
func (m Mailbox) Held() int { return len(m.b.left) }
