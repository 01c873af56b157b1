package why

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
)

// Reach is what this command finds at an instance's address.
type Reach string

// What can be found.
const (
	Answers    Reach = "answers"
	NotServing Reach = "answers, and says that it does not serve"
	Refuses    Reach = "nobody listens there: connection refused"
	Silent     Reach = "no way there: no answer to a connection"
	Frozen     Reach = "takes connections and answers nothing: its process is stopped (SIGSTOP, a debugger) or overloaded"
	Stranger   Reach = "another service answers there"
	NoDial     Reach = "can't be dialled"
)

// probe dials an instance and asks for its health.
func probe(ctx context.Context, place locate.Place, callee, addr string) (Reach, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refuses, ""
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return Silent, ""
	default:
		return NoDial, err.Error()
	}
	c, err := call.Open(ctx, place, callee, call.Options{Addr: addr})
	if err != nil {
		return NoDial, err.Error()
	}
	defer c.Close()
	res, err := healthpb.NewHealthClient(c.Conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch code := status.Code(err); {
	case err == nil && res.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING:
		return NotServing, ""
	case code == codes.DeadlineExceeded:
		for _, e := range c.Conn.Endpoints() { // a call waits until an instance serves; its connection knows why none does
			if _, who, refused := strings.Cut(e.Error, "desc = this is service "); refused {
				return Stranger, "this is service " + who
			}
		}
		return Frozen, ""
	case code == codes.Unavailable:
		return Stranger, status.Convert(err).Message()
	}
	return Answers, "" // with whatever: it is alive
}
