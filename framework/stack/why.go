package stack

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery/cache"
)

// maxEndpoints is how many of etcd's endpoints an error names.
const maxEndpoints = 3

// why says in one line why nobody takes calls to a callee: where it was looked for, what is known, how old that is, and
// what to do. It is asked after calls that failed, and only reads.
func (s *Stack) why(callee string, endpoints []client.EndpointState) string {
	st, _ := s.cache.Lookup(callee)
	switch u := st.Update; {
	case !u.Known() && u.Err != nil:
		return fmt.Sprintf("no instances of %q are known (prefix %q, asked for %s): %v", callee, s.p.Config.Discovery.Prefix, since(st.Began), u.Err)
	case !u.Known():
		return fmt.Sprintf("no instances of %q are known: no answer yet from %s, asked for %s; is it running and reachable?", callee, s.where(), since(st.Began))
	case len(u.Instances) == 0:
		return fmt.Sprintf("no instances of %q in %s, for %s (%s); %s", callee, s.where(), since(st.Changed), freshness(st), s.remedy(callee))
	}
	return s.whyNoneTakesCalls(callee, st, endpoints)
}

// where is what was searched.
func (s *Stack) where() string {
	prefix := s.p.Config.Discovery.Prefix
	if s.etcd == nil {
		return fmt.Sprintf("the registry under %q", prefix)
	}
	all := s.etcd.Endpoints()
	named := strings.Join(all[:min(len(all), maxEndpoints)], ", ")
	if more := len(all) - maxEndpoints; more > 0 {
		named = fmt.Sprintf("%s and %d more", named, more)
	}
	return fmt.Sprintf("etcd at %s under %q", named, prefix)
}

// remedy is what to do about a callee that nobody has registered.
func (s *Stack) remedy(callee string) string {
	near := s.near.of(callee)
	if len(near) == 0 {
		return "is it running and registered under the same prefix?"
	}
	return fmt.Sprintf("did you mean %s?", quoted(near))
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for n, name := range names {
		out[n] = fmt.Sprintf("%q", name)
	}
	return strings.Join(out, " or ")
}

// freshness says how far what is known can be trusted.
func freshness(st cache.ServiceState) string {
	if st.Update.Err == nil {
		return fmt.Sprintf("revision %d, up to date", st.Update.Revision)
	}
	return fmt.Sprintf("revision %d, as of %s ago; etcd has been failing for %s", st.Update.Revision, since(st.Update.AsOf), since(st.Failing))
}

// whyNoneTakesCalls counts in which ways the instances there are are of no use, and shows one of the errors.
func (s *Stack) whyNoneTakesCalls(callee string, st cache.ServiceState, endpoints []client.EndpointState) string {
	var counts []string
	count := func(n int, what string) {
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, what))
		}
	}
	states := map[string]int{}
	example := ""
	for _, e := range endpoints {
		states[e.Connectivity]++
		if e.Error != "" && example == "" {
			example = fmt.Sprintf("; %s: %s", e.Addr, e.Error)
		}
	}
	count(states[connectivity.TransientFailure.String()], "failing")
	count(states[connectivity.Connecting.String()]+states[connectivity.Idle.String()], "connecting")
	count(len(st.Held), "held by the guard since they vanished")
	count(st.Draining, "draining")
	text := fmt.Sprintf("none of %d instances of %q takes calls", len(st.Update.Instances), callee)
	if len(counts) > 0 {
		text += ": " + strings.Join(counts, ", ")
	}
	if example == "" || strings.Contains(example, "dial ") { // any other error speaks for itself
		example += "; are they running and reachable from here?"
	}
	return fmt.Sprintf("%s (%s, %s)%s", text, s.where(), freshness(st), example)
}

// since is the time that has passed, as people write it.
func since(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "some time"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
