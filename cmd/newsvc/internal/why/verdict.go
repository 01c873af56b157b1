package why

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
)

// nobody is the error when the callers that were asked for are not there, or do not call the callee.
func (r *Report) nobody(q Query, calls []string) error {
	p := &problem.Error{Exit: problem.NotFound, At: q.Place.String(), Err: errNoCaller}
	slices.Sort(calls)
	calls = slices.Compact(calls)
	switch who := q.From + q.Admin; {
	case len(calls) > 0:
		p.What = fmt.Sprintf("%s does not call %s; it calls %s", who, q.Callee, strings.Join(calls, ", "))
		p.Fix = "newsvc why " + append(registryview.Near(q.Callee, calls), calls[0])[0]
	case len(r.Silent) > 0:
		p.What, p.Exit = "no caller answers", problem.Environment
		p.At = strings.Join(r.Silent, "\n       ")
		p.Fix = "newsvc why " + q.Callee + "      shows the view of a new caller"
	case r.Asked > 0:
		p.What = fmt.Sprintf("%s calls nobody", who)
		p.Fix = "newsvc why " + q.Callee
	case q.From != "":
		p.What = fmt.Sprintf("no running instance of %s is known that has an admin server", q.From)
		p.Fix = "--admin HOST:PORT, the admin address in its boot report"
	}
	return p
}

// Err is the verdict as an error with its exit code; nil when every caller has an instance to call.
func (r *Report) Err() error {
	if r.unknown() {
		return r.unknownError()
	}
	for _, v := range r.Views {
		if v.Usable == 0 {
			return r.unusable(v)
		}
	}
	return nil
}

// unknown reports whether nobody has heard of the callee.
func (r *Report) unknown() bool {
	return r.Registered <= 0 && r.Etcd == "" && !slices.ContainsFunc(r.Views, func(v View) bool { return len(v.Instances) > 0 })
}

func (r *Report) unknownError() error {
	p := &problem.Error{Exit: problem.NotFound, What: "no instance of " + r.Callee + " is registered", At: r.Place}
	switch {
	case r.HTTP != "":
		p.What = r.Callee + " serves HTTP only, so it is not registered and takes no calls by name"
		p.At, p.Fix = "newsvc dev runs it: "+r.HTTP, "curl "+r.HTTP
	case len(r.Elsewhere) > 0:
		s := r.Elsewhere[0]
		p.What = fmt.Sprintf("wrong prefix: %s is registered below %s, and looked for below %s", r.Callee, s.Prefix, r.prefixes())
		p.Fix = fmt.Sprintf("discovery.prefix: %s in the config.yaml of the caller, or that of %s in its own", s.Prefix, r.Callee)
	case len(r.Names) > 0:
		p.What += "; did you mean " + strings.Join(r.Names, " or ") + "?"
		p.Fix = fmt.Sprintf("newsvc why %s      in main.go: app.Client(%q, ...)", r.Names[0], r.Names[0])
	default:
		p.Fix = "start it; newsvc ls shows what is registered"
	}
	return p
}

func (r *Report) prefixes() string {
	var out []string
	for _, v := range r.Views {
		if !slices.Contains(out, v.Prefix) {
			out = append(out, v.Prefix)
		}
	}
	return strings.Join(out, ", ")
}

// unusable is the error of a caller that can call no instance.
func (r *Report) unusable(v View) error {
	p := &problem.Error{Exit: problem.Conflict, What: fmt.Sprintf("none of %s of %s is usable for %s", count(len(v.Instances), "instance"), r.Callee, v.name(r.Fresh)), At: v.Knowledge}
	switch {
	case v.Breaker != "":
		p.At, p.Fix = "breaker "+v.Breaker, "see why its calls fail; the breaker lets calls pass again by itself"
	case len(v.Instances) == 0 && r.Etcd != "":
		p.What = fmt.Sprintf("%s knows no instance of %s, and etcd does not answer", v.name(r.Fresh), r.Callee)
		p.At, p.Fix = r.Etcd, r.etcdFix
		if r.Fresh { // nobody was found who might know more
			p.Exit = problem.Environment
		}
	case len(v.Instances) == 0 && len(r.Elsewhere) > 0:
		p.What = fmt.Sprintf("wrong prefix: %s is registered below %s, and %s looks below %s", r.Callee, r.Elsewhere[0].Prefix, v.name(r.Fresh), v.Prefix)
		p.Fix = fmt.Sprintf("discovery.prefix: %s in the config.yaml of %s", r.Elsewhere[0].Prefix, v.Caller)
	case len(v.Instances) == 0:
		p.Fix = "does it use the same etcd? its log says at start which one"
	default:
		first := v.Instances[0]
		p.At = first.Address + ": " + orElse(first.Reason, first.Error)
		p.Fix = remedy(first, r.Callee)
	}
	return p
}

