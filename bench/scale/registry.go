package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/bench/internal/process"
	"github.com/newsvc/newsvc/framework/discovery"
)

// registry is the etcd of a run: a process of its own.
type registry struct {
	program, dir string
	proc         *process.Process
	addr         string
	cli          *clientv3.Client // the parent's, to write with
}

// startRegistry builds etcd into dir and starts it on data below dir.
func startRegistry(ctx context.Context, dir string) (*registry, error) {
	r := &registry{program: filepath.Join(dir, "etcd"), dir: filepath.Join(dir, "data")}
	if err := process.Build(ctx, r.program, "github.com/newsvc/newsvc/bench/etcd"); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	var err error
	r.cli, err = clientv3.New(clientv3.Config{Endpoints: []string{r.addr}, Logger: zap.NewNop()})
	if err != nil {
		return nil, errors.Join(err, r.proc.End())
	}
	return r, nil
}

// start starts etcd, after a kill on the same data and the same address.
func (r *registry) start(ctx context.Context) error {
	var hello struct{ Addr string }
	p, err := process.Start(ctx, &hello, r.program, "-dir", r.dir, "-listen", r.addr)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	r.proc, r.addr = p, hello.Addr
	return nil
}

func (r *registry) close() error { return errors.Join(r.cli.Close(), r.proc.End()) }

// counters are etcd's own numbers of interest.
type counters struct {
	reads, writes, grants, lookups int // requests: Range; Put, Txn and DeleteRange; LeaseGrant; LeaseTimeToLive
	renewals, watchRequests        int // messages on streams
	watchStreams                   int // that were opened
	watchers                       int // that are open
	revision                       int
}

func (c counters) minus(o counters) counters {
	return counters{
		c.reads - o.reads, c.writes - o.writes, c.grants - o.grants, c.lookups - o.lookups, c.renewals - o.renewals,
		c.watchRequests - o.watchRequests, c.watchStreams - o.watchStreams, c.watchers - o.watchers, c.revision - o.revision,
	}
}

// read asks etcd for its metrics.
func (r *registry) read(ctx context.Context) (counters, error) {
	var c counters
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.addr+"/metrics", nil)
	if err != nil {
		return c, err
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	fields := map[string]*int{
		started("Range", "KV"): &c.reads, started("LeaseGrant", "Lease"): &c.grants, started("LeaseTimeToLive", "Lease"): &c.lookups,
		started("Watch", "Watch"): &c.watchStreams, received("LeaseKeepAlive", "Lease"): &c.renewals, received("Watch", "Watch"): &c.watchRequests,
		"etcd_debugging_mvcc_watcher_total": &c.watchers, "etcd_debugging_mvcc_current_revision": &c.revision,
		started("Put", "KV"): &c.writes, started("Txn", "KV"): &c.writes, started("DeleteRange", "KV"): &c.writes,
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if value == "" {
			name, value, _ = strings.Cut(lines.Text(), " ")
		}
		if into := fields[name]; into != nil {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return c, fmt.Errorf("etcd's metric %s: %w", name, err)
			}
			*into += int(n)
		}
	}
	return c, lines.Err()
}

func started(method, service string) string { return grpcMetric("started", method, service) }
func received(method, service string) string {
	return grpcMetric("msg_received", method, service)
}

func grpcMetric(what, method, service string) string {
	kind := "unary"
	if method == "Watch" || method == "LeaseKeepAlive" {
		kind = "bidi_stream"
	}
	return fmt.Sprintf(`grpc_server_%s_total{grpc_method=%q,grpc_service="etcdserverpb.%s",grpc_type=%q`, what, method, service, kind)
}

// world is one service of some size as two arms see it: the same addresses, each arm's keys in its own form.
type world struct {
	reg     *registry
	size    int
	service string
	port    string // of all addresses
	next    int    // the next address that nobody had
}

