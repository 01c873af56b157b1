package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/devetcd"
)

const (
	preferredEtcd = "127.0.0.1:2379" // where the embedded etcd listens if nobody else does
	embedded      = "embedded"       // the value of --etcd that joins nobody
	ownerPoll     = 250 * time.Millisecond
	// ownerPatience is how long an address is waited for: an owner that stops is no owner any more, but its etcd stays until its
	// services have drained.
	ownerPatience = 15 * time.Second
	dialPatience  = 2 * time.Second // for an etcd that was named to take a connection, before it is told that none does
)

// registry is the etcd in which the services register: one in this process, that of another newsvc dev, or any other.
type registry struct {
	options *options
	book    *book
	out     *output
	server  *devetcd.Server  // in this process, or nil
	owner   devrecord.Record // of the newsvc dev that was joined; PID 0 for none
}

// open finds or starts the etcd and writes the first record, so that the next newsvc dev finds it.
func (r *registry) open(ctx context.Context) error {
	if hosts := r.options.etcd; len(hosts) > 0 && !slices.Equal(hosts, []string{embedded}) {
		r.out.say("etcd", "joining "+strings.Join(hosts, ", "))
		if err := unanswered(ctx, hosts); err != nil { // it may be about to start
			r.out.say("etcd", fmt.Sprintf("warning: no etcd at %s yet (%v); services register when there is one", strings.Join(hosts, ", "), err))
			r.out.say("etcd", "  fix: start it, or use the built-in one: newsvc dev --etcd "+embedded)
		}
		return r.write(hosts, 0)
	}
	unlock, err := devrecord.Lock(ctx)
	if err != nil {
		return &problem.Error{Exit: problem.Environment, What: "cannot agree with other newsvc dev on an etcd: " + err.Error(), Fix: "newsvc dev --etcd " + embedded, Err: err}
	}
	defer unlock()
	live, err := devrecord.Live()
	if err != nil {
		return &problem.Error{Exit: problem.Environment, What: "cannot tell which newsvc dev are running: " + err.Error(), Fix: "newsvc dev --etcd " + embedded, Err: err}
	}
	if len(r.options.etcd) == 0 {
		switch owners := ownersOf(live); len(owners) {
		case 0:
		case 1:
			return r.join(owners[0])
		default:
			return several(owners)
		}
	}
	return r.start(ctx, filepath.Join(r.options.root, stateDir, "etcd"), orphaned(live))
}

// unanswered is why none of the hosts takes a connection; nil when one does.
func unanswered(ctx context.Context, hosts []string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	for _, host := range hosts {
		if u, parseErr := url.Parse(host); parseErr == nil && u.Host != "" {
			host = u.Host
		}
		conn, dialErr := new(net.Dialer).DialContext(ctx, "tcp", host)
		if dialErr == nil {
			_ = conn.Close()
			return nil
		}
		err = dialErr
	}
	if no := syscall.Errno(0); errors.As(err, &no) {
		return no
	}
	return err
}

// ownersOf are the newsvc dev that have an etcd in their process.
func ownersOf(live []devrecord.Record) []devrecord.Record {
	return slices.DeleteFunc(slices.Clone(live), func(r devrecord.Record) bool { return r.Etcd.Owner != r.PID || len(r.Etcd.Endpoints) == 0 })
}

// orphaned is the address of an etcd that has ended and in which a living newsvc dev waits for another one.
func orphaned(live []devrecord.Record) string {
	owners := ownersOf(live)
	for _, r := range live {
		owned := slices.ContainsFunc(owners, func(o devrecord.Record) bool { return o.PID == r.Etcd.Owner })
		if r.Etcd.Owner != 0 && !owned && len(r.Etcd.Endpoints) == 1 {
			return r.Etcd.Endpoints[0]
		}
	}
	return preferredEtcd
}

func several(owners []devrecord.Record) error {
	all := make([]string, len(owners))
	for i, o := range owners {
		all[i] = fmt.Sprintf("%s (etcd %s, pid %d)", o.Root, strings.Join(o.Etcd.Endpoints, ","), o.PID)
	}
	return &problem.Error{
		Exit: problem.Conflict, What: fmt.Sprintf("%d newsvc dev run, each with an etcd of its own, and this one could join any", len(owners)),
		At: strings.Join(all, "\n       "), Fix: "newsvc dev --etcd " + strings.Join(owners[0].Etcd.Endpoints, ",") + "      or, for one of its own: --etcd " + embedded,
	}
}

