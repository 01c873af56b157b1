package client

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/confined"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// explain makes the error of a unary call say which limit ended it, or why there was nobody to answer; refusal is the
// error of the attempt before the last, if there was one. Other errors
// are passed on as the callee sent them, without the NOT_PROCESSED mark.
func (c *Conn) explain(ch *channel, bound limit, repeated int, refusal, err error) error {
	earlier := ""
	if refusal != nil {
		earlier = fmt.Sprintf("; %d attempts before were refused, the last with: %s", repeated, clip(status.Convert(refusal).Message(), maxAside))
	}
	// A callee that answers with this code before our limit is over has its own reasons, and its own text.
	if status.Code(err) != codes.DeadlineExceeded || bound.until.IsZero() || time.Until(bound.until) > 0 {
		return c.clean(ch, repeated, err)
	}
	if neverPicked(ch, err) {
		within := fmt.Sprintf("%v (the caller's own deadline)", bound.left.Round(time.Millisecond))
		if bound.ours {
			within = fmt.Sprintf("%v (%s)", bound.left, c.origin("timeout"))
		}
		return c.nobody(codes.DeadlineExceeded, ch, err, "; nobody took the call within "+within+earlier)
	}
	return status.Errorf(codes.DeadlineExceeded, "no answer from %q within %s; gRPC says: %s%s",
		c.callee, c.limitText(bound), status.Convert(err).Message(), earlier)
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

// neverPicked reports whether gRPC's own error says that no instance was picked: nothing of the call has left this
// process then. These texts are all that gRPC tells.
func neverPicked(ch *channel, err error) bool {
	text := status.Convert(err).Message()
	if status.Code(err) != codes.Unavailable {
		return !ch.hub.heard.Load() || strings.HasPrefix(text, "latest balancer error: ") ||
			strings.HasSuffix(text, "while waiting for connections to become ready")
	}
	if ch.cc.GetState() == connectivity.Ready {
		return false // somebody can be picked, so somebody else's failure was passed on
	}
	if reason := ch.hub.err(); reason != nil && strings.Contains(text, reason.Error()) {
		return true
	}
	for _, own := range []string{
		"no children to pick from", "produced zero addresses", "name resolver error: ", "last resolver error: ",
		"last connection error: ", "connection error: desc = \"transport: ", "the instance does not serve at present: ",
	} {
		if strings.HasPrefix(text, own) {
			return true
		}
	}
	return false
}

// An error is to be one readable line: maxText bounds its text, maxWhy the reason within it, and maxAside what others said
// and is quoted.
const (
	maxText  = 350
	maxWhy   = 320
	maxAside = 100
)

// nobody is the error of a call that no instance took. Its reason names the registry, so it stays in this process: who
// passes the error on tells others no more than that nobody is there.
func (c *Conn) nobody(code codes.Code, ch *channel, err error, suffix string) error {
	known, _ := ch.hub.watch()
	if _, seen := ch.hub.observer.Ready(); known > 0 && !seen { // a balancer that tells nothing of them
		suffix = "; gRPC says: " + clip(status.Convert(err).Message(), maxAside) + suffix
	}
	begin := fmt.Sprintf("calling %q: ", c.callee)
	why := clip(c.why(ch), max(maxText-len(begin)-len(suffix), maxAside))
	return confined.New(code, fmt.Sprintf("no instance of %q takes calls at present", c.callee), begin+why+suffix)
}

// why says in one line why no instance of the callee takes calls. At a high rate of failing calls many get the same text.
func (c *Conn) why(ch *channel) string {
	last := ch.reason.Load()
	if now := time.Now(); last == nil || now.Sub(last.at) > reasonAge {
		last = &reason{text: clip(c.findOutWhy(ch), maxWhy), at: now}
		ch.reason.Store(last)
	}
	return last.text
}

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// reasonAge is how old the reason in an error may be.
const reasonAge = 100 * time.Millisecond

// reason is why nobody took calls at one moment.
type reason struct {
	text string
	at   time.Time
}

func (c *Conn) findOutWhy(ch *channel) string {
	endpoints := ch.endpoints()
	if ask := c.factory.p.Why; ask != nil && strings.HasPrefix(ch.target, schemeDiscovery+"://") {
		return ask(c.callee, endpoints)
	}
	if err := ch.hub.err(); err != nil {
		return fmt.Sprintf("resolving %q: %v", ch.target, err)
	}
	known, _ := ch.hub.watch()
	if known == 0 {
		return fmt.Sprintf("resolving %q: no instance of %q is known", ch.target, c.callee)
	}
	text := fmt.Sprintf("none of the %d instances at %q takes calls", known, ch.target)
	for _, e := range endpoints {
		if e.Error != "" {
			return fmt.Sprintf("%s; %s: %s", text, e.Addr, e.Error)
		}
	}
	return text
}

// clean takes the NOT_PROCESSED mark off an error, and says of one that found no instance why. The mark speaks of
// the callee's handler; a handler of ours that passed it on would claim never to have run itself.
func (c *Conn) clean(ch *channel, repeated int, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch st.Code() { //nolint:exhaustive // gRPC says no other by itself for want of an instance
	case codes.Canceled, codes.DeadlineExceeded:
		if neverPicked(ch, err) {
			return c.nobody(st.Code(), ch, err, "; nobody took the call before its caller gave up")
		}
		return err
	case codes.Unavailable:
	case codes.ResourceExhausted:
		return c.tooLarge(st, err)
	default:
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
	if neverPicked(ch, err) {
		return c.nobody(codes.Unavailable, ch, err, "")
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
