package client

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tooLarge has gRPC's refusal of a large message say whose limit it was and where it is set. gRPC uses the same words on both
// sides, and a server sends them before any code of ours runs there.
func (c *Conn) tooLarge(st *status.Status, err error) error {
	text := st.Message()
	_, sizes, ok := strings.Cut(text, "larger than max (")
	_, limit, two := strings.Cut(strings.TrimSuffix(sizes, ")"), " vs. ")
	if !ok || !two || !strings.HasPrefix(text, "grpc: ") {
		return err
	}
	why := fmt.Sprintf("the request is larger than %q takes: raise server.limits.max_recv_bytes there, or send less at once", c.callee)
	if limit == strconv.Itoa(c.live.Load().maxRecv) { // both sides have the same
		why = fmt.Sprintf("the request or the answer is larger than one side takes: raise server.limits.max_recv_bytes of %q for the one, %s for the other, or send less at once",
			c.callee, c.origin("max_recv_bytes"))
	}
	return status.Errorf(codes.ResourceExhausted, "calling %q: %s; gRPC says: %s", c.callee, why, text)
}
