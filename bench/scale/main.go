// Command scale measures what a service of thousands of instances costs those who call it, and etcd, next to etcd's own
// naming resolver in the same run.
//
// Each measurement is made in a process of its own, and the arms take turns: newsvc as it is by default, which tells gRPC
// of a subset; newsvc with the subset switched off, which does the same as the other; and etcd's naming resolver. All
// resolve against a stub that counts, and then on real connections. Numbers are medians over the rounds, with the least
// and the greatest. Nothing about speed is asserted; that everything is known that should be, is.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/newsvc/newsvc/bench/internal/process"
)

// Arms of the comparison.
const (
	armNaming = "naming"     // etcd's client/v3/naming
	armNewsvc = "newsvc"     // default subset
	armAll    = "newsvc-all" // gRPC is told of all instances, as naming does
)

// settings are the flags.
type settings struct {
	sizes    []int
	rounds   int
	changes  int
	storm    int
	real     int
	conns    int
	naming   int
	restart  int
	clients  int
	down     time.Duration
	profile  string
	out      io.Writer
	machines []string // name=value for the last line
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var err error
	if len(args) > 1 && args[0] == process.Arg {
		var r role
		if err = json.Unmarshal([]byte(args[1]), &r); err == nil {
			err = runChild(ctx, r)
		}
	} else {
		s := &settings{out: stdout}
		if ferr := s.parse(args, stderr); ferr != nil {
			return 2
		}
		err = s.all(ctx)
	}
	if err != nil {
		fmt.Fprintln(stderr, "scale:", err)
		return 1
	}
	return 0
}

func (s *settings) parse(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("scale", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Func("n", "instances of the service, several numbers separated by commas (default 1000,10000)", func(text string) error {
		s.sizes = nil
		for part := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(part)
			if err != nil || n < 200 {
				return errors.New("use numbers from 200 on")
			}
			s.sizes = append(s.sizes, n)
		}
		return nil
	})
	fs.IntVar(&s.rounds, "rounds", 5, "measurements of each kind; 0 leaves the comparison out")
	fs.IntVar(&s.changes, "changes", 100, "joins, and then leaves, one at a time")
	fs.IntVar(&s.storm, "storm", 1000, "changes within a second; 0 leaves the storm out")
	fs.IntVar(&s.real, "registrars", 20, "how many of newsvc's instances are real registrations, each with a lease of its own")
	fs.IntVar(&s.naming, "naming-connections", 1000, "the largest size at which naming, which knows no subset, gets real connections")
	fs.IntVar(&s.conns, "conns", 500, "connections of one process to one callee; 0 leaves that out")
	fs.IntVar(&s.restart, "restart", 0, "registrations that live through a restart of etcd; 0 leaves that out")
	fs.IntVar(&s.clients, "clients", 20, "clients that make those registrations")
	fs.DurationVar(&s.down, "down", 5*time.Second, "how long etcd is away")
	fs.StringVar(&s.profile, "profile", "", "directory for CPU profiles of the clients; they cost a little speed")
	err := fs.Parse(args)
	if s.sizes == nil {
		s.sizes = []int{1000, 10000}
	}
	return err
}

// all runs everything against one etcd.
func (s *settings) all(ctx context.Context) (err error) {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "newsvc-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	reg, err := startRegistry(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.close()) }()
	var h hello
	server, err := process.Self(ctx, &h, role{Kind: kindServer})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.End()) }()
	port := h.Addr[strings.LastIndex(h.Addr, ":")+1:]
	if s.rounds > 0 {
		for _, n := range s.sizes {
			w := &world{reg: reg, size: n, service: fmt.Sprintf("scale-%d", n), port: port}
			if err := s.size(ctx, w, server); err != nil {
				return fmt.Errorf("%d instances: %w", n, err)
			}
		}
	}
	if s.conns > 0 {
		if err := s.watches(ctx, &world{reg: reg, size: 1, service: "watched", port: port}, server); err != nil {
			return fmt.Errorf("%d connections: %w", s.conns, err)
		}
	}
	if s.restart > 0 {
		if err := s.restarted(ctx, &world{reg: reg, service: "restarted", port: port}); err != nil {
			return fmt.Errorf("%d registrations: %w", s.restart, err)
		}
	}
	fmt.Fprintf(s.out, "\ntook %v\nBENCH scale %s\n", time.Since(begin).Round(time.Second), strings.Join(s.machines, " "))
	return nil
}

// machine adds a number to the last line.
func (s *settings) machine(name string, value float64) {
	s.machines = append(s.machines, name+"="+strconv.FormatFloat(value, 'g', 3, 64))
}