func (r *registry) join(owner devrecord.Record) error {
	r.owner = owner
	r.out.say("etcd", fmt.Sprintf("joining %s, that of newsvc dev in %s (pid %d)", strings.Join(owner.Etcd.Endpoints, ", "), owner.Root, owner.PID))
	return r.write(owner.Etcd.Endpoints, owner.PID)
}

func (r *registry) write(endpoints []string, owner int) error {
	return r.book.change(func(rec *devrecord.Record) {
		rec.Etcd = devrecord.Etcd{Endpoints: endpoints, Prefix: r.options.prefix, Owner: owner}
	})
}

// start starts an etcd in this process.
func (r *registry) start(ctx context.Context, dir, addr string) error {
	cfg := devetcd.Config{Dir: dir, ClientAddr: addr, AutoCompaction: time.Hour}
	note := ""
	srv, err := devetcd.Start(ctx, cfg)
	if err != nil && ctx.Err() == nil {
		note = " (" + addr + " is in use)"
		cfg.ClientAddr = "127.0.0.1:0"
		srv, err = devetcd.Start(ctx, cfg)
	}
	if err != nil {
		return &problem.Error{Exit: problem.Environment, What: "the embedded etcd does not start: " + err.Error(), Err: err, Fix: "if its data is damaged: rm -r " + dir}
	}
	r.server = srv
	r.out.say("etcd", fmt.Sprintf("embedded, %s%s", srv.Addr(), note))
	// What a previous run left under the prefix, because it was killed, is nobody's: this etcd was off until now.
	clean, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := srv.Client().Delete(clean, r.options.prefix+"/", clientv3.WithPrefix()); err != nil {
		return errors.Join(err, r.close())
	}
	return r.write(srv.Endpoints(), os.Getpid())
}

// follow returns when ctx ends, or with an error when the services are left without an etcd for good. One that was joined
// is replaced when its owner ends, at the same address: the services register again by themselves.
func (r *registry) follow(ctx context.Context) error {
	for {
		switch {
		case r.server != nil:
			select {
			case <-ctx.Done():
				return nil
			case <-r.server.Done():
				return &problem.Error{What: fmt.Sprintf("the embedded etcd has ended: %v", r.server.Err()), Fix: "newsvc dev", Err: r.server.Err()}
			}
		case r.owner.PID == 0:
			<-ctx.Done()
			return nil
		}
		for r.owner.Alive() {
			if !pause(ctx, ownerPoll) {
				return nil
			}
		}
		if err := r.takeOver(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it is all over anyway
			}
			return err
		}
	}
}

// takeOver starts an etcd where the joined one was, as soon as the address is free, unless another newsvc dev has done so.
func (r *registry) takeOver(ctx context.Context) error {
	limit := time.Now().Add(ownerPatience)
	for {
		err := r.tryTakeOver(ctx)
		if err == nil || time.Now().After(limit) || !pause(ctx, ownerPoll) {
			return err
		}
	}
}

func (r *registry) tryTakeOver(ctx context.Context) error {
	unlock, err := devrecord.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	live, err := devrecord.Live()
	if err != nil {
		return err
	}
	endpoints, gone := r.book.now().Etcd.Endpoints, r.owner
	for _, o := range ownersOf(live) {
		if slices.Equal(o.Etcd.Endpoints, endpoints) {
			return r.join(o)
		}
	}
	// It begins empty: what this directory's own etcd knew was about other times.
	dir := filepath.Join(r.options.root, stateDir, "run", "etcd")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	srv, err := devetcd.Start(ctx, devetcd.Config{Dir: dir, ClientAddr: endpoints[0], AutoCompaction: time.Hour})
	if err != nil {
		return &problem.Error{
			Exit: problem.Environment, What: fmt.Sprintf("newsvc dev in %s has stopped and its etcd with it, and none can be started in its place", gone.Root),
			At: err.Error(), Fix: "newsvc dev", Err: err,
		}
	}
	r.server, r.owner = srv, devrecord.Record{}
	r.out.say("etcd", fmt.Sprintf("newsvc dev in %s has stopped and its etcd with it; started one at the same address, %s, where the services register again", gone.Root, srv.Addr()))
	return r.write(endpoints, os.Getpid())
}

// close ends the etcd, if it is in this process.
func (r *registry) close() error {
	if r.server == nil {
		return nil
	}
	return r.server.Close()
}