// remedy is what to do about an instance that is of no use.
func remedy(i Instance, callee string) string {
	switch {
	case i.Ejected != "":
		return "see the log of " + callee + "; it is let in again once it answers its health check"
	case i.Reach == Frozen && i.PID > 0:
		return fmt.Sprintf("kill -CONT %d      or restart it", i.PID)
	case i.Reach == Frozen:
		return "kill -CONT its process, or restart it"
	case i.Gone && strings.Contains(i.Reason, noLease):
		return "newsvc doctor      has the command that deletes its key"
	case i.Gone && i.PID > 0:
		return "see the lines of " + callee + " in newsvc dev, which starts it again; newsvc ls " + callee + " -w      shows when"
	case i.Gone:
		return "start it: newsvc dev in its directory; newsvc ls " + callee + " -w      shows when it is there"
	case strings.Contains(i.Reason, "advertises a loopback address"):
		return "registration.advertise: HOST in its config.yaml, an address that callers can reach"
	case strings.Contains(i.Reason, "draining"):
		return "start another instance; this one is about to leave"
	}
	return "is it running and reachable from the caller? newsvc call " + callee + " --addr " + i.Address + " METHOD"
}

func (v View) name(fresh bool) string {
	if fresh {
		return "a new caller"
	}
	return v.Caller + " " + registryview.Short(v.Instance, 4)
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Write shows the report to people.
func (r *Report) Write(w io.Writer) error {
	fmt.Fprintf(w, "%s in %s\n", r.Callee, r.Place)
	if r.Etcd != "" {
		fmt.Fprintf(w, "etcd does not answer: %s; what callers know may be old\n", r.Etcd)
	} else {
		fmt.Fprintf(w, "etcd answers: %s registered\n", count(r.Registered, "instance"))
	}
	for _, s := range r.Elsewhere {
		fmt.Fprintf(w, "wrong prefix: below %s there is %s\n", s.Prefix, s.Addr)
	}
	if r.Fresh {
		asked := fmt.Sprintf("%d asked", r.Asked)
		if r.Asked == 0 {
			asked += "; --admin HOST:PORT names one"
		}
		fmt.Fprintf(w, "no running caller of it was reached (%s); what follows is the fresh view of a new caller in this process\n", asked)
	}
	for _, s := range r.Silent {
		fmt.Fprintf(w, "not asked: %s\n", s)
	}
	for _, v := range r.Views {
		if err := v.write(w, r); err != nil {
			return err
		}
	}
	return nil
}

func (v View) write(w io.Writer, r *Report) error {
	fmt.Fprintf(w, "\n%s sees %s, %d usable", v.name(r.Fresh), count(len(v.Instances), "instance"), v.Usable)
	if !r.Fresh {
		fmt.Fprintf(w, " (admin %s, prefix %s)", v.Admin, v.Prefix)
	}
	if v.Prefix != r.Prefix {
		fmt.Fprintf(w, "\n  it looks below %s, and this command below %s: what follows is about the former", v.Prefix, r.Prefix)
	}
	fmt.Fprintf(w, "\n  knowledge: %s\n", v.Knowledge)
	if v.Breaker != "" {
		fmt.Fprintf(w, "  breaker %s\n", v.Breaker)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, i := range v.Instances {
		usable := "usable"
		if !i.Usable {
			usable = "NOT USABLE"
		}
		line := []string{"  " + i.Address, registryview.Short(i.Instance, 4), i.State, usable, orElse(i.Connection, "-"), i.Reason}
		if i.Error != "" && !strings.Contains(i.Reason, i.Error) {
			line[5] = strings.TrimPrefix(i.Reason+"; last error: "+i.Error, "; ")
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(line, "\t"), "\t"))
	}
	return t.Flush()
}
