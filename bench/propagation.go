package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	namingresolver "go.etcd.io/etcd/client/v3/naming/resolver"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/bench/internal/process"
	"github.com/newsvc/newsvc/bench/internal/stats"
	echov1 "github.com/newsvc/newsvc/bench/proto/echo/v1"
)

const (
	blockSize    = 10                     // samples in a row of one arm
	sampleBudget = 5 * time.Second        // a change that takes longer is lost
	leaveQuiet   = 100 * time.Millisecond // this long without a call, and the instance is left
	namingTarget = "naming/echo"
	joiner       = "joiner"
)

// propagation measures how fast a change in etcd reaches the calls, and prints a table and a line for machines.
func (s settings) propagation(ctx context.Context, etcd string) (err error) {
	c, err := spawn(ctx, role{Kind: kindPropagation, Etcd: etcd, NoHealth: s.noHealth})
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, c.End()) }()
	names := []string{armNaming, armNewsvc}
	joins, leaves := map[string][]float64{}, map[string][]float64{}
	for block := 0; block*blockSize < s.samples; block++ {
		for i := range names {
			name := names[(block+i)%len(names)]
			a, err := c.ask(command{Op: opSamples, Arm: name, Samples: min(blockSize, s.samples-block*blockSize), For: s.pause})
			if err != nil {
				return fmt.Errorf("propagation, %s: %w", name, err)
			}
			joins[name] = appendMillis(joins[name], a.Joins)
			leaves[name] = appendMillis(leaves[name], a.Leaves)
		}
	}
	fmt.Fprintf(s.out, "\npropagation, %d joins and leaves per arm, one caller; ms from the key in etcd to the first call, from the request to delete it to the last\n", s.samples)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "arm\tfirst call p50\tp99\tmax\tlast call p50\tp99\tmax")
	for _, n := range names {
		j, l := joins[n], leaves[n]
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\n", n, stats.Median(j), stats.Quantile(j, 0.99), stats.Quantile(j, 1), stats.Median(l), stats.Quantile(l, 0.99), stats.Quantile(l, 1))
	}
	_ = w.Flush()
	ours, naming := joins[armNewsvc], joins[armNaming]
	left, namingLeft := leaves[armNewsvc], leaves[armNaming]
	fmt.Fprintf(s.out, "PROPAGATION samples=%d join_p50_ms=%.2f join_p99_ms=%.2f naming_join_p50_ms=%.2f naming_join_p99_ms=%.2f join_p50_ratio=%.2f join_p99_ratio=%.2f",
		s.samples, stats.Median(ours), stats.Quantile(ours, 0.99), stats.Median(naming), stats.Quantile(naming, 0.99), stats.Median(ours)/stats.Median(naming), stats.Quantile(ours, 0.99)/stats.Quantile(naming, 0.99))
	fmt.Fprintf(s.out, " leave_p50_ms=%.2f leave_p99_ms=%.2f naming_leave_p50_ms=%.2f naming_leave_p99_ms=%.2f leave_p50_ratio=%.2f leave_p99_ratio=%.2f\n",
		stats.Median(left), stats.Quantile(left, 0.99), stats.Median(namingLeft), stats.Quantile(namingLeft, 0.99),
		stats.Median(left)/stats.Median(namingLeft), stats.Quantile(left, 0.99)/stats.Quantile(namingLeft, 0.99))
	return nil
}

func appendMillis(list []float64, ds []time.Duration) []float64 {
	for _, d := range ds {
		list = append(list, float64(d)/float64(time.Millisecond))
	}
	return list
}

// propagationRole holds both arms: three servers that stay, one that comes and goes, and a caller.
type propagationRole struct {
	etcd    *clientv3.Client // writes and watches; no arm uses it
	arms    map[string]*joinArm
	closers []func() error
}

// joinArm is one arm: only what is written and who resolves it differ.
type joinArm struct {
	key, value string // of the server that comes and goes
	client     echov1.EchoServiceClient
}

func startPropagation(ctx context.Context, r role) (handler, string, error) {
	p := &propagationRole{arms: map[string]*joinArm{}}
	var err error
	if p.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{r.Etcd}, Logger: zap.NewNop()}); err != nil {
		return nil, "", err
	}
	p.closers = append(p.closers, p.etcd.Close)
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	if err := p.startNaming(ctx, r.Etcd); err != nil {
		return nil, "", firstError(err, p.close())
	}
	if err := p.startNewsvc(ctx, r); err != nil {
		return nil, "", firstError(err, p.close())
	}
	return p, "", nil
}

// startNaming is the arm of etcd's client/v3/naming, used as its documentation shows.
func (p *propagationRole) startNaming(ctx context.Context, etcd string) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, cli.Close)
	manager, err := endpoints.NewManager(p.etcd, namingTarget)
	if err != nil {
		return err
	}
	a := &joinArm{}
	for i := range 4 {
		b, addr, err := startBare(ctx, echo{name: serverName(i)})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, b.close)
		key := namingTarget + "/" + addr
		if serverName(i) == joiner {
			a.key, a.value = key, fmt.Sprintf(`{"Op":0,"Addr":%q,"Metadata":null}`, addr)
		} else if err := manager.AddEndpoint(ctx, key, endpoints.Endpoint{Addr: addr}); err != nil {
			return err
		}
	}
	builder, err := namingresolver.NewBuilder(cli)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("etcd:///"+namingTarget, grpc.WithResolvers(builder), roundRobin(), plaintext())
	if err != nil {
		return err
	}
	p.closers = append(p.closers, conn.Close)
	a.client = echov1.NewEchoServiceClient(conn)
	p.arms[armNaming] = a
	return nil
}

