package fakeetcd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	batchRevisions = 1000                   // a watcher that catches up is told this many at a time
	catchUpEvery   = 100 * time.Millisecond // between two batches
	fragmentEvents = 100                    // of one response to a client that takes fragments; etcd counts bytes
	noWatch        = -1                     // the watch id of answers that concern a whole stream
	progressEvery  = 10 * time.Minute
)

// watcher is one watch. It is level when it has been told everything; the store's mu guards it.
type watcher struct {
	id       int64
	from     []byte
	end      []byte
	start    int64 // what the client asked for
	next     int64 // the first revision it has not been told of
	level    bool
	fragment bool
	notify   bool
	out      *outbox
}

// tell hands on the events of one write, unless the watcher is behind and will read them from the history, or is ahead.
func (w *watcher) tell(s *Server, events []*mvccpb.Event) {
	if !w.level {
		return
	}
	revision := events[0].Kv.ModRevision
	if mine := w.mine(s, events); len(mine) > 0 {
		w.send(s.header(revision), mine)
		w.next = revision + 1
	}
}

// mine returns what of the events concerns the watcher and is not lost on the way.
func (w *watcher) mine(s *Server, events []*mvccpb.Event) (mine []*mvccpb.Event) {
	for _, ev := range events {
		if ev.Kv.ModRevision >= w.next && covers(w.from, w.end, string(ev.Kv.Key)) && (s.faults.drop == nil || !s.faults.drop(ev)) {
			mine = append(mine, ev)
		}
	}
	return mine
}

func (w *watcher) send(h *pb.ResponseHeader, events []*mvccpb.Event) {
	for w.fragment && len(events) > fragmentEvents {
		w.out.put(&pb.WatchResponse{Header: h, WatchId: w.id, Events: events[:fragmentEvents], Fragment: true})
		events = events[fragmentEvents:]
	}
	w.out.put(&pb.WatchResponse{Header: h, WatchId: w.id, Events: events})
}

// catchUp tells each watcher that is behind the next batch. The header is the store's, whatever the events'.
func (s *Server) catchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catching = nil
	for w := range s.watchers {
		if !w.level {
			s.batch(w)
		}
	}
	s.catchUpLater()
}

func (s *Server) batch(w *watcher) {
	if w.next < s.store.compacted {
		w.out.put(&pb.WatchResponse{Header: s.header(s.store.revision), WatchId: w.id, CompactRevision: s.store.compacted, Canceled: true})
		delete(s.watchers, w)
		return
	}
	var events []*mvccpb.Event
	var last int64
	more := int64(0)
	revisions := 0
	for _, ev := range w.mine(s, s.store.since(w.next)) {
		if ev.Kv.ModRevision != last {
			if revisions == batchRevisions {
				more = ev.Kv.ModRevision
				break
			}
			last = ev.Kv.ModRevision
			revisions++
		}
		events = append(events, ev)
	}
	if len(events) > 0 {
		w.send(s.header(s.store.revision), events)
	}
	if w.next, w.level = more, more == 0; w.level {
		w.next = s.store.revision + 1
	}
}

// catchUpLater sees to it that watchers that are behind are told more. The caller holds mu.
func (s *Server) catchUpLater() {
	if s.catching != nil || s.closed {
		return
	}
	for w := range s.watchers {
		if !w.level {
			s.catching = time.AfterFunc(catchUpEvery, s.catchUp)
			return
		}
	}
}

// outbox is what one stream has to send, in order.
type outbox struct {
	mu    sync.Mutex
	queue []*pb.WatchResponse
	wake  chan struct{}
}

func (o *outbox) put(r *pb.WatchResponse) {
	o.mu.Lock()
	o.queue = append(o.queue, r)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() []*pb.WatchResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue
	o.queue = nil
	return q
}

// watches is one stream of them.
type watches struct {
	s    *Server
	out  *outbox
	mine map[int64]*watcher // the server's mu guards it
	next int64
	over bool // no watch begins any more
}

