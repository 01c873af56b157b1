package call

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/discovery"
)

// Exit is the exit code of newsvc for a call that ended with a code of gRPC.
func Exit(code codes.Code) int {
	if code == codes.OK {
		return problem.OK
	}
	return 64 + int(code)
}

// One returns the instance that id means: the beginning of its name, or its address. The error is a [*problem.Error].
func One(callee, id string, instances []*discovery.Instance) (*discovery.Instance, error) {
	var found []*discovery.Instance
	var all []string
	length := registryview.ShortLength(registryview.Rows(instances))
	for _, i := range instances {
		all = append(all, Label(i, length))
		if i.Addr == id || i.Incarnation != "" && strings.HasPrefix(strings.ToLower(i.Incarnation), strings.ToLower(id)) {
			found = append(found, i)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	p := &problem.Error{Exit: problem.NotFound, What: fmt.Sprintf("no instance %s of %s", id, callee), At: "there are: " + strings.Join(all, ", "), Fix: "--instance " + short(instances[0], length)}
	if len(found) > 1 {
		p.Exit, p.What = problem.Usage, fmt.Sprintf("%d instances of %s begin with %s", len(found), callee, id)
		p.Fix = "--instance " + short(found[0], length)
	}
	return nil, p
}

func short(i *discovery.Instance, length int) string {
	if i.Incarnation == "" {
		return i.Addr
	}
	return registryview.Short(i.Incarnation, length)
}

// Label names an instance for people.
func Label(i *discovery.Instance, length int) string {
	return registryview.Short(i.Incarnation, length) + " " + i.Addr
}

// Learn finds out which methods the callee has: from files when a directory is given, else from one of its instances, else
// from the project around dir. The error is a [*problem.Error].
func (c *Caller) Learn(ctx context.Context, protoDir, dir string) (*Methods, error) {
	if protoDir != "" {
		return FromFiles(ctx, c.Callee, protoDir)
	}
	m, err := Reflect(ctx, c.Conn)
	if err == nil {
		return m, nil
	}
	code := status.Code(err)
	refused := errors.Is(err, ErrNoReflection) || code == codes.Unauthenticated || code == codes.PermissionDenied
	if near := Nearby(ctx, c.Callee, dir); refused && near != nil {
		return near, nil
	}
	switch {
	case errors.Is(err, ErrNoReflection):
		return nil, &problem.Error{
			Exit: problem.Environment, What: c.Callee + " does not offer reflection and no local proto matches",
			Fix: "--proto DIR, or server.reflection: true in its config.yaml", Err: err,
		}
	case refused:
		return nil, &problem.Error{
			Exit: problem.Environment, What: fmt.Sprintf("%s does not tell its methods to everybody, and no local proto matches", c.Callee),
			At: fmt.Sprintf("reflection: %s: %s", code, status.Convert(err).Message()), Fix: "--proto DIR, or say who calls: -H 'authorization: Bearer TOKEN'", Err: err,
		}
	}
	if p := c.Unreachable(err); p != nil {
		return nil, p
	}
	return nil, &problem.Error{
		Exit: Exit(code), What: fmt.Sprintf("%s does not tell its methods: %s: %s", c.Callee, code, status.Convert(err).Message()),
		Fix: "newsvc why " + c.Callee, Err: err,
	}
}

// Unreachable is the error of a call that failed because no instance can be reached; nil when one can.
func (c *Caller) Unreachable(err error) error {
	code := status.Code(err)
	if code != codes.Unavailable && code != codes.DeadlineExceeded {
		return nil
	}
	endpoints := c.Conn.Endpoints()
	var texts []string
	for _, e := range endpoints {
		if e.Connectivity == connectivity.Ready.String() {
			return nil
		}
		text := cmp.Or(silence(e.Error), lastPart(e.Error), strings.ToLower(e.Connectivity))
		texts = append(texts, e.Addr+" "+text)
	}
	if len(endpoints) == 0 {
		return nil
	}
	noun := "instances and none is"
	if len(endpoints) == 1 {
		noun = "instance and it is not"
	}
	return &problem.Error{
		Exit: Exit(codes.Unavailable), What: fmt.Sprintf("%s has %d %s reachable", c.Callee, len(endpoints), noun),
		At: strings.Join(texts, "; "), Fix: "newsvc why " + c.Callee, Err: err,
	}
}

// silence is what gRPC means when it has given up waiting for the first word of a server; empty for all else.
func silence(text string) string {
	if !strings.Contains(text, "error reading server preface") {
		return ""
	}
	for _, ours := range []string{"use of closed network connection", "i/o timeout", "context deadline exceeded"} {
		if strings.Contains(text, ours) {
			return "takes connections and answers nothing"
		}
	}
	return ""
}

// lastPart is what the system said, without the layers that it came through.
func lastPart(text string) string {
	text = strings.TrimSuffix(strings.TrimSpace(text), `"`)
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}
