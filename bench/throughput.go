package main

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/newsvc/newsvc/bench/internal/stats"
)

// arm is one arm's processes and what was measured of them, a value for each round.
type arm struct {
	name    string
	client  *child
	servers []*child
	total   uint64 // calls made, warm-up and checks included

	rate, clientCPU, serverCPU, clientAllocs, serverAllocs []float64
	p50, p99                                               []float64
}

// throughput runs the comparison, prints a table and returns what the last line says of it.
func (s settings) throughput(ctx context.Context, etcd string) (line string, err error) {
	var arms []*arm
	defer func() {
		for _, a := range arms {
			err = firstError(err, a.end())
		}
	}()
	for _, name := range []string{armBare, armAgain, armNewsvc} {
		a, err := s.startArm(ctx, name, etcd)
		if err != nil {
			return "", err
		}
		arms = append(arms, a)
	}
	for _, a := range arms { // connections, caches and the heap find their size
		if err := a.slice(time.Second, s.callers, false); err != nil {
			return "", err
		}
	}
	for round := range s.slices {
		for i := range arms {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			if err := arms[(round+i)%len(arms)].slice(s.slice, s.callers, true); err != nil {
				return "", err
			}
		}
	}
	if err := arms[2].verify(); err != nil {
		return "", err
	}
	return s.compare(arms[0], arms[1], arms[2]), nil
}

func (s settings) startArm(ctx context.Context, name, etcd string) (*arm, error) {
	a := &arm{name: name}
	var addrs []string
	for range s.servers {
		c, err := spawn(ctx, role{Kind: kindServer, Arm: name, Etcd: etcd, Profile: s.profile})
		if err != nil {
			return nil, firstError(err, a.end())
		}
		a.servers = append(a.servers, c)
		addrs = append(addrs, c.hello.Addr)
	}
	var err error
	a.client, err = spawn(ctx, role{Kind: kindClient, Arm: name, Etcd: etcd, Addrs: addrs, NoHealth: s.noHealth, Profile: s.profile})
	if err != nil {
		return nil, firstError(err, a.end())
	}
	return a, nil
}

func (a *arm) end() (err error) {
	if a.client != nil {
		err = a.client.End()
	}
	for _, c := range a.servers {
		err = firstError(err, c.End())
	}
	return err
}

// ask asks the client and all servers and adds the servers up.
func (a *arm) ask(op string) (client, servers answer, err error) {
	if client, err = a.client.ask(command{Op: op}); err != nil {
		return client, servers, err
	}
	for _, c := range a.servers {
		u, err := c.ask(command{Op: op})
		if err != nil {
			return client, servers, err
		}
		servers.CPU += u.CPU
		servers.Mallocs += u.Mallocs
		servers.Counted += u.Counted
	}
	return client, servers, nil
}

// slice puts load on the arm for a while. A failed call is a failed benchmark.
func (a *arm) slice(d time.Duration, callers int, keep bool) error {
	c0, s0, err := a.ask(opUsage)
	if err != nil {
		return err
	}
	load, err := a.client.ask(command{Op: opLoad, For: d, Callers: callers})
	if err != nil {
		return err
	}
	c1, s1, err := a.ask(opUsage)
	if err != nil {
		return err
	}
	if load.Failed > 0 {
		return fmt.Errorf("%s: %d of %d calls failed, one with: %s", a.name, load.Failed, load.Calls, load.FirstErr)
	}
	a.total += load.Calls
	if !keep {
		return nil
	}
	calls := float64(load.Calls)
	perCall := func(list *[]float64, before, after float64) { *list = append(*list, (after-before)/calls) }
	a.rate = append(a.rate, calls/load.Took.Seconds())
	perCall(&a.clientCPU, c0.CPU.Seconds()*1e6, c1.CPU.Seconds()*1e6)
	perCall(&a.serverCPU, s0.CPU.Seconds()*1e6, s1.CPU.Seconds()*1e6)
	perCall(&a.clientAllocs, float64(c0.Mallocs), float64(c1.Mallocs))
	perCall(&a.serverAllocs, float64(s0.Mallocs), float64(s1.Mallocs))
	a.p50 = append(a.p50, load.P50.Seconds()*1e6)
	a.p99 = append(a.p99, load.P99.Seconds()*1e6)
	return nil
}

// verify fails unless the chain was there and saw every call, on both sides.
func (a *arm) verify() error {
	checks, err := a.client.ask(command{Op: opCheck})
	if err != nil {
		return err
	}
	a.total += checks.Calls
	client, servers, err := a.ask(opCount)
	if err != nil {
		return err
	}
	if client.Counted != a.total || servers.Counted != a.total {
		return fmt.Errorf("%s: %d calls were made, but the metrics of the client counted %d and those of the servers %d",
			a.name, a.total, client.Counted, servers.Counted)
	}
	return nil
}

// compare prints the table and returns the ratios. Each is the median over the rounds of a ratio within the round.
func (s settings) compare(bare, again, ours *arm) string {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "unary call, 100 bytes, %d callers, %d servers, %d slices of %v per arm; medians\n", s.callers, s.servers, s.slices, s.slice)
	fmt.Fprintln(w, "arm\tcalls/s\tp50 µs\tp99 µs\tCPU µs/call client\tserver\tallocs/call client\tserver")
	for _, a := range []*arm{bare, again, ours} {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\n", a.name, stats.Median(a.rate), stats.Median(a.p50), stats.Median(a.p99),
			stats.Median(a.clientCPU), stats.Median(a.serverCPU), stats.Median(a.clientAllocs), stats.Median(a.serverAllocs))
	}
	_ = w.Flush()
	// Both bare arms together are the base of ours: twice the samples, half the noise.
	var rate, cpu, aaRate, aaCPU []float64
	for i := range bare.rate {
		b, o := bare.clientCPU[i]+bare.serverCPU[i], ours.clientCPU[i]+ours.serverCPU[i]
		aa := again.clientCPU[i] + again.serverCPU[i]
		rate = append(rate, ours.rate[i]/((bare.rate[i]+again.rate[i])/2))
		cpu = append(cpu, o/((b+aa)/2))
		aaRate = append(aaRate, again.rate[i]/bare.rate[i])
		aaCPU = append(aaCPU, aa/b)
	}
	for _, r := range []struct {
		name string
		list []float64
	}{{"throughput, newsvc to bare", rate}, {"throughput, bare to bare", aaRate}, {"CPU per call, newsvc to bare", cpu}, {"CPU per call, bare to bare", aaCPU}} {
		fmt.Fprintf(s.out, "%-30s %.3f (%.2f to %.2f)\n", r.name, stats.Median(r.list), slices.Min(r.list), slices.Max(r.list))
	}
	fmt.Fprintf(s.out, "chain: metrics counted all %d calls on both sides, an over-long payload was refused, a panic recovered\n", ours.total)
	return fmt.Sprintf(" throughput_ratio=%.2f cpu_ratio=%.2f aa_cpu_ratio=%.2f allocs_client=%.0f allocs_server=%.0f",
		stats.Median(rate), stats.Median(cpu), stats.Median(aaCPU), stats.Median(ours.clientAllocs), stats.Median(ours.serverAllocs))
}
