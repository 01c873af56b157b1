package examples_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const userService = "user-service"

// patience is for writes: on a machine that has much else to do they wait for each other's turn longer than users would.
const patience = 20 * time.Second

// cluster is a number of user-service processes on one etcd and one file of users, and a caller in this process.
type cluster struct {
	t         *testing.T
	endpoints []string
	etcd      *clientv3.Client
	db        string
	env       []string
	users     userv1.UserServiceClient
	caller    *stack.Stack
}

// instance is one user-service process.
type instance struct {
	*process
	stack.Ready
}

func (i *instance) key() string { return discovery.Key(discovery.DefaultPrefix, userService, i.GRPC) }

// startEtcd runs an etcd in this process.
func startEtcd(t *testing.T) []string {
	t.Helper()
	srv, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.Endpoints()
}

// newCluster has no instances yet. env is for all of them, for example USER_SERVICE__REGISTRATION__TTL=5s.
func newCluster(t *testing.T, endpoints []string, env ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, endpoints: endpoints, db: filepath.Join(t.TempDir(), "users.db"), env: env}
	often := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond} // the default waits for minutes
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: often, MinConnectTimeout: time.Second})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() }) // only ever reports that its context was cancelled
	c.etcd = cli
	return c
}

// environment is what a user-service of this cluster finds.
func (c *cluster) environment() []string {
	return append([]string{
		"NEWSVC_DEV=1",
		"USER_SERVICE__SERVER__LISTEN=127.0.0.1:0",
		"USER_SERVICE__ADMIN__LISTEN=127.0.0.1:0",
		"USER_SERVICE__ETCD__ENDPOINTS=" + strings.Join(c.endpoints, ","),
		"USER_SERVICE__USER__PATH=" + c.db,
		"USER_SERVICE__USER__BUSY_TIMEOUT=" + patience.String(),
	}, c.env...)
}

// launch starts an instance without waiting for it.
func (c *cluster) launch() *process {
	c.t.Helper()
	return launch(c.t, command{binary: binary(userService), env: c.environment()})
}

// start starts n instances and returns when all of them are registered.
func (c *cluster) start(ctx context.Context, n int) []*instance {
	c.t.Helper()
	processes := make([]*process, n)
	for i := range processes {
		processes[i] = c.launch()
	}
	all := make([]*instance, n)
	for i, p := range processes {
		all[i] = &instance{p, p.awaitReady(ctx)}
	}
	return all
}

// call makes this process a caller, which waits until it knows n instances.
func (c *cluster) call(ctx context.Context, n int) {
	c.t.Helper()
	cfg := stack.DefaultConfig()
	cfg.Admin.Enabled = false
	cfg.Etcd.Endpoints = c.endpoints
	cfg.ClientDefaults.Timeout = patience
	out := &lines{}
	log, levels, err := stack.NewLog(cfg, "caller", true, out)
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := stack.New(stack.Params{Service: "caller", Config: cfg, Callees: []string{userService}, Log: log, Levels: levels})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			c.t.Error(err)
		}
		if c.t.Failed() {
			c.t.Logf("the caller logged:\n%s", out.tail())
		}
	})
	if err := s.Connect(ctx); err != nil {
		c.t.Fatal(err)
	}
	conn, err := s.Clients().Conn(userService)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := conn.WaitInstances(ctx, n); err != nil {
		c.t.Fatal(err)
	}
	c.caller, c.users = s, userv1.NewUserServiceClient(conn)
}

// keys are the registered keys with their leases.
func (c *cluster) keys(ctx context.Context) (map[string]clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := c.etcd.Get(ctx, discovery.ServicePrefix(discovery.DefaultPrefix, userService), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	found := make(map[string]clientv3.LeaseID)
	for _, kv := range res.Kvs {
		found[string(kv.Key)] = clientv3.LeaseID(kv.Lease)
	}
	return found, nil
}

// keyChange is one change of a key.
type keyChange struct {
	key  string
	gone bool
	at   time.Time
}

// keyWatch notes when keys come and go.
type keyWatch struct {
	mu      sync.Mutex
	changes []keyChange
}

// watchKeys begins to note.
func (c *cluster) watchKeys() *keyWatch {
	w := &keyWatch{}
	ctx, cancel := context.WithCancel(context.Background())
	events := c.etcd.Watch(ctx, discovery.ServicePrefix(discovery.DefaultPrefix, userService), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if first := <-events; !first.Created {
		c.t.Errorf("watch the registry: %v", first.Err())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for res := range events {
			at := time.Now()
			w.mu.Lock()
			for _, e := range res.Events {
				w.changes = append(w.changes, keyChange{string(e.Kv.Key), e.Type == clientv3.EventTypeDelete, at})
			}
			w.mu.Unlock()
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return w
}

// await waits for a key to come, or to be gone, and answers when that was first the case.
func (w *keyWatch) await(ctx context.Context, t *testing.T, key string, gone bool) time.Time {
	t.Helper()
	var at time.Time
	eventually(ctx, t, text("key %q, gone %v, is not seen", key, gone), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		i := slices.IndexFunc(w.changes, func(c keyChange) bool { return c.key == key && c.gone == gone })
		if i < 0 {
			return false
		}
		at = w.changes[i].at
		return true
	})
	return at
}
