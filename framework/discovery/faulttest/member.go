package faulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// Member is one process of etcd. It has the same ports and, but for Wipe and Restore, the same data however often it is
// killed and started. Its methods may be called from any goroutine, those that change it one after the other.
type Member struct {
	c      *Cluster
	name   string
	client string // host:port for clients
	peer   string // host:port for the others, behind peers
	peers  *Proxy
	dir    string // holds the data, and a copy beside them

	mu       sync.Mutex
	cli      *clientv3.Client // to this member alone
	process  *Process
	id       string // as it writes it itself
	frozen   bool
	isolated bool
	existing bool // it joined a cluster that was there
}

func newMember(ctx context.Context, c *Cluster, i int) (*Member, error) {
	m := &Member{c: c, name: fmt.Sprintf("m%d", i)}
	var err error
	if m.client, err = c.lab.freePort(ctx); err != nil {
		return nil, err
	}
	if m.peer, err = c.lab.freePort(ctx); err != nil {
		return nil, err
	}
	if m.dir, err = c.lab.subdir("etcd-" + m.name); err != nil {
		return nil, err
	}
	if m.peers, err = NewProxy(m.peer); err != nil {
		return nil, err
	}
	return m, c.lab.own(m.peers.Close)
}

func (m *Member) data() string { return filepath.Join(m.dir, "data") }
func (m *Member) copy() string { return filepath.Join(m.dir, "copy") }

// Name is what it is called in the cluster.
func (m *Member) Name() string { return m.name }

// Endpoint is where clients find it, host:port.
func (m *Member) Endpoint() string { return m.client }

// PID returns the id of its process; 0 when it does not run.
func (m *Member) PID() int {
	if p := m.current(); p != nil && p.Running() {
		return p.PID()
	}
	return 0
}

// Running tells whether it has a process; a frozen one has.
func (m *Member) Running() bool { return m.PID() != 0 }

// Log returns the end of what its present or last process wrote.
func (m *Member) Log() string {
	if p := m.current(); p != nil {
		return p.Log()
	}
	return ""
}

func (m *Member) current() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

func (m *Member) direct() *clientv3.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cli
}

// Start starts it on the data that are there. It returns when it listens, which is before it has found the others:
// [Member.WaitHealthy] waits for that. A member that runs is left alone.
func (m *Member) Start(ctx context.Context) error {
	if m.Running() {
		return nil
	}
	cfg := m.c.cfg
	r := role{Member: &memberRole{
		Name: m.name, Dir: m.data(), Client: m.client, Peer: m.peer, Advertised: m.peers.Addr(),
		Initial: m.c.initial(), Existing: m.existing,
		Slow: cfg.Slow, Quota: cfg.QuotaBytes, TokenTTL: cfg.AuthTokenTTL, Compact: cfg.AutoCompaction, Progress: cfg.WatchProgress,
	}}
	var hello memberHello
	p, err := m.c.lab.spawn(ctx, "etcd-"+m.name, r, &hello)
	if err != nil {
		return err
	}
	m.mu.Lock()
	old := m.process
	m.process, m.id, m.frozen = p, hello.ID, false
	m.mu.Unlock()
	if old != nil {
		m.c.lab.forget(old)
	}
	return nil
}

// Kill ends it by SIGKILL and waits until it is gone. One that does not run is no error.
func (m *Member) Kill(ctx context.Context) error {
	p := m.current()
	if p == nil {
		return nil
	}
	return p.Kill(ctx)
}

// Freeze stops its process where it is. It returns when nothing of it runs any more.
func (m *Member) Freeze(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return fmt.Errorf("etcd %s does not run", m.name)
	}
	if err := m.process.Freeze(ctx); err != nil {
		return err
	}
	m.frozen = true
	return nil
}

// Thaw lets it go on.
func (m *Member) Thaw() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return fmt.Errorf("etcd %s does not run", m.name)
	}
	if err := m.process.Thaw(); err != nil {
		return err
	}
	m.frozen = false
	return nil
}

// WaitHealthy waits until it answers a read that needs the consent of most members.
func (m *Member) WaitHealthy(ctx context.Context) error {
	for {
		err := m.Read(ctx)
		if err == nil {
			return nil
		}
		if stopped := backoff.Sleep(ctx, probePause); stopped != nil {
			return fmt.Errorf("etcd %s does not answer: %w: %w%s", m.name, stopped, err, m.current().lastWords())
		}
		if !m.Running() {
			return fmt.Errorf("etcd %s ended%s", m.name, m.current().lastWords())
		}
	}
}

// Read asks this member alone for something, with the consent of most members; it takes a second at most. An answer
// that permission is missing is an answer.
func (m *Member) Read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := m.direct().Get(ctx, "/health")
	if isDenied(err) {
		return nil
	}
	return err
}

// Leaderless tells whether the member itself says that it knows no leader.
func (m *Member) Leaderless(ctx context.Context) (bool, error) {
	s, err := m.status(ctx)
	if err != nil {
		return false, err
	}
	return s.Leader == 0, nil
}

func (m *Member) status(ctx context.Context) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	s, err := m.direct().Status(ctx, m.client)
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s for its status: %w", m.name, err)
	}
	return s, nil
}

// Isolate lets nothing pass between it and the other members, in either direction; clients still reach it. The others
// go on, and it is without a leader soon after. In a cluster of one nothing changes.
func (m *Member) Isolate() { m.setIsolated(true) }

// Join ends Isolate.
func (m *Member) Join() { m.setIsolated(false) }

func (m *Member) setIsolated(v bool) {
	m.mu.Lock()
	m.isolated = v
	m.mu.Unlock()
	for _, other := range m.c.members {
		other.peers.change(func() {})
	}
}

// errWithOthers is why one member of several cannot go back alone.
var errWithOthers = errors.New("a member that forgets what the others know would break the cluster; use the method of Cluster, which sends all back")

// Backup is [Cluster.Backup] for a cluster of one.
func (m *Member) Backup(ctx context.Context) error { return m.alone(ctx, m.c.Backup) }

// Restore is [Cluster.Restore] for a cluster of one.
func (m *Member) Restore(ctx context.Context) error { return m.alone(ctx, m.c.Restore) }

func (m *Member) alone(ctx context.Context, do func(context.Context) error) error {
	if len(m.c.members) > 1 {
		return fmt.Errorf("etcd %s: %w", m.name, errWithOthers)
	}
	return do(ctx)
}

// Wipe kills it and starts it without data. In a cluster of three it is removed and added as a new member, as an
// operator would do it, which needs the other two; it has their data soon. In a cluster of one all is lost.
func (m *Member) Wipe(ctx context.Context) error {
	if len(m.c.members) == 1 {
		return m.c.Wipe(ctx)
	}
	if err := m.Kill(ctx); err != nil {
		return err
	}
	if err := m.replace(ctx); err != nil {
		return fmt.Errorf("replace etcd %s: %w", m.name, err)
	}
	if err := m.removeData(); err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	return m.WaitHealthy(ctx)
}

// replace tells the others that a new member comes in its place.
func (m *Member) replace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	admin := m.c.Admin()
	list, err := admin.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, other := range list.Members {
		if fmt.Sprintf("%x", other.ID) != m.id {
			continue
		}
		if _, err := admin.MemberRemove(ctx, other.ID); err != nil {
			return err
		}
	}
	if _, err := admin.MemberAdd(ctx, []string{"http://" + m.peers.Addr()}); err != nil {
		return err
	}
	m.existing = true
	return nil
}

func (m *Member) removeData() error { return os.RemoveAll(m.data()) }
