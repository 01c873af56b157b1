package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// relay stands between clients and etcd like proxy, but it sees calls where proxy sees bytes: it counts them, and it
// can refuse one, change what is asked, or lose an answer.
type relay struct {
	up     *grpc.ClientConn
	listen string

	mu     sync.Mutex
	count  map[string]int                                  // messages, by method
	calls  map[string]int                                  // calls, by method: of a stream there may be many messages
	before func(method string, ask []byte) ([]byte, error) // an error is the answer; etcd is not asked
	after  func(method string) error                       // an error takes the place of etcd's answer
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(asIs{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{up: up, listen: l.Addr().String(), count: make(map[string]int), calls: make(map[string]int)}
	s := grpc.NewServer(grpc.ForceServerCodec(asIs{}), grpc.UnknownServiceHandler(r.handle),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		wg.Wait()
		_ = up.Close()
	})
	return r
}

// newRelayed is a fixture whose code under test talks to an etcd of its own through a relay.
func newRelayed(t *testing.T, cfg devetcd.Config) (*fixture, *relay) {
	t.Helper()
	f := newOwnFixture(t, cfg)
	r := newRelay(t, f.server.Addr())
	f.cli = dial(t, r.listen)
	return f, r
}

// hooks sets what happens to calls from now on.
func (r *relay) hooks(before func(string, []byte) ([]byte, error), after func(string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.after = before, after
}

// asked returns how many messages of one method came in since the last call of reset.
func (r *relay) asked(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[method]
}

// opened returns how many calls of one method came in.
func (r *relay) opened(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[method]
}

func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.count)
}

func (r *relay) handle(_ any, in grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(in)
	method := path.Base(full)
	r.mu.Lock()
	r.calls[method]++
	r.mu.Unlock()
	md, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(in.Context(), md.Copy()))
	defer cancel(nil)
	out, err := r.up.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
	if err != nil {
		return err
	}
	go func() {
		if err := r.forward(method, in, out); err != nil {
			cancel(err)
		}
	}()
	for {
		var answer []byte
		if err := out.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
				return cause
			}
			return err
		}
		r.mu.Lock()
		after := r.after
		r.mu.Unlock()
		if after != nil {
			if err := after(method); err != nil {
				return err
			}
		}
		if err := in.SendMsg(&answer); err != nil {
			return err
		}
	}
}

func (r *relay) forward(method string, in grpc.ServerStream, out grpc.ClientStream) error {
	for {
		var ask []byte
		if err := in.RecvMsg(&ask); err != nil {
			return out.CloseSend() // the end, one way or the other
		}
		r.mu.Lock()
		r.count[method]++
		before := r.before
		r.mu.Unlock()
		if before != nil {
			var err error
			if ask, err = before(method, ask); err != nil {
				return err
			}
		}
		if err := out.SendMsg(&ask); err != nil {
			return nil //nolint:nilerr // the other side says why
		}
	}
}

// asIs passes messages on without looking into them.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no message of a relay", v)
	}
	return *b, nil
}

func (asIs) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no message of a relay", v)
	}
	*b = append([]byte(nil), data...)
	return nil
}
