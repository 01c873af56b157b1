package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

const (
	etcdTimeout = 2 * time.Second        // for one question to etcd
	dialTimeout = time.Second            // for one connection to an instance
	settle      = 600 * time.Millisecond // a lease that is being given its key has it by then
	maxKeys     = 2000                   // instances that are looked at
	maxLeases   = 500
)

// registry looks at etcd, its clock, and what is registered.
func (x *examination) registry(ctx context.Context) []Finding {
	r, err := x.where, x.whereErr
	if p := (*problem.Error)(nil); errors.As(err, &p) && x.placeErr == nil {
		return []Finding{x.asFinding(p)}
	}
	if err != nil {
		return one(Skip, "it is not known which etcd to look at: %s", firstLine(err))
	}
	cli, err := etcdclient.New(r.Etcd, zap.NewNop())
	if err != nil {
		return []Finding{{Level: Fail, What: fmt.Sprintf("cannot use etcd %s: %v", strings.Join(r.Etcd.Endpoints, ", "), err), At: r.How, Fix: x.otherEtcd(r, "")}}
	}
	defer cli.Close()
	found, reached := x.members(ctx, cli, r)
	if reached == "" {
		return found
	}
	found = append(found, x.clock(ctx, r, reached)...)
	found = append(found, x.instances(ctx, cli, r, reached)...)
	return append(found, leases(ctx, cli, r, reached)...)
}

// members asks each endpoint for its version. reached is one that answered, empty when none did.
func (x *examination) members(ctx context.Context, cli *clientv3.Client, r Registry) (found []Finding, reached string) {
	var version, last, scheme string
	var silent []string
	for _, ep := range r.Etcd.Endpoints {
		status, err := ask(ctx, cli, ep, etcdTimeout/time.Duration(min(len(r.Etcd.Endpoints), 2)))
		if err != nil {
			silent, last = append(silent, ep), shorten(err)
			if t := (*etcdclient.ConnError)(nil); errors.As(err, &t) {
				scheme = t.Scheme
			}
			continue
		}
		if reached == "" {
			reached, version = ep, status.Version
		}
	}
	all := strings.Join(r.Etcd.Endpoints, ", ")
	switch {
	case reached == "" && r.How == locate.HowDefault:
		return one(Skip, "no etcd at %s, and no newsvc dev runs; it starts one", all), ""
	case reached == "":
		return []Finding{{Level: Fail, What: fmt.Sprintf("etcd %s cannot be reached: %s", all, last), At: r.How, Fix: x.otherEtcd(r, scheme)}}, ""
	case len(silent) > 0:
		return []Finding{{Level: Warn, What: fmt.Sprintf("etcd %s cannot be reached: %s; %s can", strings.Join(silent, ", "), last, reached), At: r.How, Fix: x.onlyThose(r, silent)}}, reached
	}
	return one(OK, "etcd %s (%s) is there, v%s", all, r.How, version), reached
}

// ask gets the state of one endpoint. It connects by itself first: the client would go on trying where nobody listens.
func ask(ctx context.Context, cli *clientv3.Client, endpoint string, timeout time.Duration) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", endpoint[strings.LastIndex(endpoint, "/")+1:])
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		if t := etcdclient.Hopeless(ctx, cli, endpoint); t != nil {
			stop(t)
		}
	}()
	status, err := cli.Status(ctx, endpoint)
	if t := etcdclient.Why(cli, endpoint); err != nil && t != nil {
		return nil, t
	}
	return status, err
}

// otherEtcd is what to do when the etcd that was chosen is not there.
// scheme is how it wants to be talked to, when that is what is wrong.
func (x *examination) otherEtcd(r Registry, scheme string) string {
	switch {
	case r.How == locate.HowEnv && scheme != "":
		return "export " + locate.EnvEtcd + "=" + scheme + "://" + address(r.Etcd.Endpoints[0])
	case r.How == locate.HowEnv:
		return "unset " + locate.EnvEtcd
	case r.How == locate.HowFlag && scheme != "":
		return "newsvc doctor --etcd " + scheme + "://" + address(r.Etcd.Endpoints[0])
	case r.How == locate.HowFlag:
		return r.Etcdctl(r.Etcd.Endpoints[0]) + " endpoint health"
	case len(r.Devs) > 0: // it is frozen, or hangs: let it go on, and end as by Ctrl-C
		return fmt.Sprintf("kill -CONT %d && kill %d", r.Devs[0], r.Devs[0])
	}
	return x.from(r.How)
}

