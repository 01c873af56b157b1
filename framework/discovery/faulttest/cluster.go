package faulttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	ourbackoff "github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	// probeTimeout bounds one question to etcd where many are asked.
	probeTimeout = time.Second
	// probePause lies between two of them.
	probePause = 20 * time.Millisecond
)

// ClusterConfig says what etcd to start. The zero value is one member with a fast clock.
type ClusterConfig struct {
	// Members is 1 or 3. Default 1.
	Members int
	// Slow gives etcd its usual clock: ticks of 100 ms and elections after 1 s, where leases last 2 s at least. Without
	// it these are 10 ms, 100 ms and 1 s: for tests of one member, or where the machine has little else to do.
	Slow bool
	// QuotaBytes is the size of the database at which writes are refused with NOSPACE. Default 2 GiB.
	QuotaBytes int64
	// AuthTokenTTL is the life of a token once authentication is on, whole seconds. Default 300 s.
	AuthTokenTTL time.Duration
	// AutoCompaction drops history older than this, whole seconds. Default: nothing is dropped.
	AutoCompaction time.Duration
	// WatchProgress is the time between two progress notifications of a quiet watch. Default 10 min.
	WatchProgress time.Duration
}

// Cluster is etcd: real processes, one for each member, on ports of their own that survive restarts. What members say
// to each other passes proxies, so that one can be cut off. Its methods may be called from any goroutine, those that
// change one member one after the other.
type Cluster struct {
	lab     *Lab
	cfg     ClusterConfig
	members []*Member

	mu    sync.Mutex
	admin *clientv3.Client
	user  [2]string // whom Login named, and the password

	own atomic.Int64 // requests that the suite itself made
}

// StartCluster starts etcd and returns when every member serves.
func (lab *Lab) StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if cfg.Members == 0 {
		cfg.Members = 1
	}
	if cfg.Members != 1 && cfg.Members != 3 {
		return nil, fmt.Errorf("start etcd: %d members; write 1 or 3", cfg.Members)
	}
	c := &Cluster{lab: lab, cfg: cfg}
	for i := range cfg.Members {
		m, err := newMember(ctx, c, i)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
	}
	for _, m := range c.members { // from here on the members are read by the proxies between them
		m.peers.change(func() {
			m.peers.label = raftSender
			m.peers.refuse = func(from string) bool { return c.cutOff(m, from) }
		})
	}
	if err := c.connect("", ""); err != nil {
		return nil, err
	}
	if err := lab.own(c.disconnect); err != nil {
		return nil, err
	}
	if err := c.startAll(ctx); err != nil {
		return nil, err
	}
	return c, c.WaitHealthy(ctx)
}

// each does something with all members at the same time.
func (c *Cluster) each(do func(m *Member) error) error {
	errs := make([]error, len(c.members))
	var all loop.Group
	defer all.Stop()
	loops := make([]*loop.Loop, len(c.members))
	for i, m := range c.members {
		loops[i] = all.Start(c.lab.ctx, func(context.Context) { errs[i] = do(m) })
	}
	for _, l := range loops {
		<-l.Done()
	}
	return errors.Join(errs...)
}

func (c *Cluster) startAll(ctx context.Context) error {
	return c.each(func(m *Member) error { return m.Start(ctx) })
}

func (c *Cluster) killAll(ctx context.Context) error {
	return c.each(func(m *Member) error { return m.Kill(ctx) })
}

// Members returns how many members there are.
func (c *Cluster) Members() int { return len(c.members) }

// Member returns member i, counted from 0.
func (c *Cluster) Member(i int) *Member { return c.members[i] }

// Endpoints are where clients find the members, host:port each; no proxy is in between.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.client)
	}
	return out
}

// initial is the cluster as the flag of etcd has it.
func (c *Cluster) initial() string {
	var parts []string
	for _, m := range c.members {
		parts = append(parts, m.name+"=http://"+m.peers.Addr())
	}
	return strings.Join(parts, ",")
}

// Admin returns a client to all members, without a proxy, that is connected again soon after a member is back. It ends
// with the lab. Each call needs a deadline. After [Cluster.Login] it is another one.
func (c *Cluster) Admin() *clientv3.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admin
}

// Login makes Admin and the questions of members log in as this user from now on; empty names end that.
func (c *Cluster) Login(username, password string) error {
	return c.connect(username, password)
}

