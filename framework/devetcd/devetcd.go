// Package devetcd runs a real etcd server inside this process, for `newsvc dev` and for tests. It is etcd itself, not an
// imitation: leases, watches, compaction, authentication and data on disk behave as they do in production, and a server
// that was closed can be started again on its data and its port.
//
// It is not for production: one member, no TLS, no peer traffic. [Start] returns a server that answers; [Server.Close]
// ends it and joins all that it started. etcd installs no signal handler here, writes no log of its own and cannot end
// the process: what it calls fatal becomes an error of Start or of [Server.Err].
package devetcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/auth"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/freeport"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Name is the member's name, the same for every server and every start: etcd refuses data that another name wrote.
const Name = "newsvc-dev"

const (
	// bindWindow is how long a busy port is asked for again: a server that was just killed may need a moment to let go
	// of it, and a free port may be taken between its choice and its use.
	bindWindow = time.Second
	bindPause  = 20 * time.Millisecond

	lockName = "newsvc-dev.lock"
)

// Config says where the server keeps its data, where it listens and how fast its clock runs. The zero value is a server
// on a free loopback port with data in a temporary directory.
type Config struct {
	// Dir holds the data and is made when missing. Only one server at a time can use it. Empty means a temporary
	// directory that Close removes.
	Dir string
	// ClientAddr is the host:port on which clients are served; empty means "127.0.0.1:0", port 0 means a free one.
	ClientAddr string
	// Fast is for tests: ticks of 10 ms in place of 100 ms, so that elections and expiry of leases come sooner and the
	// shortest lease is 1 s (2 s otherwise), and no fsync, so that a crash of the machine may lose data.
	Fast bool
	// Log receives etcd's log. Nil means silence.
	Log *zap.Logger
	// AuthToken is what tokens are, as etcd's option of that name has it: "simple" for random ones that etcd keeps in
	// memory, or "jwt,sign-method=EdDSA,priv-key=FILE,ttl=5s" for signed ones that tell their end. Default "simple".
	AuthToken string
	// AuthTokenTTL is the life of a simple token after authentication was enabled, whole seconds. Default 300 s.
	AuthTokenTTL time.Duration
	// QuotaBytes is the size of the database at which etcd refuses writes with NOSPACE. Default 2 GiB.
	QuotaBytes int64
	// AutoCompaction drops history older than this, whole seconds. Zero keeps all history, which is right for tests;
	// a server that runs for days should have an hour.
	AutoCompaction time.Duration
	// WatchProgressInterval is the time between two progress notifications on a quiet watch. Default 10 min.
	WatchProgressInterval time.Duration
}

// Server is one running etcd. Its methods may be called from any goroutine.
type Server struct {
	etcd *embed.Etcd
	gs   *grpc.Server // what clients talk to
	addr string
	dir  string
	temp bool
	lock *fileutil.LockedFile

	client  func() *clientv3.Client
	watcher *loop.Loop
	done    chan struct{}
	fatal   *fatalHook

	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	runErr    error // written before done is closed
}

// Start starts etcd and returns when it serves clients. It gives up when ctx ends; a server that is running does not
// depend on ctx any more. The caller must Close what it returns.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.ClientAddr == "" {
		cfg.ClientAddr = "127.0.0.1:0"
	}
	if _, _, err := net.SplitHostPort(cfg.ClientAddr); err != nil {
		return nil, fmt.Errorf("start etcd: client address %q is no host:port; write for example \"127.0.0.1:2379\"", cfg.ClientAddr)
	}
	if cfg.AuthToken != "" { // asked here, as etcd that finds out late leaves goroutines behind
		if _, err := auth.NewTokenProvider(zap.NewNop(), cfg.AuthToken, nil, cfg.AuthTokenTTL); err != nil {
			return nil, fmt.Errorf("start etcd: auth token %q can't be made: %w; write \"simple\" or for example \"jwt,sign-method=EdDSA,priv-key=FILE,ttl=5m\"", cfg.AuthToken, err)
		}
	}
	s := &Server{dir: cfg.Dir, done: make(chan struct{}), closing: make(chan struct{})}
	if err := s.takeDir(); err != nil {
		return nil, err
	}
	if err := s.bindAndStart(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.leaveDir())
	}
	s.client = sync.OnceValue(func() *clientv3.Client { return v3client.New(s.etcd.Server) })
	s.watcher = loop.Start(context.WithoutCancel(ctx), func(context.Context) { s.watch() })
	return s, nil
}

