package why

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/discovery"
)

// circumstances are what this command found out beside what the callers say.
type circumstances struct {
	callee string
	devs   []devrecord.Record
	etcd   []string              // where this command asks for what is registered
	silent bool                  // it does not answer
	all    []*discovery.Instance // what is registered, of all services
	reach  map[string]Reach
	keys   map[string]string // of addresses where nobody is: what becomes of the key, for people
	lives  map[string]bool   // of those: its admin server answers all the same
}

// look finds out what becomes of the instances at whose addresses their own process does not answer.
func (c *circumstances) look(ctx context.Context, reg *registryview.Registry, pages []answer) {
	c.keys, c.lives = map[string]string{}, map[string]bool{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, p := range pages {
		of := p.of(c.callee)
		if of == nil {
			continue
		}
		for _, i := range of.Instances {
			if !absent(c.reach[i.Addr]) {
				continue
			}
			g.Go(func() error {
				key, lives := c.keyOf(ctx, reg, p.Prefix, i.Addr), c.answersElsewhere(ctx, i)
				mu.Lock()
				defer mu.Unlock()
				c.keys[i.Addr], c.lives[i.Addr] = key, lives
				return nil
			})
		}
	}
	_ = g.Wait() // none returns an error
}

// absent reports whether an instance's own process does not answer at its address: nobody does, or another service.
func absent(r Reach) bool { return r == Refuses || strings.HasPrefix(string(r), string(Stranger)) }

// answersElsewhere reports whether the very process of an instance answers at the admin address that it registered: then it
// is not gone, and the address that it advertises is wrong.
func (c *circumstances) answersElsewhere(ctx context.Context, i pageInstance) bool {
	n := slices.IndexFunc(c.all, func(r *discovery.Instance) bool {
		return r.Service == c.callee && r.Addr == i.Addr && r.Admin != "" && r.Incarnation == i.Incarnation
	})
	if n < 0 || i.Incarnation == "" || !ours(c.all[n].Admin) {
		return false
	}
	p, err := ask(ctx, c.all[n].Admin)
	return err == nil && p.Incarnation == i.Incarnation
}

// keyOf says what becomes of the key of an instance.
func (c *circumstances) keyOf(ctx context.Context, reg *registryview.Registry, prefix, addr string) string {
	unknown := "its key stays until its lease ends"
	if c.silent { // it has been asked already
		return unknown
	}
	l, err := reg.KeyLease(ctx, prefix, c.callee, addr)
	switch {
	case err != nil:
		return unknown
	case !l.Exists:
		return ""
	case !l.Leased:
		return noLease
	}
	return fmt.Sprintf("%s, in at most %s", unknown, (l.Left + time.Second - 1).Truncate(time.Second))
}

const noLease = "its key has no lease and stays until somebody deletes it"

// oneMachine reports whether a caller and all that is registered are on the machine of this command, so far as addresses
// tell: then a loopback address leads to where it is meant to lead.
func (c *circumstances) oneMachine(p answer) bool {
	known := append(slices.Clone(c.etcd), p.admin)
	if p.Etcd != nil {
		known = append(known, p.Etcd.Endpoints...)
	}
	if slices.ContainsFunc(known, func(addr string) bool { return !loopback(bare(addr)) }) {
		return false
	}
	return !slices.ContainsFunc(c.all, func(i *discovery.Instance) bool { return !ours(i.Addr) })
}

// bare is an address without its scheme and path.
func bare(addr string) string {
	if _, after, ok := strings.Cut(addr, "://"); ok {
		addr = after
	}
	addr, _, _ = strings.Cut(addr, "/")
	return addr
}

// ours reports whether an address is one of this machine.
func ours(addr string) bool {
	if loopback(addr) {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	mine, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(mine, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(net.IP(ip.Unmap().AsSlice()))
	})
}

// process finds what a newsvc dev of this machine knows of the process at an address: its id, and how it ended if it did.
func (c *circumstances) process(addr string) (pid int, gone bool, how string) {
	for _, d := range c.devs {
		for _, i := range d.Services[c.callee].Instances {
			if i.GRPC == addr {
				return i.PID, !devrecord.Alive(i.PID), ""
			}
		}
	}
	for _, d := range c.devs {
		for _, i := range d.Services[c.callee].Gone {
			if i.GRPC == addr {
				return i.PID, true, i.How
			}
		}
	}
	return 0, false, ""
}

// lost says why nobody, or somebody else, is at an instance's address, if that is known; empty when it is not.
func (c *circumstances) lost(i *Instance, one bool) string {
	if !absent(i.Reach) {
		return ""
	}
	var text string
	pid, gone, how := c.process(i.Address)
	switch {
	case gone && how != "":
		text = fmt.Sprintf("its process is gone (pid %d, %s)", pid, how)
	case gone:
		text = fmt.Sprintf("its process is gone (pid %d)", pid)
	case pid > 0 || !one || !loopback(i.Address) || c.lives[i.Address]:
		return ""
	case i.Reach == Refuses:
		text = string(Refuses) + ": its process is gone or not started yet"
	default:
		text = "its process is gone; " + string(i.Reach)
	}
	if key := c.keys[i.Address]; key != "" {
		text += "; " + key
	}
	return text
}
