package balancer

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failures remembers who has failed which call, for the attempts that gRPC makes on its own: its retries, and those of
// calls that never left. Nothing tells a policy that a pick is another attempt; but gRPC makes a context for each call,
// whose end all its attempts share, so that end is the call's name. Calls that do not fail cost one read. Those that have
// failed are forgotten some picks after their end.
type failures struct {
	calls  sync.Map     // of the end of a call, a <-chan struct{}, to *tried
	n      atomic.Int64 // calls that are remembered
	looked atomic.Int64 // picks since those that have ended were forgotten
	left   atomic.Int64 // calls that were remembered then, since they ran
	clean  sync.Mutex   // held by who forgets them
}

// failuresKept is how many calls that have ended are remembered at most, beside as many as still run.
const failuresKept = 64

// of returns who has failed a call; nil for nobody.
func (f *failures) of(ctx context.Context) *tried {
	if f.n.Load() == 0 {
		return nil
	}
	if f.looked.Add(1) > failuresKept+f.left.Load() {
		f.forget()
	}
	t, ok := f.calls.Load(ctx.Done())
	if !ok {
		return nil
	}
	return t.(*tried) //nolint:forcetypeassert // nothing else is stored
}

// note remembers that i has failed a call, when that is what info says.
func (f *failures) note(ctx context.Context, i *Instance, info balancer.DoneInfo) {
	end := ctx.Done()
	if status.Code(info.Err) != codes.Unavailable || ctx.Err() != nil || end == nil {
		return
	}
	if _, known := f.calls.LoadOrStore(end, &tried{list: []*Instance{i}}); !known {
		f.n.Add(1)
	}
}

// forget drops the calls that have ended.
func (f *failures) forget() {
	if !f.clean.TryLock() {
		return
	}
	defer f.clean.Unlock()
	f.looked.Store(0)
	f.calls.Range(func(end, _ any) bool {
		select {
		case <-end.(<-chan struct{}): //nolint:forcetypeassert // nothing else is stored
			f.calls.Delete(end)
			f.n.Add(-1)
		default:
		}
		return true
	})
	f.left.Store(f.n.Load())
}
