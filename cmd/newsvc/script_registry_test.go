package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

// world is the etcd of a script, and what runs there.
type world struct {
	etcd  *devetcd.Server
	stops map[string]func()
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world {
	w, _ := ts.Value(worldKey{}).(*world)
	if w == nil || w.etcd == nil {
		ts.Fatalf("registry comes first")
	}
	return w
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// registry starts an etcd for the script; it listens at $ETCD.
func registry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: registry")
	}
	ctx, cancel := within()
	defer cancel()
	etcd, err := devetcd.Start(ctx, devetcd.Config{Fast: true})
	ts.Check(err)
	ts.Defer(func() { _ = etcd.Close() })
	w, _ := ts.Value(worldKey{}).(*world)
	w.etcd, w.stops = etcd, map[string]func(){}
	ts.Setenv("ETCD", etcd.Addr())
}

// serve starts a service with these settings, JSON of [calltest.Service]. It listens at $ADDR and is called $ID.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: serve NAME [JSON]")
	}
	w := worldOf(ts)
	var o calltest.Service
	if len(args) == 2 {
		ts.Check(json.Unmarshal([]byte(args[1]), &o))
	}
	o.Name, o.Etcd = args[0], w.etcd.Endpoints()
	ctx, cancel := within()
	defer cancel()
	s, err := calltest.Start(ctx, o)
	ts.Check(err)
	stop := stopOnce(ts, s)
	ts.Defer(stop)
	w.stops[o.Name] = stop
	addr, _, admin := s.Addresses()
	ts.Setenv("ADDR", addr)
	ts.Setenv("ADMIN", admin)
	ts.Setenv("ID", strings.ToLower(s.Incarnation()[:4]))
}

// foreign starts and announces what is no service of newsvc: a plain gRPC server with reflection and without health. It
// listens at $FOREIGN.
func foreign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: foreign NAME")
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, testpb.UnimplementedTestServiceServer{})
	reflection.Register(s)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	ts.Defer(func() { s.Stop(); ts.Check(<-ended) })
	ts.Setenv("FOREIGN", l.Addr().String())
	put(ts, false, []string{discovery.DefaultPrefix + "/" + args[0] + "/" + l.Addr().String(), l.Addr().String()})
}

func stopOnce(ts *testscript.TestScript, s *stack.Stack) func() {
	done := false
	return func() {
		if !done {
			done = true
			ts.Check(calltest.Stop(s))
		}
	}
}

// put writes a key.
func put(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: put KEY VALUE")
	}
	ctx, cancel := within()
	defer cancel()
	_, err := worldOf(ts).etcd.Client().Put(ctx, args[0], args[1])
	ts.Check(err)
}

// del deletes a key.
func del(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: del KEY")
	}
	ctx, cancel := within()
	defer cancel()
	_, err := worldOf(ts).etcd.Client().Delete(ctx, args[0])
	ts.Check(err)
}

// reads runs a command that has to end with a code and leave etcd as it is.
func reads(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: reads CODE CMD ARGS...")
	}
	before := stateOf(ts)
	if args[0] == "0" {
		ts.Check(ts.Exec(args[1], args[2:]...))
	} else {
		fails(ts, false, args)
	}
	if after := stateOf(ts); after != before {
		ts.Fatalf("%s has written to etcd: its revision and the number of leases were %v and are %v", strings.Join(args[1:], " "), before, after)
	}
}

func stateOf(ts *testscript.TestScript) [2]int64 {
	ctx, cancel := within()
	defer cancel()
	cli := worldOf(ts).etcd.Client()
	got, err := cli.Get(ctx, "x")
	ts.Check(err)
	leases, err := cli.Leases(ctx)
	ts.Check(err)
	return [2]int64{got.Header.Revision, int64(len(leases.Leases))}
}

// leaves watches a service with newsvc ls -w while it is stopped, and puts the lines into FILE.
func leaves(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: leaves NAME FILE")
	}
	ctx, cancel := within()
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "newsvc"), "ls", "-w", args[0], "--etcd", ts.Getenv("ETCD"))
	cmd.Dir = ts.Getenv("WORK")
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	var lines []string
	in := bufio.NewScanner(out)
	for in.Scan() {
		lines = append(lines, in.Text())
		switch {
		case strings.Contains(in.Text(), "  = "+args[0]):
			worldOf(ts).stops[args[0]]()
		case strings.Contains(in.Text(), " gone "):
			ts.Check(cmd.Process.Signal(os.Interrupt))
		}
	}
	ts.Check(in.Err())
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		ts.Fatalf("newsvc ls -w ended with %v, want exit code 130", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}