// Watch implements etcd's Watch.
func (s *Server) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	ws := &watches{s: s, out: &outbox{wake: make(chan struct{}, 1)}, mine: make(map[int64]*watcher)}
	ended := make(chan error, 1)
	loop.Start(stream.Context(), func(context.Context) { ended <- ws.receive(stream) }) // ends with the stream
	defer ws.close()
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	for {
		select {
		case <-ws.out.wake:
			for _, resp := range ws.out.take() {
				if err := stream.Send(resp); err != nil {
					return err
				}
			}
		case <-progress.C:
			ws.notify()
		case err := <-ended:
			return err
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

// close forgets the stream's watches.
func (ws *watches) close() {
	ws.s.mu.Lock()
	defer ws.s.mu.Unlock()
	ws.over = true
	for _, w := range ws.mine {
		delete(ws.s.watchers, w)
	}
}

func (ws *watches) receive(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if err := ws.create(stream.Context(), r.CreateRequest); err != nil {
				return err
			}
		case *pb.WatchRequest_CancelRequest:
			ws.cancel(r.CancelRequest.WatchId)
		case *pb.WatchRequest_ProgressRequest:
			ws.progress()
		}
	}
}

// create begins a watch, or says why not: the reason of a refusal is text, as it is etcd's.
func (ws *watches) create(ctx context.Context, req *pb.WatchCreateRequest) error {
	act := ws.s.meet("Watch")
	err := act.Err
	if err == nil {
		err = ws.s.authorized(ctx)
	}
	ws.s.mu.Lock()
	defer ws.s.mu.Unlock()
	s := ws.s
	if ws.over {
		return io.EOF
	}
	if err != nil {
		ws.out.put(&pb.WatchResponse{Header: s.header(s.store.revision), WatchId: noWatch, Created: true, Canceled: true, CancelReason: rpctypes.ErrorDesc(err)})
		return nil
	}
	w := &watcher{id: ws.next, from: req.Key, end: req.RangeEnd, start: req.StartRevision, next: req.StartRevision, fragment: req.Fragment, notify: req.ProgressNotify, out: ws.out}
	ws.next++
	if w.level = req.StartRevision == 0 || req.StartRevision > s.store.revision; w.level {
		w.next = max(s.store.revision+1, req.StartRevision)
	}
	ws.mine[w.id], s.watchers[w] = w, struct{}{}
	ws.out.put(&pb.WatchResponse{Header: s.header(s.store.revision), WatchId: w.id, Created: true})
	s.catchUpLater()
	return nil
}

func (ws *watches) cancel(id int64) {
	ws.s.mu.Lock()
	defer ws.s.mu.Unlock()
	if w := ws.mine[id]; w != nil {
		delete(ws.s.watchers, w)
		delete(ws.mine, id)
		ws.out.put(&pb.WatchResponse{Header: ws.s.header(ws.s.store.revision), WatchId: id, Canceled: true})
	}
}

// progress answers for the whole stream, and not at all while one of its watches is behind, or ahead of the store.
func (ws *watches) progress() {
	ws.s.mu.Lock()
	defer ws.s.mu.Unlock()
	revision := ws.s.store.revision
	if len(ws.mine) == 0 {
		return
	}
	for _, w := range ws.mine {
		if !w.level || revision < w.start {
			return
		}
	}
	ws.out.put(&pb.WatchResponse{Header: ws.s.header(revision), WatchId: noWatch})
}

// notify is the progress that etcd reports by itself.
func (ws *watches) notify() {
	ws.s.mu.Lock()
	defer ws.s.mu.Unlock()
	for _, w := range ws.mine {
		if w.notify && w.level && ws.s.store.revision >= w.start {
			ws.out.put(&pb.WatchResponse{Header: ws.s.header(ws.s.store.revision), WatchId: w.id})
		}
	}
}