// onlyThose is what to do when some members of etcd are away: to name those only that are there.
func (x *examination) onlyThose(r Registry, silent []string) string {
	there := strings.Join(slices.DeleteFunc(slices.Clone(r.Etcd.Endpoints), func(e string) bool { return slices.Contains(silent, e) }), ",")
	switch r.How {
	case locate.HowEnv:
		return "export " + locate.EnvEtcd + "=" + there
	case locate.HowFlag:
		return "newsvc doctor --etcd " + there
	}
	return x.from(r.How)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// shorten leaves the last part of an error of gRPC: what the connection ended with.
func shorten(err error) string {
	if errors.Is(err, context.DeadlineExceeded) && !errors.As(err, new(*etcdclient.ConnError)) {
		return "no answer"
	}
	text := err.Error()
	if t := (*etcdclient.ConnError)(nil); errors.As(err, &t) && !t.Certain {
		text = t.Err.Error() // what to do is said otherwise
	}
	for _, before := range []string{"error while dialing: ", "connect: "} {
		if _, after, ok := strings.Cut(text, before); ok {
			text = after
		}
	}
	return strings.Trim(text, `"`)
}

// clock compares the clock of etcd's machine with that of this one. Leases are counted by etcd alone, so the difference
// breaks nothing by itself; beyond a lease's life, what logs and listings say about its age is wrong.
func (x *examination) clock(ctx context.Context, r Registry, endpoint string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	addr := address(endpoint)
	url := "http://" + addr + "/version"
	transport := &http.Transport{DisableKeepAlives: true}
	if r.Etcd.TLS.Active() {
		conf, err := certs.Client(r.Etcd.TLS, "", certs.Hosts(hostOf(addr)), certs.AllowTLS12())
		if err != nil {
			return nil
		}
		url, transport.TLSClientConfig = "https://"+addr+"/version", conf
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil
	}
	began := x.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return []Finding{{Check: "clock", Level: Skip, What: "etcd does not tell its time: " + shorten(err)}}
	}
	_ = resp.Body.Close()
	there, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return []Finding{{Check: "clock", Level: Skip, What: "etcd does not tell its time"}}
	}
	apart := there.Sub(began.Add(x.Now().Sub(began) / 2)).Round(time.Second)
	if apart.Abs() < etcd.DefaultTTL {
		return []Finding{{Check: "clock", Level: OK, What: fmt.Sprintf("etcd's clock and this one are less than %v apart", apart.Abs()+time.Second)}}
	}
	return []Finding{{
		Check: "clock", Level: Warn, At: endpoint,
		What: fmt.Sprintf("etcd's clock is %v from this one, more than the life of a lease (%v)", apart, etcd.DefaultTTL),
		Fix:  "sudo timedatectl set-ntp true",
	}}
}

// leases finds leases that hold no key: somebody keeps them alive and announces nobody.
func leases(ctx context.Context, cli *clientv3.Client, r Registry, endpoint string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	resp, err := cli.Leases(ctx)
	if err != nil {
		return []Finding{{Check: "leases", Level: Skip, What: "leases cannot be listed: " + shorten(err)}}
	}
	ids := make([]clientv3.LeaseID, 0, len(resp.Leases))
	for _, l := range resp.Leases[:min(len(resp.Leases), maxLeases)] {
		ids = append(ids, l.ID)
	}
	total := len(ids)
	if ids = empty(ctx, cli, ids); len(ids) > 0 {
		wait := time.NewTimer(settle)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		ids = empty(ctx, cli, ids) // twice: one that was just granted gets its key in a moment
	}
	if len(ids) == 0 {
		return []Finding{{Check: "leases", Level: OK, What: fmt.Sprintf("each of %s holds a key", count(total, "lease"))}}
	}
	fix := fmt.Sprintf("%s lease revoke %x", r.Etcdctl(endpoint), int64(ids[0]))
	if len(ids) > 1 {
		list := make([]string, len(ids))
		for i, id := range ids {
			list[i] = fmt.Sprintf("%x", int64(id))
		}
		fix = fmt.Sprintf("for id in %s; do %s lease revoke $id; done", strings.Join(list, " "), r.Etcdctl(endpoint))
	}
	return []Finding{{
		Check: "leases", Level: Warn, What: fmt.Sprintf("%s of %d without a key: kept alive, and nobody is announced by it", count(len(ids), "lease"), total),
		Fix: fix,
	}}
}

// empty returns those of the leases that live and hold no key.
func empty(ctx context.Context, cli *clientv3.Client, ids []clientv3.LeaseID) []clientv3.LeaseID {
	var without []clientv3.LeaseID
	for _, id := range ids {
		resp, err := cli.TimeToLive(ctx, id, clientv3.WithAttachedKeys())
		if err == nil && resp.TTL > 0 && len(resp.Keys) == 0 {
			without = append(without, id)
		}
	}
	return without
}

// address is an endpoint without its scheme.
func address(endpoint string) string { return endpoint[strings.LastIndex(endpoint, "/")+1:] }

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// local reports whether an endpoint of etcd is on this machine.
func local(endpoint string) bool {
	addr := endpoint[strings.LastIndex(endpoint, "/")+1:]
	host, _, err := net.SplitHostPort(addr)
	return err == nil && loopback(host)
}
