package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	namingresolver "go.etcd.io/etcd/client/v3/naming/resolver"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

const (
	// peerTimeout bounds single calls of peers to etcd. Since clientv3 waits for etcd as long as its context lets it, who
	// leaves it out hangs; most users have learnt that.
	peerTimeout = 5 * time.Second
	// peerPause is how long the usual loop waits before it tries again.
	peerPause = time.Second
	// roundRobinAndWait is what callers of all peers are dialled with: without the first everything goes to one server,
	// without the second each call fails while no server is connected. Neither is a peer's default.
	roundRobinAndWait = `{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{}],"waitForReady":true}]}`
)

// naming is etcd's own client/v3/naming as its package comment shows it: an endpoint with a lease, and the resolver.
//
// The package has no registrar. What a user has to write is here as most write it: a new lease and a new endpoint when
// the channel of renewals closes, retried every second and for ever. That is kinder than the example, which does not
// come back at all.
func naming() faulttest.Adapter {
	return faulttest.Adapter{
		Name:  "naming",
		Keys:  func(service string) string { return namingName(service) + "/" },
		Serve: serveNaming,
		Dial:  dialNaming,
	}
}

func namingName(service string) string { return "naming/" + service }

func peerClient(e faulttest.Etcd) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: e.Endpoints, Username: e.Username, Password: e.Password,
		DialTimeout: peerTimeout, Logger: zap.NewNop(),
	})
}

// namingServer is a plain gRPC server and the loop that keeps its endpoint.
type namingServer struct {
	*grpcServer
	cli     *clientv3.Client
	manager endpoints.Manager
	key     string
	ttl     int64
	leave   context.CancelFunc
	left    sync.WaitGroup
	mu      sync.Mutex
	lease   clientv3.LeaseID
}

func serveNaming(ctx context.Context, cfg faulttest.ServeConfig) (faulttest.Server, error) {
	cli, err := peerClient(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	manager, err := endpoints.NewManager(cli, namingName(cfg.Service))
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	gs, err := serveGRPC(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	s := &namingServer{
		grpcServer: gs, cli: cli, manager: manager, key: namingName(cfg.Service) + "/" + gs.Addr(), ttl: int64(cfg.TTL / time.Second),
	}
	keep, leave := context.WithCancel(context.WithoutCancel(ctx))
	s.leave = leave
	s.left.Go(func() { s.announce(keep) })
	return s, nil
}

// announce keeps the endpoint until ctx ends.
func (s *namingServer) announce(ctx context.Context) {
	for {
		if renewals, err := s.add(ctx); err == nil {
			for range renewals { // each is an answer to a renewal; the channel closes when they stop
			}
		}
		if !pause(ctx, peerPause) {
			return
		}
	}
}

func (s *namingServer) add(ctx context.Context) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	callCtx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	lease, err := s.cli.Grant(callCtx, s.ttl)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.lease = lease.ID
	s.mu.Unlock()
	if err := s.manager.AddEndpoint(callCtx, s.key, endpoints.Endpoint{Addr: s.Addr()}, clientv3.WithLease(lease.ID)); err != nil {
		return nil, err
	}
	return s.cli.KeepAlive(ctx, lease.ID)
}

// Stop leaves first and lets the running calls end then.
func (s *namingServer) Stop(ctx context.Context) error {
	s.leave()
	s.left.Wait()
	callCtx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	err := s.manager.DeleteEndpoint(callCtx, s.key)
	s.mu.Lock()
	lease := s.lease
	s.mu.Unlock()
	if lease != clientv3.NoLease {
		_, rerr := s.cli.Revoke(callCtx, lease)
		err = errors.Join(err, rerr)
	}
	return errors.Join(err, s.drain(ctx), s.cli.Close())
}

func dialNaming(_ context.Context, cfg faulttest.DialConfig) (faulttest.Conn, error) {
	cli, err := peerClient(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	builder, err := namingresolver.NewBuilder(cli)
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return dialPeer("etcd:///"+namingName(cfg.Service), cli, grpc.WithResolvers(builder))
}

// peerConn is a connection that owns its client of etcd.
type peerConn struct {
	*grpc.ClientConn
	cli *clientv3.Client
}

func dialPeer(target string, cli *clientv3.Client, opts ...grpc.DialOption) (faulttest.Conn, error) {
	opts = append(opts, grpc.WithDefaultServiceConfig(roundRobinAndWait), grpc.WithTransportCredentials(insecure.NewCredentials()))
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return &peerConn{cc, cli}, nil
}

// Close ends both.
func (c *peerConn) Close() error { return errors.Join(c.ClientConn.Close(), c.cli.Close()) }

// grpcServer is a gRPC server without anything of ours.
type grpcServer struct {
	gs     *grpc.Server
	addr   string
	served chan error
}

func serveGRPC(ctx context.Context, cfg faulttest.ServeConfig) (*grpcServer, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, err
	}
	s := &grpcServer{gs: grpc.NewServer(), addr: l.Addr().String(), served: make(chan error, 1)}
	cfg.Register(s.gs)
	go func() { s.served <- s.gs.Serve(l) }()
	return s, nil
}

// Addr is where it listens, and what is announced.
func (s *grpcServer) Addr() string { return s.addr }

// drain lets running calls end, until ctx does.
func (s *grpcServer) drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.gs.Stop)
	defer stop()
	s.gs.GracefulStop()
	return <-s.served
}

// cut ends running calls at once.
func (s *grpcServer) cut() error {
	s.gs.Stop()
	return <-s.served
}

// pause reports whether it lasted to its end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
