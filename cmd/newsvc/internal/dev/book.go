package dev

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// book keeps the record up to date. It is safe for concurrent use.
type book struct {
	out *output

	mu      sync.Mutex
	record  devrecord.Record
	warned  bool
	written bool // a record was
	partly  bool // it was told that some serve; belongs to whoever calls follow
}

// change changes the record and writes it.
func (b *book) change(f func(r *devrecord.Record)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.record)
	err := b.record.Write()
	_, elsewhere := errors.AsType[*devrecord.ShareError](err) // that it is of no use elsewhere does not make it useless here
	if err == nil || !elsewhere && !b.written {
		b.written = b.written || err == nil
		return err
	}
	b.written = true // what serves goes on: on a full disk, for example
	if !b.warned {
		b.warned = true
		b.out.say("newsvc", "warning: "+err.Error())
	}
	return nil
}

// now is the record as it is.
func (b *book) now() devrecord.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record
}

// remove makes this newsvc dev unknown.
func (b *book) remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record.Remove()
}

// follow writes what serves. It returns what is to be announced, once: that everything serves, or has finished, or that
// everything does but what can't. A command that services need is part of everything.
func (b *book) follow(units []*unit, commands []command) (news string, err error) {
	services := make(map[string]devrecord.Service, len(units))
	waiting, serving := 0, 0
	var missing []string
	for _, u := range units {
		s := devrecord.Service{Instances: []devrecord.Instance{}}
		stuck := false
		for _, slot := range u.slots {
			s.Gone = append(s.Gone, slot.dead()...)
			if i, ok := slot.instance(); ok {
				s.Instances = append(s.Instances, i)
				serving++
			} else if slot.idle() || slot.failing.Load() {
				stuck = true
			} else if !slot.finished.Load() {
				waiting++
			}
		}
		if stuck {
			missing = append(missing, u.name)
		}
		services[u.name] = s
	}
	for _, c := range commands {
		if c.slot.failing.Load() {
			missing = append(missing, c.slot.label)
		}
	}
	complete := waiting == 0 && len(missing) == 0
	first := false
	err = b.change(func(r *devrecord.Record) {
		first = complete && !r.Complete
		r.Complete = r.Complete || complete
		r.Services = services
	})
	switch {
	case first:
		return "everything serves; Ctrl-C stops it", err
	case waiting == 0 && serving > 0 && !b.partly && !b.now().Complete:
		b.partly = true
		return fmt.Sprintf("everything but %s serves; Ctrl-C stops it", strings.Join(missing, ", ")), err
	}
	return "", err
}

// announce tells where everything listens.
func announce(units []*unit, out *output, news string) {
	for _, u := range units {
		if where := u.where(); where != "" {
			out.say(u.name, "serving at "+where)
		}
		if line := u.grpcurl(); line != "" {
			out.say(u.name, "  "+line)
		}
	}
	out.say("newsvc", news)
}

// where is where the instances of a service listen; empty when none does.
func (u *unit) where() string {
	var all []string
	for _, s := range u.slots {
		i, ok := s.instance()
		switch {
		case !ok:
		case i.HTTP != "":
			all = append(all, "http://"+i.HTTP)
		case i.GRPC != "":
			all = append(all, i.GRPC)
		default:
			all = append(all, fmt.Sprintf("pid %d", i.PID))
		}
	}
	return strings.Join(all, ", ")
}

// grpcurl is a command that lists what the service offers; reflection is on under newsvc dev. Empty when it offers none.
func (u *unit) grpcurl() string {
	for _, s := range u.slots {
		if i, ok := s.instance(); ok && i.GRPC != "" {
			security := "-plaintext"
			if u.settings().tls {
				security = "-insecure"
			}
			return fmt.Sprintf("grpcurl %s %s list", security, quoted(reachable(i.GRPC)))
		}
	}
	return ""
}

// reachable is an address at which this machine reaches who listens at addr: nobody calls 0.0.0.0 or [::].
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "" && (ip == nil || !ip.IsUnspecified()) {
		return addr
	}
	return net.JoinHostPort("localhost", port)
}

// quoted is an address as shells take it: to some, brackets are patterns.
func quoted(addr string) string {
	if strings.Contains(addr, "[") {
		return "'" + addr + "'"
	}
	return addr
}