// startNewsvc is our arm, with both default chains. Keys are written by hand, as those of the other arm are.
func (p *propagationRole) startNewsvc(ctx context.Context, r role) error {
	a := &joinArm{}
	for i := range 4 {
		s, err := startNewsvc(ctx, service, newsvcConfig(r.Etcd), echo{name: serverName(i)})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, s.close)
		addr, _, _ := s.Addresses()
		key, value, err := etcdKey(addr)
		if err != nil {
			return err
		}
		if serverName(i) == joiner {
			a.key, a.value = key, value
		} else if _, err := p.etcd.Put(ctx, key, value); err != nil {
			return err
		}
	}
	caller, conn, err := connectNewsvc(ctx, r, 3)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, caller.close)
	a.client = echov1.NewEchoServiceClient(conn)
	p.arms[armNewsvc] = a
	return nil
}

func serverName(i int) string {
	if i == 3 {
		return joiner
	}
	return fmt.Sprintf("stays-%d", i)
}

func (p *propagationRole) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}

func (p *propagationRole) handle(ctx context.Context, c command) (answer, error) {
	a := p.arms[c.Arm]
	if a == nil {
		return answer{}, fmt.Errorf("no such arm: %q", c.Arm)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	seen := &sightings{}
	wg.Go(func() { fail(seen.call(ctx, a.client)) })
	events := p.etcd.Watch(clientv3.WithRequireLeader(ctx), a.key, clientv3.WithCreatedNotify())
	<-events // the watch is there
	var out answer
	for range c.Samples {
		join, leave, err := p.sample(ctx, a, seen, events, c.For)
		if err != nil {
			return out, err
		}
		out.Joins, out.Leaves = append(out.Joins, join), append(out.Leaves, leave)
	}
	return out, nil
}

// sample lets the server come and go once. A join counts from the event that an onlooker gets. A leave counts from the
// request to delete the key: mostly the last call begins before anybody hears of it.
func (p *propagationRole) sample(ctx context.Context, a *joinArm, seen *sightings, events clientv3.WatchChan, pause time.Duration) (join, leave time.Duration, err error) {
	if err := process.Wait(ctx, rand.N(pause/2)); err != nil { // the end of the last leave was quiet already
		return 0, 0, err
	}
	before := seen.count.Load()
	_, event, err := change(ctx, events, func(ctx context.Context) error { _, err := p.etcd.Put(ctx, a.key, a.value); return err })
	if err != nil {
		return 0, 0, err
	}
	for limit := time.Now().Add(sampleBudget); seen.count.Load() == before; {
		if time.Now().After(limit) {
			return 0, 0, fmt.Errorf("no call reached the new server within %v", sampleBudget)
		}
		if err := process.Wait(ctx, time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
	join = time.Unix(0, seen.first.Load()).Sub(event)
	if err := process.Wait(ctx, pause/2+rand.N(pause)); err != nil {
		return 0, 0, err
	}
	asked, event, err := change(ctx, events, func(ctx context.Context) error { _, err := p.etcd.Delete(ctx, a.key); return err })
	if err != nil {
		return 0, 0, err
	}
	for limit := time.Now().Add(sampleBudget); ; {
		last := time.Unix(0, seen.last.Load())
		if now := time.Now(); now.Sub(last) > leaveQuiet && now.Sub(event) > leaveQuiet {
			seen.forget()
			return join, last.Sub(asked), nil
		} else if now.After(limit) {
			return 0, 0, fmt.Errorf("calls still reach the server that left %v ago", sampleBudget)
		}
		if err := process.Wait(ctx, time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
}

// change writes to etcd and returns when that was asked for, and when an onlooker was told of it.
func change(ctx context.Context, events clientv3.WatchChan, write func(context.Context) error) (asked, event time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, sampleBudget)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case r := <-events:
			if r.Err() == nil && len(r.Events) > 0 {
				event = time.Now()
			}
		case <-ctx.Done():
		}
	})
	asked = time.Now()
	if err = write(ctx); err != nil {
		cancel()
	}
	wg.Wait()
	if err == nil && event.IsZero() {
		err = errors.New("the onlooker's watch ended")
	}
	return asked, event, err
}

// sightings is when calls reached the server that comes and goes.
type sightings struct {
	count       atomic.Int64
	first, last atomic.Int64 // nanoseconds of the clock; first: answered, last: begun
}

func (s *sightings) forget() { s.first.Store(0) }

// call is the caller: one call after the other.
func (s *sightings) call(ctx context.Context, client echov1.EchoServiceClient) error {
	req := &echov1.EchoRequest{Text: "x"}
	for ctx.Err() == nil {
		begin := time.Now()
		resp, err := client.Echo(ctx, req, grpc.WaitForReady(true))
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("a call failed: %w", err)
		}
		if resp.GetServer() == joiner {
			s.last.Store(begin.UnixNano())
			if s.first.CompareAndSwap(0, time.Now().UnixNano()) {
				s.count.Add(1)
			}
		}
	}
	return nil
}
