package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/bench/internal/process"
)

// counter counts a listener's connections.
type counter struct {
	net.Listener
	open, accepted atomic.Int64
}

func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	c.accepted.Add(1)
	return &countedConn{Conn: conn, c: c}, nil
}

type countedConn struct {
	net.Conn
	c      *counter
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.c.open.Add(-1)
	}
	return c.Conn.Close()
}

// runServer is one server that stands for all instances: it listens on every address of this machine.
func runServer(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "0.0.0.0:0")
	if err != nil {
		return err
	}
	c := &counter{Listener: l}
	gs := grpc.NewServer()
	healthpb.RegisterHealthServer(gs, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- gs.Serve(c) }()
	err = process.Serve(os.Stdin, os.Stdout, hello{Addr: l.Addr().String()}, func(command) (answer, error) {
		return answer{Open: c.open.Load(), Accepted: c.accepted.Load()}, nil
	})
	gs.Stop()
	return errors.Join(err, <-served)
}
