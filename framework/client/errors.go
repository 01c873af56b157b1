package client

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// explain makes the error of a unary call say which limit ended it, or why there was nobody to answer; refusal is the
// error of the attempt before the last, if there was one. Other errors
// are passed on as the callee sent them, without the NOT_PROCESSED mark.
func (c *Conn) explain(ch *channel, bound limit, repeated int, refusal, err error) error {
	// A callee that answers with this code before our limit is over has its own reasons, and its own text.
	if status.Code(err) == codes.DeadlineExceeded && !bound.until.IsZero() && time.Until(bound.until) <= 0 {
		earlier := ""
		if refusal != nil {
			earlier = fmt.Sprintf("; %d attempts before were refused, the last with: %s", repeated, status.Convert(refusal).Message())
		}
		return status.Errorf(codes.DeadlineExceeded, "no answer from %q within %s; gRPC says: %s%s%s",
			c.callee, c.limitText(bound), status.Convert(err).Message(), c.discoveryText(ch, err), earlier)
	}
	return c.clean(ch, repeated, err)
}

// limitText names the limit that fired, where it was set and what to do.
func (c *Conn) limitText(bound limit) string {
	switch {
	case bound.ours:
		return fmt.Sprintf("%v (%s; raise it there or make the call shorter)", bound.left, c.origin("timeout"))
	case bound.left <= 0:
		return "the caller's own deadline, which was over before the call began (give the caller more time)"
	}
	return fmt.Sprintf("%v (the caller's own deadline, shorter than %s; give the caller more time or make the call shorter)",
		bound.left.Round(time.Millisecond), c.origin("timeout"))
}

// origin says where a key of the callee's policy was set.
func (c *Conn) origin(key string) string {
	if f := c.factory.p.Origin; f != nil {
		if s := f(c.callee, key); s != "" {
			return s
		}
	}
	return "clients." + c.callee + "." + key
}

// discoveryText tells what the resolver knows when that may be why a call found nobody; nothing when its own error
// says so already.
func (c *Conn) discoveryText(ch *channel, failed error) string {
	known, _ := ch.hub.watch()
	if err := ch.hub.err(); err != nil {
		if strings.Contains(status.Convert(failed).Message(), err.Error()) {
			return ""
		}
		return fmt.Sprintf("; resolving %q: %v", ch.target, err)
	}
	if known == 0 {
		return fmt.Sprintf("; resolving %q: no instance of %q is known", ch.target, c.callee)
	}
	return ""
}

// clean takes the NOT_PROCESSED mark off an error and adds to UNAVAILABLE what the resolver knows. The mark speaks of
// the callee's handler; a handler of ours that passed it on would claim never to have run itself.
func (c *Conn) clean(ch *channel, repeated int, err error) error {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unavailable {
		return err
	}
	if notprocessed.Is(err) {
		p := st.Proto()
		withoutMark(p)
		p.Message = fmt.Sprintf("calling %q: refused without being processed: %s", c.callee, p.GetMessage())
		if repeated > 0 {
			p.Message += fmt.Sprintf(" (and so were %d more attempts)", repeated)
		}
		return status.FromProto(p).Err()
	}
	if reason := c.discoveryText(ch, err); reason != "" {
		p := st.Proto()
		p.Message = fmt.Sprintf("calling %q: %s%s", c.callee, p.GetMessage(), reason)
		return status.FromProto(p).Err()
	}
	return err
}

// withoutMark removes the NOT_PROCESSED mark from the details, and nothing else.
func withoutMark(p *spb.Status) {
	kept := p.GetDetails()[:0]
	for _, d := range p.GetDetails() {
		var info errdetails.ErrorInfo
		if d.MessageIs(&info) && d.UnmarshalTo(&info) == nil && info.GetDomain() == notprocessed.Domain && info.GetReason() == notprocessed.Reason {
			continue
		}
		kept = append(kept, d)
	}
	p.Details = kept
}
