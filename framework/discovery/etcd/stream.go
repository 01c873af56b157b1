package etcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// stream is one watch on a gRPC stream of its own. clientv3 puts all watches of one clientv3.Watcher and one set of
// metadata on one stream: a watch would then share the auth token and the fate of its siblings, and one that is given up
// before its stream was opened would leave that stream behind for good. A Watcher per watch, closed with it, has neither
// problem.
type stream struct {
	watcher clientv3.Watcher
	ctx     context.Context // of the watch; progress requests must carry its values to reach this stream
	opening *loop.Loop
	opened  chan clientv3.WatchChan // receives once: when etcd confirmed the watch, or refused it
}

// openStream begins to open a watch on key and returns at once. The caller must close it.
func openStream(ctx context.Context, cli *clientv3.Client, key string, opts ...clientv3.OpOption) *stream {
	s := &stream{
		watcher: clientv3.NewWatchFromWatchClient(watchClient{pb.NewWatchClient(cli.ActiveConnection())}, cli),
		ctx:     clientv3.WithRequireLeader(ctx),
		opened:  make(chan clientv3.WatchChan, 1),
	}
	opts = append(opts, clientv3.WithCreatedNotify())
	// Watch blocks until etcd has confirmed, which may take as long as an outage.
	s.opening = loop.Start(s.ctx, func(ctx context.Context) {
		s.opened <- s.watcher.Watch(ctx, key, opts...)
		<-ctx.Done() // the watch lives as long as its context
	})
	return s
}

// wait returns the channel of the watch once etcd has confirmed or refused it. It returns nil after timeout or with ctx.
func (s *stream) wait(ctx context.Context, timeout time.Duration) clientv3.WatchChan {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case ch := <-s.opened:
		return ch
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// probe asks etcd for a sign of life on the stream. It must be called only after wait returned a channel. The answer, if
// any, arrives on that channel; while the client has no connection the question is dropped after a moment.
func (s *stream) probe() {
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	_ = s.watcher.RequestProgress(ctx) // no answer is what the caller counts
}

const (
	// settle is how long a watch may take to end by itself before its watcher is closed.
	settle = 10 * time.Millisecond
	// closeLimit is how long a watcher is waited for.
	closeLimit = time.Second
)

// close ends the watch and its stream and waits for what belongs to them. The order matters: clientv3 waits for ever when
// a watcher is closed at the moment at which etcd refuses a watch on it, or one that it has asked for a second time by
// itself. So the watch is let go first. What hangs nevertheless is left behind, for whoever closes has a service to find.
func (s *stream) close() {
	s.opening.Cancel()
	_ = backoff.Sleep(context.WithoutCancel(s.ctx), settle)
	closing := loop.Start(context.WithoutCancel(s.ctx), func(context.Context) {
		_ = s.watcher.Close() // it reports only the end that was just asked for
	})
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case <-closing.Done():
	case <-limit.C:
	}
	s.opening.Stop()
}