// takeDir makes the data directory and locks it. Without the lock a second server on the same data would wait for the
// first one for ever inside etcd.
func (s *Server) takeDir() error {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "newsvc-etcd-")
		if err != nil {
			return fmt.Errorf("start etcd: make a temporary data directory: %w", err)
		}
		s.dir, s.temp = dir, true
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("start etcd: make data directory %q: %w", s.dir, err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(s.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return fmt.Errorf("start etcd: data directory %q is in use by another etcd; stop that one or use another directory", s.dir)
	}
	if err != nil {
		return fmt.Errorf("start etcd: lock data directory %q: %w", s.dir, err)
	}
	s.lock = lock
	return nil
}

// leaveDir undoes takeDir.
func (s *Server) leaveDir() error {
	err := s.lock.Close()
	if s.temp {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// bindAndStart starts etcd on the wanted address, asking again for a while when it is busy.
func (s *Server) bindAndStart(ctx context.Context, cfg Config) error {
	until := time.Now().Add(bindWindow)
	for {
		addr, err := probe(ctx, cfg.ClientAddr)
		if err == nil {
			s.addr = addr
			err = s.startOnce(ctx, cfg)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("start etcd on %q: %w", cfg.ClientAddr, context.Cause(ctx))
		case !errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("start etcd on %q: %w", cfg.ClientAddr, err)
		case time.Now().After(until):
			return fmt.Errorf("start etcd: address %q is in use by another program; stop that program or choose another address (port 0 takes a free one): %w", cfg.ClientAddr, err)
		}
		if err := backoff.Sleep(ctx, bindPause); err != nil {
			return fmt.Errorf("start etcd on %q: %w", cfg.ClientAddr, err)
		}
	}
}

// probe resolves port 0 to a free port, one that nobody is given while a server restarts, and sees whether the address can be
// had. etcd opens its own listener, and it must know its port before, since it tells clients.
func probe(ctx context.Context, addr string) (string, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && port == "0" {
		return freeport.Choose(ctx, host)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	addr = l.Addr().String()
	return addr, l.Close()
}

// Addr returns the host:port on which clients are served; with port 0 in the config, the port that was taken.
func (s *Server) Addr() string { return s.addr }

// Endpoints returns the one endpoint for a client's configuration, as host:port.
func (s *Server) Endpoints() []string { return []string{s.addr} }

// Dir returns the directory that holds the data.
func (s *Server) Dir() string { return s.dir }

// Client returns a client that calls this server without a network, always the same one. It ends with the server and
// must not be used after Close; tests use it to look and to meddle while another client is under test.
func (s *Server) Client() *clientv3.Client { return s.client() }

// Done is closed when the server has ended, by Close or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why the server ended by itself. It is nil while the server runs and when Close ended it.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.runErr
	default:
		return nil
	}
}

// Close cuts the connections of clients, stops etcd, waits until everything it started has ended and, when the data
// directory is a temporary one, removes it. Leases live on in the data. Later calls wait and return the same.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		_ = s.client().Close() // only ever reports that its context was cancelled
		s.gs.Stop()            // etcd's own way waits seconds for open watches
		s.etcd.Close()
		<-s.watcher.Done()
		if err := s.leaveDir(); err != nil {
			s.closeErr = fmt.Errorf("close etcd: %w", err)
		}
	})
	return s.closeErr
}

// watch waits for the end of the server and keeps the reason.
func (s *Server) watch() {
	defer close(s.done)
	var err error
	select {
	case <-s.closing:
		<-s.etcd.Server.StopNotify()
		return
	case err = <-s.etcd.Err():
	case err = <-s.fatal.errs:
	case <-s.etcd.Server.StopNotify():
	}
	select {
	case <-s.closing: // Close came first, what followed is its doing
		<-s.etcd.Server.StopNotify()
		return
	default:
	}
	if err == nil {
		err = errors.New("etcd stopped by itself")
	}
	s.runErr = fmt.Errorf("etcd on %q: %w", s.addr, err)
}
