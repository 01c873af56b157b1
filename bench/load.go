package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	echov1 "github.com/newsvc/newsvc/bench/proto/echo/v1"
)

// clientRole makes load.
type clientRole struct {
	echo  echov1.EchoServiceClient
	stop  func() error
	count func() (uint64, error) // nil for bare arms
}

func startClient(ctx context.Context, r role) (handler, string, error) {
	if r.Arm == armNewsvc {
		p, conn, err := connectNewsvc(ctx, r, len(r.Addrs))
		if err != nil {
			return nil, "", err
		}
		return &clientRole{echo: echov1.NewEchoServiceClient(conn), stop: p.close, count: p.counted}, "", nil
	}
	conn, err := dialBare(r.Addrs)
	if err != nil {
		return nil, "", err
	}
	return &clientRole{echo: echov1.NewEchoServiceClient(conn), stop: conn.Close}, "", nil
}

func (c *clientRole) close() error { return c.stop() }

func (c *clientRole) handle(ctx context.Context, cmd command) (answer, error) {
	switch cmd.Op {
	case opLoad:
		return c.load(ctx, cmd.For, cmd.Callers), nil
	case opCheck:
		return answer{Calls: 3}, c.check(ctx)
	case opCount:
		n, err := c.count()
		return answer{Counted: n}, err
	}
	return usage()
}

// load calls as fast as it can and then waits for the last answers.
func (c *clientRole) load(ctx context.Context, d time.Duration, callers int) answer {
	var (
		stop  atomic.Bool
		wg    sync.WaitGroup
		loads = make([]loader, callers)
	)
	begin := time.Now()
	defer time.AfterFunc(d, func() { stop.Store(true) }).Stop()
	for i := range loads {
		wg.Go(func() { loads[i].run(ctx, c.echo, &stop) })
	}
	wg.Wait()
	a := answer{Took: time.Since(begin)}
	var all latencies
	for i := range loads {
		l := &loads[i]
		a.Calls += l.calls
		a.Failed += l.failed
		if l.err != nil && a.FirstErr == "" {
			a.FirstErr = l.err.Error()
		}
		all.add(&l.lat)
	}
	a.P50, a.P99 = all.quantile(0.5), all.quantile(0.99)
	return a
}

// loader is one caller.
type loader struct {
	calls, failed uint64
	err           error
	lat           latencies
}

func (l *loader) run(ctx context.Context, client echov1.EchoServiceClient, stop *atomic.Bool) {
	req := &echov1.EchoRequest{Text: strings.Repeat("x", 100)}
	for !stop.Load() && ctx.Err() == nil {
		begin := time.Now()
		resp, err := client.Echo(ctx, req)
		l.lat.note(time.Since(begin))
		l.calls++
		if err == nil && len(resp.GetText()) != 100 {
			err = fmt.Errorf("got %q back", resp.GetText())
		}
		if err != nil {
			l.failed++
			l.err = err
		}
	}
}

// latencies is a histogram with 16 buckets for each doubling, so that it needs no memory per call.
type latencies [64 * 16]uint32

func (h *latencies) note(d time.Duration) {
	n := uint64(max(d, 16))
	top := bits.Len64(n) - 1
	h[top*16+int(n>>(top-4)&15)]++
}

func (h *latencies) add(o *latencies) {
	for i := range h {
		h[i] += o[i]
	}
}

func (h *latencies) quantile(q float64) time.Duration {
	var total, seen uint64
	for _, n := range h {
		total += uint64(n)
	}
	for i, n := range h {
		if seen += uint64(n); n > 0 && float64(seen) >= q*float64(total) {
			top := i / 16
			return time.Duration(1)<<top + time.Duration(i%16)<<(top-4)
		}
	}
	return 0
}

// check makes three calls that only the default chain answers as it should.
func (c *clientRole) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	return errors.Join(
		c.expect(ctx, "an over-long payload", strings.Repeat("x", 201), codes.InvalidArgument),
		c.expect(ctx, "a panic", panicText, codes.Internal),
		c.expect(ctx, "a call after the panic", "x", codes.OK),
	)
}

func (c *clientRole) expect(ctx context.Context, what, text string, want codes.Code) error {
	if _, err := c.echo.Echo(ctx, &echov1.EchoRequest{Text: text}, grpc.WaitForReady(true)); status.Code(err) != want {
		return fmt.Errorf("%s was answered with %v, want %v: the chain is not there", what, err, want)
	}
	return nil
}
