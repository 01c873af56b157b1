package faulttest

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// addressRows are about calls that could go to somebody else.
func addressRows() []Row {
	return []Row{
		{
			ID: "address-reused", Covers: []string{"C10"}, Members: 1, Limit: limitUsual, From: "the end of the lease",
			Fault:  "one server is killed and a server of another service starts on its address at once, while the lease of the first one lives; another server starts",
			inject: (*stage).reuse, proof: (*stage).reused,
		},
		{
			ID: "longer-name", Covers: []string{"B14"}, Members: 1, Limit: limitUsual, orderly: true, From: "the start of the newcomer",
			Fault:  "servers of a service start whose name begins with the name of the one that is called; one of them leaves, and a server of the called one starts",
			inject: (*stage).nameLonger, proof: (*stage).sharesBeginning,
		},
	}
}

func (s *stage) reuse(ctx context.Context) error {
	s.each(func(d *side) error {
		p, err := s.retire(ctx, d)
		d.victim = p.Addr()
		if err == nil {
			err = p.Kill(ctx)
		}
		if err != nil {
			return err
		}
		other, err := s.startServer(ctx, d, d.service+"-other", p.Addr())
		if err != nil {
			return err
		}
		d.other = append(d.other, other)
		resp, err := s.etcd().Get(ctx, d.adapter.Keys(d.service)+p.Addr(), clientv3.WithCountOnly())
		if err != nil || resp.Count == 0 {
			return fmt.Errorf("the lease of the one that was killed had ended already: %v", err)
		}
		return nil
	})
	s.newcomers(ctx)
	if err := s.wait(ctx, s.opt.TTL+2*time.Second); err != nil {
		return err
	}
	s.healed = time.Now()
	return nil
}

// reused shows that another service listens where the killed server did.
func (s *stage) reused(ctx context.Context) (string, error) {
	text, err := s.killedServers(ctx)
	if err != nil {
		return "", err
	}
	n := 0
	for _, d := range s.sides {
		for _, p := range d.other {
			if p.Addr() == d.victim && p.Running() {
				n++
			}
		}
	}
	if n < s.working() {
		return "", fmt.Errorf("only %d addresses were taken over", n)
	}
	return join(text, fmt.Sprintf("%d addresses belong to another service, while the keys of the killed ones were in etcd", n)), nil
}

func (s *stage) nameLonger(ctx context.Context) error {
	s.each(func(d *side) error {
		for range 2 {
			p, err := s.startServer(ctx, d, d.service+"-admin", "")
			if err != nil {
				return err
			}
			d.other = append(d.other, p)
		}
		return nil
	})
	if err := s.wait(ctx, 2*time.Second); err != nil {
		return err
	}
	s.each(func(d *side) error {
		p := d.other[0]
		d.other = d.other[1:]
		if err := s.leaving(ctx, d, p); err != nil {
			return err
		}
		return p.Signal(syscall.SIGTERM)
	})
	s.newcomers(ctx)
	s.healed = time.Now()
	return nil
}

// sharesBeginning shows that keys of both services begin alike.
func (s *stage) sharesBeginning(ctx context.Context) (string, error) {
	n := int64(0)
	for _, d := range s.sides {
		resp, err := s.etcd().Get(ctx, strings.TrimSuffix(d.adapter.Keys(d.service), "/")+"-", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return "", err
		}
		n += resp.Count
	}
	if n < int64(s.working()) {
		return "", fmt.Errorf("only %d keys of the longer names are in etcd", n)
	}
	return fmt.Sprintf("%d keys of services with longer names are in etcd", n), nil
}
