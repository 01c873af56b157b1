package dev

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// book keeps the record up to date. It is safe for concurrent use.
type book struct {
	out *output

	mu     sync.Mutex
	record devrecord.Record
	warned bool
}

// change changes the record and writes it.
func (b *book) change(f func(r *devrecord.Record)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.record)
	err := b.record.Write()
	if share, ok := errors.AsType[*devrecord.ShareError](err); ok { // that it is of no use elsewhere does not make it useless here
		if !b.warned {
			b.warned = true
			b.out.say("newsvc", "warning: "+share.Error())
		}
		return nil
	}
	return err
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

// follow writes what serves: the first time when everything does, or has finished, and after each change from then on.
func (b *book) follow(units []*unit) (complete bool, err error) {
	services := make(map[string]devrecord.Service, len(units))
	due := 0
	for _, u := range units {
		s := devrecord.Service{Instances: []devrecord.Instance{}}
		for _, slot := range u.slots {
			if i, ok := slot.instance(); ok {
				s.Instances = append(s.Instances, i)
			} else if !slot.finished.Load() {
				due++
			}
		}
		services[u.name] = s
	}
	first := false
	err = b.change(func(r *devrecord.Record) {
		first = due == 0 && !r.Complete
		r.Complete = r.Complete || due == 0
		r.Services = services
	})
	return first, err
}

// announce tells where everything listens.
func announce(units []*unit, out *output) {
	for _, u := range units {
		if where := u.where(); where != "" {
			out.say(u.name, "serving at "+where)
		}
		if line := u.grpcurl(); line != "" {
			out.say(u.name, "  "+line)
		}
	}
	out.say("newsvc", "everything serves; Ctrl-C stops it")
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
			return fmt.Sprintf("grpcurl %s %s list", security, i.GRPC)
		}
	}
	return ""
}
