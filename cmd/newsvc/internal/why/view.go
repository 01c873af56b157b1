package why

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// quietFor is how long etcd may be silent before what a caller knows counts as old: a watch that has nothing to tell is asked
// for a sign of life every 10 s, give or take a fifth.
const quietFor = 15 * time.Second

// view is one caller's page, judged with what was found at the addresses.
func view(p answer, around *circumstances) View {
	c := p.of(around.callee)
	v := View{Caller: p.Service, Instance: p.Incarnation, Admin: p.admin, Prefix: p.Prefix, Instances: []Instance{}}
	if c == nil {
		v.Knowledge = "it was asked for nothing yet"
		return v
	}
	v.Target, v.Breaker, v.Known = c.Connection.Target, c.Connection.Breaker, c.Known
	v.Knowledge, v.Stale = knowledge(p.page, c)
	one := around.oneMachine(p)
	for _, i := range c.Instances {
		pid, _, _ := around.process(i.Addr)
		shown := Instance{
			Address: i.Addr, Instance: i.Incarnation, State: i.State, Connection: i.Connection, Error: i.Error,
			Reach: around.reach[i.Addr], PID: pid,
			Ejected: i.Ejected, EjectedUntil: i.Until, ProbeError: i.ProbeError, HeldUntil: i.HeldUntil,
		}
		shown.judge(i, around.lost(&shown, one))
		if shown.Usable {
			v.Usable++
		}
		v.Instances = append(v.Instances, shown)
	}
	if strings.HasPrefix(v.Breaker, "open") {
		v.Usable = 0
	}
	return v
}

// knowledge says how old it is what a caller knows of its callee.
func knowledge(p *page, c *pageCallee) (text string, stale bool) {
	switch {
	case !c.Known && c.Error != "":
		return "nothing is known; asked for since " + ago(c.Began, p.Time) + ": " + c.Error, true
	case !c.Known:
		return "nothing is known: etcd has not answered since " + ago(c.Began, p.Time), true
	case c.Error != "":
		return fmt.Sprintf("as of %s; failing since %s: %s", ago(c.AsOf, p.Time), ago(c.Failing, p.Time), c.Error), true
	case c.Watch == nil:
		return fmt.Sprintf("revision %d", c.Revision), false
	case p.Time.Sub(c.Watch.LastSeen) > quietFor:
		return fmt.Sprintf("revision %d; etcd has said nothing since %s", c.Revision, ago(c.Watch.LastSeen, p.Time)), true
	}
	return fmt.Sprintf("revision %d, up to date: last word from etcd %s", c.Revision, ago(c.Watch.LastSeen, p.Time)), false
}

// judge decides whether calls reach an instance, and says why they don't. What the caller says of it counts first; that it
// answers nothing, the caller may not have noticed yet. lost is why its process does not answer there, where that is known.
func (i *Instance) judge(p pageInstance, lost string) {
	i.Usable, i.Reason, i.Gone = p.Used, p.Note, lost != ""
	frozen := i.Reach == Frozen
	if frozen || i.Gone {
		i.Usable = false
	}
	switch {
	case p.Ejected != "":
	case frozen && i.PID > 0:
		i.Reason = fmt.Sprintf("%s; pid %d", i.Reach, i.PID)
	case frozen:
		i.Reason = string(i.Reach)
	case i.Gone && p.HeldUntil.IsZero() && (i.Connection != "" || p.Note == ""):
		i.Reason = lost
	case !i.Usable && (i.Connection != "" || p.Note == "") && p.HeldUntil.IsZero() && i.PID == 0 && loopback(i.Address):
		// It was dialled in vain. Who vanished, drains or was not chosen has another reason, and on one machine loopback is right.
		i.Reason = "it advertises a loopback address, which leads every caller to its own machine"
		if i.Reach != Answers {
			i.Reason += "; here " + string(i.Reach)
		}
	case !i.Usable && (i.Connection != "" || p.Note == "") && i.Reach != Answers && i.Reach != "":
		i.Reason = strings.TrimPrefix(i.Reason+"; "+orElse(lost, string(i.Reach)), "; ")
	}
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