// addr is the n-th address: the whole of 127.0.0.0/8 leads to this machine, and one listener serves all of it.
func (w *world) addr(n int) string {
	n += 1 << 16 // not 127.0.x.x
	return fmt.Sprintf("127.%d.%d.%d:%s", n>>16&0xff, n>>8&0xff, n&0xff, w.port)
}

func namingPrefix(service string) string { return "naming/" + service }

// pair is one instance as an arm keeps it in etcd.
func (w *world) pair(arm, addr string) (key, value string, err error) {
	if arm == armNaming {
		return namingPrefix(w.service) + "/" + addr, fmt.Sprintf(`{"Op":0,"Addr":%q,"Metadata":null}`, addr), nil
	}
	v, err := discovery.Encode(&discovery.Instance{
		Service: w.service, Addr: addr, Incarnation: discovery.NewIncarnation(), State: discovery.StateUp,
		Version: "v1.2.3", Admin: addr[:len(addr)-len(w.port)] + "9001", Zone: "zone-a",
	})
	return discovery.Key(discovery.DefaultPrefix, w.service, addr), string(v), err
}

const (
	perTxn   = 100
	perLease = 1000
	leaseTTL = 4 * 3600
)

// fill writes the keys of the addresses below upTo for both arms, many with one lease.
func (w *world) fill(ctx context.Context, upTo int) error {
	for _, arm := range []string{armNaming, armNewsvc} {
		var lease clientv3.LeaseID
		for from := 0; from < upTo; from += perTxn {
			if from%perLease == 0 {
				l, err := w.reg.cli.Grant(ctx, leaseTTL)
				if err != nil {
					return err
				}
				lease = l.ID
			}
			var ops []clientv3.Op
			for n := from; n < min(upTo, from+perTxn); n++ {
				key, value, err := w.pair(arm, w.addr(n))
				if err != nil {
					return err
				}
				ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(lease)))
			}
			if _, err := w.reg.cli.Txn(ctx).Then(ops...).Commit(); err != nil {
				return err
			}
		}
	}
	w.next = upTo
	return nil
}

// empty removes all keys of both arms.
func (w *world) empty(ctx context.Context) error {
	for _, prefix := range []string{namingPrefix(w.service) + "/", discovery.ServicePrefix(discovery.DefaultPrefix, w.service)} {
		if _, err := w.reg.cli.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) join(ctx context.Context, arm, addr string) error {
	key, value, err := w.pair(arm, addr)
	if err != nil {
		return err
	}
	_, err = w.reg.cli.Put(ctx, key, value)
	return err
}

func (w *world) leave(ctx context.Context, arm, addr string) error {
	key, _, err := w.pair(arm, addr)
	if err != nil {
		return err
	}
	_, err = w.reg.cli.Delete(ctx, key)
	return err
}

// fresh takes addresses that nobody had.
func (w *world) fresh(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = w.addr(w.next)
		w.next++
	}
	return out
}

// storm makes changes at an even pace within about a second and returns the instances that have joined and stay. Each
// writer lets instances join and leave in turn, so the service's size stays nearly the same.
func (w *world) storm(ctx context.Context, arm string, changes int) (stayed []string, err error) {
	const writers = 20
	each := changes / writers
	stays := make([][]string, writers)
	errs := make([]error, writers)
	fresh := make([][]string, writers)
	for n := range writers {
		fresh[n] = w.fresh(each/2 + 1)
	}
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(each))
			defer tick.Stop()
			for change := range each {
				<-tick.C
				if next := change / 2; change%2 == 0 {
					errs[n] = w.join(ctx, arm, fresh[n][next])
					stays[n] = append(stays[n], fresh[n][next])
				} else if change > 1 {
					errs[n] = w.leave(ctx, arm, stays[n][0])
					stays[n] = stays[n][1:]
				} else {
					errs[n] = w.join(ctx, arm, fresh[n][each/2])
					stays[n] = append(stays[n], fresh[n][each/2])
				}
				if errs[n] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stays {
		stayed = append(stayed, s...)
	}
	return stayed, errors.Join(errs...)
}
