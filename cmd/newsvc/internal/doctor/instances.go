package doctor

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/discovery"
)

// registered is one key of an instance.
type registered struct {
	key, service, addr string
	lease              int64
	err                error // of the attempt to connect
}

// instances looks at what is registered: an address on loopback where etcd is elsewhere, and addresses that do not
// answer.
func (x *examination) instances(ctx context.Context, cli *clientv3.Client, r Registry, endpoint string) []Finding {
	callCtx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	resp, err := cli.Get(callCtx, r.Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(maxKeys))
	if err != nil {
		return []Finding{{Check: "instances", Level: Skip, What: fmt.Sprintf("%s cannot be listed: %s", r.Prefix, shorten(err))}}
	}
	var all []*registered
	services := map[string]bool{}
	for _, kv := range resp.Kvs {
		service, addr, ok := discovery.ParseKey(r.Prefix, string(kv.Key))
		if !ok {
			continue
		}
		if i, err := discovery.Decode(service, kv.Value); err == nil {
			addr = i.Addr
		}
		services[service] = true
		all = append(all, &registered{key: string(kv.Key), service: service, addr: addr, lease: kv.Lease})
	}
	var found []Finding
	var dialled []*registered
	for _, i := range all {
		if host, _, err := net.SplitHostPort(i.addr); err == nil && loopback(host) && !local(endpoint) {
			found = append(found, x.onLoopback(ctx, i, endpoint))
			continue
		}
		dialled = append(dialled, i)
	}
	connect(ctx, dialled)
	for _, i := range dialled {
		if i.err != nil {
			found = append(found, unreachable(i, r.Etcdctl(endpoint)))
		}
	}
	found = append(found, running(ctx, r, all)...)
	if len(found) == 0 {
		return []Finding{{Check: "instances", Level: OK, What: fmt.Sprintf("%s of %s, all can be reached", count(len(all), "instance"), count(len(services), "service"))}}
	}
	return found
}

func (x *examination) onLoopback(ctx context.Context, i *registered, endpoint string) Finding {
	return Finding{
		Check: "advertise", Level: Fail, At: i.key,
		What: fmt.Sprintf("%s registers %s, which other machines cannot reach; its next start takes the setting below", i.service, i.addr),
		Fix:  fmt.Sprintf("export %s=%s", config.EnvName(i.service, "registration.advertise"), sourceAddr(ctx, endpoint)),
	}
}

// sourceAddr is the address of this machine that a connection to etcd comes from.
func sourceAddr(ctx context.Context, endpoint string) string {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", endpoint[strings.LastIndex(endpoint, "/")+1:]) // sends nothing
	if err != nil {
		return "10.0.0.7"
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return "10.0.0.7"
	}
	return host
}

// unreachable is about an instance that does not answer: its process is gone, frozen, or behind a firewall.
func unreachable(i *registered, etcdctl string) Finding {
	f := Finding{
		Check: "instances", Level: Fail, At: i.key,
		What: fmt.Sprintf("%s is registered at %s, and cannot be reached from here: %s; one that lives comes back when its lease is revoked", i.service, i.addr, shorten(i.err)),
		Fix:  fmt.Sprintf("%s lease revoke %x", etcdctl, i.lease),
	}
	if i.lease == 0 {
		f.What = fmt.Sprintf("%s is registered at %s, and cannot be reached from here: %s; its key has no lease, so it stays for good", i.service, i.addr, shorten(i.err))
		f.Fix = fmt.Sprintf("%s del %s", etcdctl, quote(i.key))
	}
	return f
}

// connect tries all addresses, several at a time, and closes each connection at once.
func connect(ctx context.Context, all []*registered) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, i := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			d := net.Dialer{Timeout: dialTimeout}
			conn, err := d.DialContext(ctx, "tcp", i.addr)
			if i.err = err; err == nil {
				_ = conn.Close()
			}
		})
	}
	wg.Wait()
}
