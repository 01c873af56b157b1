// Command bench compares newsvc's default chain with bare grpc-go, and its propagation with etcd's own naming resolver.
//
// Each arm has processes of its own: three servers and one client with 64 callers. Short slices of load are interleaved,
// because the speed of a shared machine changes by the minute: what counts is the ratio within a round. The arm "again"
// is bare grpc-go a second time; its ratio to the first shows what difference is noise.
//
// It asserts that the chain was really there (metrics counted every call, an over-long payload is refused, a panic is
// recovered) and exits with 1 when it was not. Speed is reported, never asserted. The last line is for machines.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/newsvc/newsvc/bench/internal/process"
)

// settings are the flags.
type settings struct {
	slices   int
	slice    time.Duration
	callers  int
	servers  int
	samples  int
	pause    time.Duration
	profile  string
	noHealth bool
	out      io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 1 && args[0] == process.Arg {
		return runChild(ctx, args[1], stdout, stderr)
	}
	s := settings{out: stdout}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&s.slices, "slices", 15, "slices of load per arm; 0 leaves the comparison out")
	fs.DurationVar(&s.slice, "slice", 2*time.Second, "length of a slice")
	fs.IntVar(&s.callers, "callers", 64, "concurrent callers")
	fs.IntVar(&s.servers, "servers", 3, "server processes per arm")
	fs.IntVar(&s.samples, "samples", 100, "joins and leaves per arm; 0 leaves propagation out, 500 is what the design asks for")
	fs.DurationVar(&s.pause, "pause", 100*time.Millisecond, "quiet time before a leave, varied by half; before a join up to half of it")
	fs.BoolVar(&s.noHealth, "no-health-check", false, "let newsvc's client not follow the health of instances, as bare gRPC does not")
	fs.StringVar(&s.profile, "profile", "", "directory for profiles of all processes; they cost a little speed")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if err := s.all(ctx); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// all runs everything against one etcd.
func (s settings) all(ctx context.Context) (err error) {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "newsvc-bench-")
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, os.RemoveAll(dir)) }()
	etcd, err := spawnEtcd(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, etcd.End()) }()
	var machine string
	if s.slices > 0 {
		if machine, err = s.throughput(ctx, etcd.hello.Addr); err != nil {
			return err
		}
	}
	if s.samples > 0 {
		if err := s.propagation(ctx, etcd.hello.Addr); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "\ntook %v\nBENCH%s\n", time.Since(begin).Round(time.Second), machine)
	return nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