// connect makes new clients and closes the old ones.
func (c *Cluster) connect(username, password string) error {
	admin, err := newClient(c.Endpoints(), username, password, grpc.WithChainUnaryInterceptor(c.countOwn))
	if err != nil {
		return err
	}
	c.mu.Lock()
	old := c.admin
	c.admin, c.user = admin, [2]string{username, password}
	c.mu.Unlock()
	closeClient(old)
	for _, m := range c.members {
		cli, err := newClient([]string{m.client}, username, password, grpc.WithChainUnaryInterceptor(c.countOwn))
		if err != nil {
			return err
		}
		m.mu.Lock()
		old := m.cli
		m.cli = cli
		m.mu.Unlock()
		closeClient(old)
	}
	return nil
}

func (c *Cluster) disconnect() error {
	closeClient(c.Admin())
	for _, m := range c.members {
		closeClient(m.direct())
	}
	return nil
}

func closeClient(cli *clientv3.Client) {
	if cli != nil {
		_ = cli.Close() // only ever reports that its context was cancelled
	}
}

// newClient connects quickly, again and again, and not before it is used.
func newClient(endpoints []string, username, password string, options ...grpc.DialOption) (*clientv3.Client, error) {
	often := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}
	conf := clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: time.Second,
		MaxUnaryRetries: 3,
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: often, MinConnectTimeout: time.Second}),
		},
	}
	conf.DialOptions = append(conf.DialOptions, options...)
	if username != "" {
		conf.Token = "pending" // else it would ask for one now, and fail when etcd is away
	}
	cli, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	if username != "" {
		cli.Token, cli.Username, cli.Password = "", username, password
	}
	return cli, nil
}

// countOwn counts what the suite itself asks of etcd.
func (c *Cluster) countOwn(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c.own.Add(1)
	return invoke(ctx, method, req, reply, cc, opts...)
}

// WaitHealthy waits until every member answers a read that needs the consent of most of them.
func (c *Cluster) WaitHealthy(ctx context.Context) error {
	return c.each(func(m *Member) error { return m.WaitHealthy(ctx) })
}

// Leader returns the number of the member that leads, as it says itself; it waits until there is one.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	for {
		for i, m := range c.members {
			if s, err := m.status(ctx); err == nil && s.Leader == s.Header.MemberId {
				return i, nil
			}
		}
		if err := ourbackoff.Sleep(ctx, probePause); err != nil {
			return 0, fmt.Errorf("no member of etcd leads: %w", err)
		}
	}
}

// Revision returns the present revision.
func (c *Cluster) Revision(ctx context.Context) (int64, error) {
	res, err := c.Admin().Get(ctx, "/", clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("ask etcd for its revision: %w", err)
	}
	return res.Header.Revision, nil
}

// Backup keeps a copy of the data as it is now, in place of an earlier copy. All members stand still for the moment
// that this takes; those that were frozen stay so.
func (c *Cluster) Backup(ctx context.Context) error {
	if err := c.each(func(m *Member) error { return m.pause(ctx) }); err != nil {
		return errors.Join(err, c.each((*Member).resume))
	}
	err := c.each((*Member).copyData)
	return errors.Join(err, c.each((*Member).resume))
}

// Restore kills all members, puts the copy of Backup in place and starts them: revisions are lower then, and what came
// after the copy never happened. It returns when every member serves.
func (c *Cluster) Restore(ctx context.Context) error {
	return c.again(ctx, (*Member).putBack)
}

// Wipe kills all members and starts them without data: revisions begin again. It returns when every member serves.
func (c *Cluster) Wipe(ctx context.Context) error {
	return c.again(ctx, (*Member).removeData)
}

// again does something to the data while nobody uses them.
func (c *Cluster) again(ctx context.Context, change func(*Member) error) error {
	if err := c.killAll(ctx); err != nil {
		return err
	}
	if err := c.each(change); err != nil {
		return err
	}
	if err := c.startAll(ctx); err != nil {
		return err
	}
	// Not with tokens of before: etcd keeps whoever shows one waiting until it has counted as far as when it gave it.
	c.mu.Lock()
	user := c.user
	c.mu.Unlock()
	if err := c.connect(user[0], user[1]); err != nil {
		return err
	}
	return c.WaitHealthy(ctx)
}
