package stack_test

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

// protected starts an etcd with authentication, in which each of the services has a user of its name with the role that
// it needs, and no other permission.
func protected(t *testing.T, services ...string) *devetcd.Server {
	t.Helper()
	srv, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	admin, ctx := srv.Client(), limit(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	user := func(name string) {
		t.Helper()
		_, err := admin.UserAdd(ctx, name, "secret of "+name)
		must(err)
		if name != "root" {
			_, err = admin.RoleAdd(ctx, name)
			must(err)
		}
		_, err = admin.UserGrantRole(ctx, name, name)
		must(err)
	}
	user("root")
	for _, service := range services {
		user(service)
		permissions, err := etcd.Access(discovery.DefaultPrefix, service)
		must(err)
		for _, p := range permissions {
			kind := clientv3.PermissionType(clientv3.PermRead)
			if p.Write {
				kind = clientv3.PermissionType(clientv3.PermReadWrite)
			}
			_, err := admin.RoleGrantPermission(ctx, service, p.Prefix, clientv3.GetPrefixRangeEnd(p.Prefix), kind)
			must(err)
		}
	}
	_, err = admin.AuthEnable(ctx)
	must(err)
	return srv
}

// as are the parameters of a service that is its own user in etcd.
func as(t *testing.T, srv *devetcd.Server, name string) stack.Params {
	t.Helper()
	p, _, _ := params(t)
	p.Service, p.Replace = name, stack.Replace{}
	p.Config.Etcd.Endpoints = srv.Endpoints()
	p.Config.Etcd.Username, p.Config.Etcd.Password = name, "secret of "+name
	p.Config.Registration.TTL = 5 * time.Second
	return p
}

// userOf is a client with the rights of a service.
func userOf(t *testing.T, p stack.Params) *clientv3.Client {
	t.Helper()
	cli, err := etcdclient.New(p.Config.Etcd, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func TestServicesRunInAnEtcdThatGrantsThemNoMoreThanTheirRoles(t *testing.T) {
	t.Parallel()
	srv := protected(t, "user-service", "order-service")
	callee := build(t, as(t, srv, "user-service"))
	up(t, callee)
	p := as(t, srv, "order-service")
	p.Callees = []string{"user-service"}
	caller := build(t, p)
	up(t, caller)
	if err := callTo(t, caller, "user-service"); err != nil {
		t.Fatal(err)
	}
	// It lives on: its lease is renewed under these permissions too.
	addr, _, _ := callee.Addresses()
	at, err := caller.Etcd().Get(limit(t), discovery.Key(discovery.DefaultPrefix, "user-service", addr))
	if err != nil || len(at.Kvs) != 1 {
		t.Fatalf("the callee is not there: %v, %v", at, err)
	}
	least, root := int64(1<<62), userOf(t, as(t, srv, "root"))
	eventually(t, "a renewed lease", func() bool {
		lease, err := root.TimeToLive(limit(t), clientv3.LeaseID(at.Kvs[0].Lease))
		if err != nil {
			t.Fatal(err)
		}
		grown := lease.TTL > least
		least = lease.TTL
		return grown
	})
	// It leaves, and that takes no more either.
	if err := callee.Drain(limit(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the callee to be gone", func() bool {
		all, err := caller.Etcd().Get(limit(t), discovery.ServicePrefix(discovery.DefaultPrefix, "user-service"), clientv3.WithPrefix())
		return err == nil && len(all.Kvs) == 0
	})
}

// Whoever has taken over one service can announce himself as that one and as no other, and read nothing but addresses.
func TestAServiceCantAnnounceAnotherOne(t *testing.T) {
	t.Parallel()
	srv := protected(t, "user-service", "order-service")
	victim := build(t, as(t, srv, "user-service"))
	up(t, victim)
	addr, _, _ := victim.Addresses()
	cli, ctx := userOf(t, as(t, srv, "order-service")), limit(t)
	own := discovery.Key(discovery.DefaultPrefix, "user-service", addr)
	for name, try := range map[string]func(context.Context) error{
		"announces an address for it": func(ctx context.Context) error {
			_, err := cli.Put(ctx, discovery.Key(discovery.DefaultPrefix, "user-service", "127.0.0.1:1"), "127.0.0.1:1")
			return err
		},
		"takes its address away": func(ctx context.Context) error { _, err := cli.Delete(ctx, own); return err },
		"ends its lease": func(ctx context.Context) error {
			got, err := cli.Get(ctx, own)
			if err != nil {
				return err
			}
			if len(got.Kvs) != 1 {
				t.Fatalf("the victim is not there: %v", got)
			}
			_, err = cli.Revoke(ctx, clientv3.LeaseID(got.Kvs[0].Lease))
			return err
		},
		"writes elsewhere": func(ctx context.Context) error { _, err := cli.Put(ctx, "/x", "y"); return err },
		"reads elsewhere":  func(ctx context.Context) error { _, err := cli.Get(ctx, "/x"); return err },
		"reads everything": func(ctx context.Context) error {
			_, err := cli.Get(ctx, discovery.DefaultPrefix, clientv3.WithPrefix())
			return err
		},
		"makes users": func(ctx context.Context) error { _, err := cli.UserAdd(ctx, "eve", "x"); return err },
	} {
		if err := try(ctx); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("a service that %s: %v, want it refused", name, err)
		}
	}
}
