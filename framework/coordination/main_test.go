package coordination_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// subjectEtcd is set for a process that plays the subject of a test: where etcd is.
const subjectEtcd = "COORDINATION_TEST_ETCD"

func TestMain(m *testing.M) {
	if code, ran := faulttest.Main(); ran { // it is a member of an etcd
		os.Exit(code)
	}
	if endpoint := os.Getenv(subjectEtcd); endpoint != "" {
		if err := subject(endpoint); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const ttl = 2 * time.Second

// etcd runs a real one until the test ends.
func etcd(t *testing.T) *devetcd.Server {
	t.Helper()
	return etcdAt(t, devetcd.Config{Fast: true})
}

func etcdAt(t *testing.T, cfg devetcd.Config) *devetcd.Server {
	t.Helper()
	e, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// instance is one of several that coordinate: it has a client of its own.
func instance(t *testing.T, endpoint string, change func(*coordination.Options)) (*coordination.Coordinator, *clientv3.Client) {
	t.Helper()
	cli := connect(t, endpoint)
	opt := coordination.Options{TTL: ttl, CallTimeout: time.Second}
	if change != nil {
		change(&opt)
	}
	c, err := coordination.New(cli, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c, cli
}

func connect(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	cli, err := newClient(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// newClient connects to one endpoint, or to several with commas in between.
func newClient(endpoints string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: strings.Split(endpoints, ","), Logger: zap.NewNop(), DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second})
}

// limit bounds a wait that ends long before unless something is broken.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until waits for something to come.
func until[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	ctx := limit(t)
	select {
	case v := <-ch:
		return v
	case <-ctx.Done():
		t.Fatalf("never came: %s", what)
		panic("unreachable")
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx := limit(t)
	for !cond() {
		if backoff.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("never came: %s", what)
		}
	}
}

// candidate leads in the background until it is stopped or the test ends. It tells each of its terms, and its end.
type candidate struct {
	terms chan *coordination.Hold
	lost  chan error // why a term ended
	done  chan error // what Lead returned
	loop  *loop.Loop
}

func lead(t *testing.T, c *coordination.Coordinator, name string) *candidate {
	t.Helper()
	k := &candidate{terms: make(chan *coordination.Hold, 100), lost: make(chan error, 100), done: make(chan error, 1)}
	k.loop = loop.Start(context.WithoutCancel(t.Context()), func(ctx context.Context) {
		k.done <- c.Lead(ctx, name, func(ctx context.Context, h *coordination.Hold) error {
			k.terms <- h
			<-ctx.Done()
			k.lost <- context.Cause(ctx)
			return nil
		})
	})
	t.Cleanup(k.loop.Stop)
	return k
}

// keys are those that lie in etcd for a name.
func keys(t *testing.T, cli *clientv3.Client, kind, name string) []string {
	t.Helper()
	got, err := cli.Get(limit(t), coordination.DefaultPrefix+"/"+kind+"/"+name+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, kv := range got.Kvs {
		out = append(out, string(kv.Key))
	}
	return out
}

func leases(t *testing.T, cli *clientv3.Client) int {
	t.Helper()
	got, err := cli.Leases(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	return len(got.Leases)
}

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// alone fails the test when two are inside at once.
type alone struct {
	t      *testing.T
	inside atomic.Int32
	token  atomic.Int64
	visits atomic.Int32
}

func (a *alone) enter(h *coordination.Hold) (leave func()) {
	if n := a.inside.Add(1); n != 1 {
		a.t.Errorf("%d hold at once", n)
	}
	if last := a.token.Swap(h.Token()); last >= h.Token() {
		a.t.Errorf("token %d came after %d", h.Token(), last)
	}
	a.visits.Add(1)
	return func() { a.inside.Add(-1) }
}
