//go:build unix

package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// serveAlone has this test binary be a server, until its standard input ends.
func serveAlone() int {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(&wrapperspb.StringValue{}); err != nil {
			return err
		}
		if err := backoff.Sleep(stream.Context(), usual); err != nil {
			return err
		}
		return stream.SendMsg(wrapperspb.String(lis.Addr().String()))
	}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	serving := loop.Start(context.Background(), func(context.Context) { _ = s.Serve(lis) })
	fmt.Println(lis.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Stop()
	serving.Stop()
	return 0
}

// startProcess runs serveAlone in a process of its own.
func startProcess(t *testing.T) (p *os.Process, addr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), self)
	cmd.Env = append(os.Environ(), serveVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process, strings.TrimSpace(line)
}

func TestAProcessThatIsStoppedCostsTwelveCallsAtMost(t *testing.T) {
	t.Parallel()
	first, addr := startProcess(t)
	addrs := []string{addr}
	for range 2 {
		_, addr := startProcess(t)
		addrs = append(addrs, addr)
	}
	c := connect(t, newRegistry(addrs...), func(p *client.Policy) { p.Timeout = time.Second })
	l := startLoad(t, c, 8)
	eventually(t, "all take calls", func() bool { return allIn(c, 3) })
	pause(t, 600*time.Millisecond)
	before := l.failed.Load()
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d := 2500 * time.Millisecond
	if *full {
		d = 45 * time.Second
	}
	pause(t, d)
	if n := l.failed.Load() - before; n > 12 {
		t.Errorf("%d calls failed while one of 3 processes was stopped, want 12 at most", n)
	} else {
		t.Logf("%d calls failed", n)
	}
	if err := first.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	within(t, 15*time.Second, "it takes calls again", func() bool { return allIn(c, 3) })
}
