package main

import (
	"context"
	"errors"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

// recipe is the design that many articles show: a key for each address, looked at once per TTL and written when it is
// missing; a resolver that lists and then watches. It is written anew from that description, on the current gRPC.
//
// It is kinder than what is described in these ways:
//   - Its scheme is lower-case. With the capitals of the original, gRPC of today finds no resolver at all.
//   - A lease that is lost leaves no goroutine behind that reads a closed channel for ever: each would take a whole core,
//     also from the implementations beside it.
//   - Each connection has a resolver of its own; the original's one resolver mixes up the services of a process that calls two.
//   - Calls wait for a server, and are spread by round robin.
//   - Withdrawing at SIGTERM has a limit of time, and the process then ends by returning, not within the handler of the signal.
func recipe() faulttest.Adapter {
	return faulttest.Adapter{
		Name:  "recipe",
		Keys:  func(service string) string { return recipeName(service) + "/" },
		Serve: serveRecipe,
		Dial:  dialRecipe,
	}
}

const recipeScheme = "grpcetcd"

func recipeName(service string) string { return "/grpcEtcd/" + service }

type recipeServer struct {
	*grpcServer
	cli *clientv3.Client
	key string
	ttl int64
}

func serveRecipe(ctx context.Context, cfg faulttest.ServeConfig) (faulttest.Server, error) {
	cli, err := peerClient(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	gs, err := serveGRPC(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	s := &recipeServer{grpcServer: gs, cli: cli, key: recipeName(cfg.Service) + "/" + gs.Addr(), ttl: int64(cfg.TTL / time.Second)}
	go s.announce(context.WithoutCancel(ctx), cfg.TTL)
	return s, nil
}

// announce looks for the key once per TTL. Nobody ends it, and its calls have no deadline.
func (s *recipeServer) announce(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if got, err := s.cli.Get(ctx, s.key); err == nil && got.Count == 0 {
			s.put(ctx)
		}
		<-ticker.C
	}
}

func (s *recipeServer) put(ctx context.Context) {
	lease, err := s.cli.Grant(ctx, s.ttl)
	if err != nil {
		return
	}
	if _, err := s.cli.Put(ctx, s.key, s.Addr(), clientv3.WithLease(lease.ID)); err != nil {
		return
	}
	renewals, err := s.cli.KeepAlive(ctx, lease.ID)
	if err != nil {
		return
	}
	go func() {
		for range renewals { // the next look finds out whether that mattered
		}
	}()
}

// Stop deletes the key by its name, whoever wrote it, and cuts what runs.
func (s *recipeServer) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	_, err := s.cli.Delete(ctx, s.key)
	return errors.Join(err, s.cut())
}

func dialRecipe(_ context.Context, cfg faulttest.DialConfig) (faulttest.Conn, error) {
	cli, err := peerClient(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	return dialPeer(recipeScheme+"://"+cfg.Caller+"/"+cfg.Service, cli, grpc.WithResolvers(&recipeResolver{cli: cli}))
}

// recipeResolver is its own builder.
type recipeResolver struct {
	cli *clientv3.Client
	cc  resolver.ClientConn
}

// Scheme is the first part of targets.
func (r *recipeResolver) Scheme() string { return recipeScheme }

// Build begins to watch.
func (r *recipeResolver) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	r.cc = cc
	go r.watch(context.Background(), recipeName(target.Endpoint()))
	return r, nil
}

// watch lists and then watches from now on: what changes in between is lost. The prefix has no slash at its end, so it
// is that of services with longer names too. It ends when either ends.
func (r *recipeResolver) watch(ctx context.Context, prefix string) {
	listed, err := r.cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return
	}
	addrs := map[string]bool{}
	for _, kv := range listed.Kvs {
		addrs[addrOf(kv.Key)] = true
	}
	r.update(addrs)
	for resp := range r.cli.Watch(ctx, prefix, clientv3.WithPrefix()) {
		for _, ev := range resp.Events {
			if ev.Type == clientv3.EventTypePut {
				addrs[addrOf(ev.Kv.Key)] = true
			} else {
				delete(addrs, addrOf(ev.Kv.Key))
			}
			r.update(addrs)
		}
	}
}

// addrOf reads the address from the key; the value is not looked at.
func addrOf(key []byte) string {
	return string(key[strings.LastIndexByte(string(key), '/')+1:])
}

func (r *recipeResolver) update(addrs map[string]bool) {
	var state resolver.State
	for a := range addrs {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: a})
	}
	_ = r.cc.UpdateState(state)
}

// ResolveNow does nothing.
func (r *recipeResolver) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends nothing: the watch goes on.
func (r *recipeResolver) Close() {}
