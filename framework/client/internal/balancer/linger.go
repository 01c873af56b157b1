package balancer

import (
	"time"

	"google.golang.org/grpc/balancer"
)

// linger is how long the connection to an instance that is no longer picked is kept. A call takes some microseconds from
// its pick to its stream; on a machine that is busy they may be many milliseconds.
const linger = time.Second

// lingering is a connection that outlives its use for a moment. A call that has picked it and has no stream yet would
// otherwise find it closing, and gRPC (1.85, http2Client.NewStream) lets it wait then until the connection has ended: for
// as long as another call or an open stream keeps it, or until its own deadline.
type lingering struct {
	balancer.SubConn
	gate *gate
	left bool // the leaf has given it up; guarded by the gate's lock
}

// Shutdown implements [balancer.SubConn]. A connection that ends as a whole does not wait for it.
func (l *lingering) Shutdown() {
	l.gate.giveUp(l)
	time.AfterFunc(linger, l.SubConn.Shutdown)
}

// inner is a leaf's picker for gRPC, which knows its own connections only, and whose it is.
type inner struct {
	balancer.Picker
	instance *Instance
}

// Pick implements [balancer.Picker].
func (p inner) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	r, err := p.Picker.Pick(info)
	if l, ok := r.SubConn.(*lingering); ok {
		r.SubConn = l.SubConn
	}
	return r, err
}
