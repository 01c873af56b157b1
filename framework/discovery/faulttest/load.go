package faulttest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
	probev1 "github.com/newsvc/newsvc/proto/probe/v1"
)

const (
	// mostInFlight is the least bound of the calls under way; more are allowed when the rate and the deadline need it.
	mostInFlight = 500
	// stall is how far calls may be behind before the process must have stood still; those it missed are not made.
	stall = time.Second
	// dialAgain is the wait between attempts to get a connection.
	dialAgain = time.Second
	// streamAgain bounds the wait before a stream that could not be opened is tried again.
	streamAgain = 500 * time.Millisecond
	// overtime is how long calls may take beyond their deadlines before nobody waits for them any more.
	overtime = 5 * time.Second
)

// load calls a service at an even rate, whatever becomes of the calls: each is due at its own time, its deadline counts
// from there, and no call waits for another one.
type load struct {
	opt      ClientOptions
	rec      *recorder
	most     int64
	inFlight atomic.Int64
	calls    sync.WaitGroup
	loops    loop.Group // dial, pace, streams and stalls
	stalls   stalls

	mu    sync.Mutex
	conn  Conn          // nil until there is one
	ready chan struct{} // closed then
}

func newLoad(opt ClientOptions) *load {
	most := int64(2 * float64(opt.Rate) * opt.Deadline.Seconds())
	return &load{opt: opt, rec: newRecorder(opt.Service, time.Now()), most: max(most, mostInFlight), ready: make(chan struct{})}
}

// start begins to dial and to call.
func (l *load) start(dial func(context.Context) (Conn, error)) {
	life := context.Background() // ended by stop
	l.loops.Start(life, func(ctx context.Context) { l.dial(ctx, dial) })
	l.loops.Start(life, l.stalls.run)
	if l.opt.Rate > 0 {
		l.loops.Start(life, l.pace)
	}
	for range l.opt.Streams {
		l.loops.Start(life, l.follow)
	}
}

// dial gets the connection, however long that takes.
func (l *load) dial(ctx context.Context, dial func(context.Context) (Conn, error)) {
	for {
		conn, err := dial(ctx)
		l.rec.dial(err, time.Now())
		if err == nil {
			l.mu.Lock()
			l.conn = conn
			l.mu.Unlock()
			close(l.ready)
			return
		}
		if backoff.Sleep(ctx, dialAgain) != nil {
			return
		}
	}
}

// client waits for the connection.
func (l *load) client(ctx context.Context) (probev1.ProbeServiceClient, error) {
	select {
	case <-l.ready:
		return probev1.NewProbeServiceClient(l.conn), nil
	case <-ctx.Done():
		return nil, errors.New("dial has not returned a connection")
	}
}

// pace makes the calls when they are due: one in each interval, at a time drawn at random.
func (l *load) pace(ctx context.Context) {
	interval := time.Second / time.Duration(l.opt.Rate)
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := int64(0); ; n++ {
		due := began.Add(time.Duration(n)*interval + rand.N(interval))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		late := time.Since(due)
		if late > stall {
			missed := int64(late / interval)
			l.rec.skipped(missed)
			n += missed
			continue
		}
		l.rec.behind(late)
		l.begin(due)
	}
}

// begin makes one call.
func (l *load) begin(due time.Time) {
	x := call{kind: KindRead, due: due, deadline: due.Add(l.opt.Deadline)}
	if rand.Float64() < l.opt.Writes {
		x.kind = KindWrite
	}
	if l.inFlight.Load() >= l.most {
		x.code, x.err = CodeNotSent, errors.New("too many calls are under way")
		l.rec.ended(x, time.Now())
		return
	}
	l.inFlight.Add(1)
	l.calls.Add(1)
	loop.Start(context.Background(), func(ctx context.Context) {
		defer l.calls.Done()
		defer l.inFlight.Add(-1)
		l.call(ctx, x)
	})
}

func (l *load) call(ctx context.Context, x call) {
	ctx, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	c, err := l.client(ctx)
	if err != nil {
		x.code, x.err = CodeNoConnection, err
		l.rec.ended(x, time.Now())
		return
	}
	ctx = metadata.AppendToOutgoingContext(ctx, wantedKey, l.opt.Service)
	var p peer.Peer
	wait := l.opt.Work.Milliseconds()
	if x.kind == KindWrite {
		var res *probev1.WriteResponse
		res, x.err = c.Write(ctx, &probev1.WriteRequest{WaitMs: wait}, grpc.Peer(&p))
		x.by = res.GetAnswerer()
	} else {
		var res *probev1.ReadResponse
		res, x.err = c.Read(ctx, &probev1.ReadRequest{WaitMs: wait}, grpc.Peer(&p))
		x.by = res.GetAnswerer()
	}
	now := time.Now()
	if p.Addr != nil {
		x.peer = p.Addr.String()
	}
	l.rec.ended(x, now)
}

// follow keeps one stream open.
func (l *load) follow(ctx context.Context) {
	c, err := l.client(ctx)
	if err != nil {
		return
	}
	ctx = metadata.AppendToOutgoingContext(ctx, wantedKey, l.opt.Service)
	again := backoff.New(streamAgain/10, streamAgain)
	for ctx.Err() == nil {
		if l.stream(ctx, c) {
			again.Reset()
			continue
		}
		if again.Wait(ctx) != nil {
			return
		}
	}
}

// stream opens a stream and reads it to its end. It reports whether it was open.
func (l *load) stream(ctx context.Context, c probev1.ProbeServiceClient) (opened bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := call{kind: KindStream, due: time.Now()}
	var p peer.Peer
	s, err := c.Follow(ctx, &probev1.FollowRequest{IntervalMs: l.opt.StreamInterval.Milliseconds()}, grpc.Peer(&p))
	for err == nil {
		var res *probev1.FollowResponse
		if res, err = s.Recv(); err == nil {
			l.rec.message(res.GetAnswerer(), !opened, time.Now())
			opened = true
			x.peer = res.GetAnswerer().GetAddr()
		}
	}
	if ctx.Err() != nil {
		l.rec.streamLeft(opened)
		return opened
	}
	x.err = err
	if x.peer == "" && p.Addr != nil {
		x.peer = p.Addr.String()
	}
	drained := s != nil && len(s.Trailer().Get(drainKey)) > 0
	l.rec.streamEnded(x, opened, drained, time.Now())
	return opened
}

// stop ends the calls, waits for those under way, leaves the streams and closes the connection. It returns how long
// the last of these took.
func (l *load) stop() (time.Duration, error) {
	ended := loop.Start(context.Background(), func(context.Context) { l.loops.Stop() })
	wait, cancel := context.WithTimeout(context.Background(), l.opt.Deadline+overtime)
	defer cancel()
	if ended.Join(wait) != nil {
		return 0, errors.New("dial does not return although its context ended")
	}
	idle := loop.Start(context.Background(), func(context.Context) { l.calls.Wait() })
	if idle.Join(wait) != nil {
		return 0, errors.New("calls do not return although their deadlines passed")
	}
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn == nil {
		return 0, nil
	}
	began := time.Now()
	err := conn.Close()
	return time.Since(began), err
}
