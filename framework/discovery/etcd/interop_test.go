package etcd_test

import (
	"net"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

func TestFindsWhatEtcdsEndpointManagerRegisters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs()
	m, err := endpoints.NewManager(f.admin, f.prefix+"/user")
	if err != nil {
		t.Fatal(err)
	}
	add := func(key string, e endpoints.Endpoint) {
		if err := m.AddEndpoint(f.ctx(), f.prefix+"/user/"+key, e); err != nil {
			t.Fatal(err)
		}
	}
	add("any-suffix", endpoints.Endpoint{Addr: addr1, Metadata: map[string]any{"zone": "z1", "color": "red", "n": 3}})
	add("nested/suffix", endpoints.Endpoint{Addr: "10.0.0.2:9000", Metadata: "a string"})
	add("10.0.0.3:9000", endpoints.Endpoint{Addr: "10.0.0.3:9000"})
	u := w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
	if i := u.Instances[0]; i.Zone != "z1" || i.Metadata["color"] != "red" || i.State != discovery.StateUp {
		t.Errorf("instance = %+v, want zone and color read from the metadata", i)
	}
	if err := m.DeleteEndpoint(f.ctx(), f.prefix+"/user/any-suffix"); err != nil {
		t.Fatal(err)
	}
	w.WaitAddrs("10.0.0.2:9000", "10.0.0.3:9000")
}

func TestEtcdsOwnResolverFindsOurRegistration(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.prefix = discovery.DefaultPrefix
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	f.register(f.registrar(), discoverytest.Instance("stock-resolver", l.Addr().String()))

	builder, err := resolver.NewBuilder(f.admin)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("etcd:////newsvc/default/stock-resolver", grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(f.ctx(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("call through etcd's resolver: %v, %v", resp, err)
	}
}

// The widespread recipe: the key's last part is the address, and so is the value. Its readers look at either.
func TestKeyPerAddressServicesAndOursFindEachOther(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	f.prefix = "/grpcEtcd"
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs()
	f.putRaw("/grpcEtcd/user/"+addr1, addr1)
	w.WaitAddrs(addr1)
	f.register(f.registrar(), discoverytest.Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000")

	resp, err := f.admin.Get(f.ctx(), "/grpcEtcd/user/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, kv := range resp.Kvs {
		key := string(kv.Key)
		found = append(found, key[strings.LastIndex(key, "/")+1:])
	}
	if got, want := strings.Join(found, " "), addr1+" 10.0.0.2:9000"; got != want {
		t.Errorf("their reader finds %q, want %q", got, want)
	}
	counts, err := f.source().Services(f.ctx())
	if err != nil || len(counts) != 1 || counts[0] != (etcd.ServiceCount{Service: "user", Instances: 2}) {
		t.Errorf("Services = %v, %v", counts, err)
	}
}
