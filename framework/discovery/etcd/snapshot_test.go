package etcd_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// TestSnapshotAgreesWithAMap folds random events, some of them unreadable, and compares with the obvious: a map of the
// last readable value of each key, of which the newest of each address counts.
func TestSnapshotAgreesWithAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type stored struct {
			value string // the last one
			good  string // the last one that can be read
			rev   int64
		}
		model := map[string]stored{}
		s := etcd.NewSnapshot("user")
		for rev := int64(1); rev <= 40; rev++ {
			key := fmt.Sprintf("k%d", rapid.IntRange(0, 7).Draw(t, "key"))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				s.Remove(key)
				delete(model, key)
			case 2:
				m := model[key]
				s.Put(key, []byte("{"), rev)
				model[key] = stored{"{", m.good, rev}
			case 3:
				var kvs []*mvccpb.KeyValue
				for k, m := range model {
					kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(k), Value: []byte(m.value), ModRevision: m.rev})
				}
				s.Replace(kvs, rapid.Bool().Draw(t, "reset"))
			default:
				value := fmt.Sprintf("10.0.0.%d:9000", rapid.IntRange(1, 5).Draw(t, "addr"))
				s.Put(key, []byte(value), rev)
				model[key] = stored{value, value, rev}
			}
			var want []string
			for _, m := range model {
				if m.good != "" {
					want = append(want, m.good)
				}
			}
			slices.Sort(want)
			want = slices.Compact(want)
			var got []string
			for _, i := range s.View() {
				got = append(got, i.Addr)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("after revision %d the view is %v, want %v", rev, got, want)
			}
		}
	})
}

func filled(tb testing.TB, n int) (etcd.Snapshot, func(k int) (string, []byte)) {
	tb.Helper()
	nth := func(k int) (string, []byte) {
		i := discoverytest.Instance("user", fmt.Sprintf("10.%d.%d.%d:9000", k/65536, k/256%256, k%256))
		value, err := discovery.Encode(i)
		if err != nil {
			tb.Fatal(err)
		}
		return discovery.Key(discovery.DefaultPrefix, "user", i.Addr), value
	}
	s := etcd.NewSnapshot("user")
	kvs := make([]*mvccpb.KeyValue, n)
	for k := range n {
		key, value := nth(k)
		kvs[k] = &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: int64(k + 1)}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	s.Replace(kvs, false)
	return s, nth
}

// BenchmarkJoin is one instance joining, and one leaving, a service of 10,000.
func BenchmarkJoin(b *testing.B) {
	s, nth := filled(b, 10_000)
	key, value := nth(5000)
	var rev int64 = 20_000
	for b.Loop() {
		rev++
		s.Remove(key)
		_ = s.View()
		s.Put(key, value, rev)
		_ = s.View()
	}
}

// BenchmarkFirstList is the first list of 10,000 instances, without the calls to etcd.
func BenchmarkFirstList(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		kvs := make([]*mvccpb.KeyValue, 0, 10_000)
		_, nth := filled(b, 0)
		for k := range 10_000 {
			key, value := nth(k)
			kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: int64(k + 1)})
		}
		slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }) // as etcd lists them
		s := etcd.NewSnapshot("user")
		b.StartTimer()
		s.Replace(kvs, false)
	}
}
