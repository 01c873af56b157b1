package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/devetcd"
)

// preferredEtcd is where the embedded etcd listens if nobody else does.
const preferredEtcd = "127.0.0.1:2379"

// run is the whole life of newsvc dev.
func (o *options) run(ctx context.Context, out *output) (err error) {
	services, err := o.choose()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	unlock, err := o.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	out.width = len("newsvc")
	for _, s := range services {
		out.width = max(out.width, len(s.name)+2)
	}
	endpoints, closeEtcd, err := o.joinEtcd(ctx, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEtcd()) }()
	binaries, err := o.build(ctx, services, out)
	if err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C during the build is a wish, not a failure
		}
		return err
	}
	children := o.children(services, binaries, endpoints, out)
	return o.keep(ctx, services, children, endpoints, out)
}

// joinEtcd starts an etcd, or takes the one that --etcd names.
func (o *options) joinEtcd(ctx context.Context, out *output) ([]string, func() error, error) {
	if len(o.etcd) > 0 {
		out.say("etcd", "joining "+strings.Join(o.etcd, ", "))
		return o.etcd, func() error { return nil }, nil
	}
	dir := filepath.Join(o.root, stateDir, "etcd")
	cfg := devetcd.Config{Dir: dir, ClientAddr: preferredEtcd, AutoCompaction: time.Hour}
	note := ""
	srv, err := devetcd.Start(ctx, cfg)
	if err != nil && ctx.Err() == nil {
		note = " (" + preferredEtcd + " is in use)"
		cfg.ClientAddr = "127.0.0.1:0"
		srv, err = devetcd.Start(ctx, cfg)
	}
	if err != nil {
		return nil, nil, &problem.Error{Exit: problem.Environment, What: "the embedded etcd does not start: " + err.Error(), Err: err,
			Fix: "if its data is damaged: rm -r " + dir}
	}
	out.say("etcd", fmt.Sprintf("embedded, %s%s", srv.Addr(), note))
	// What a previous run left under the prefix, because it was killed, is nobody's: this etcd was off until now.
	clean, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := srv.Client().Delete(clean, o.prefix+"/", clientv3.WithPrefix()); err != nil {
		return nil, nil, errors.Join(err, srv.Close())
	}
	return srv.Endpoints(), srv.Close, nil
}

// build compiles every service into .newsvc/bin.
func (o *options) build(ctx context.Context, services []service, out *output) (map[string]string, error) {
	binaries := make(map[string]string, len(services))
	for _, s := range services {
		binaries[s.name] = filepath.Join(o.root, stateDir, "bin", s.name)
		began := time.Now()
		out.say(s.name, "building (the first build takes minutes, later ones seconds)")
		var text bytes.Buffer
		cmd := exec.CommandContext(ctx, "go", "build", "-o", binaries[s.name], ".")
		cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &text, &text
		if err := cmd.Run(); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return nil, &problem.Error{Exit: problem.Environment, What: "the go command is not in PATH", Fix: "install Go from https://go.dev/dl/", Err: err}
			}
			return nil, &problem.Error{Exit: problem.Failed, What: fmt.Sprintf("%s does not build", s.name), At: strings.TrimSpace(text.String()), Err: err}
		}
		out.say(s.name, "built in "+time.Since(began).Round(100*time.Millisecond).String())
	}
	return binaries, nil
}

func (o *options) children(services []service, binaries map[string]string, etcd []string, out *output) []*child {
	var all []*child
	for _, s := range services {
		for i := range s.replicas {
			label := s.name
			if s.replicas > 1 {
				label = fmt.Sprintf("%s.%d", s.name, i+1)
			}
			out.width = max(out.width, len(label))
			// Not the file of an earlier run, which a process left over from there would remove when it ends.
			ready := filepath.Join(o.root, stateDir, "run", fmt.Sprintf("%s.%d.%d.json", s.name, i+1, os.Getpid()))
			all = append(all, &child{
				service: s, label: label, binary: binaries[s.name], ready: ready, out: out,
				env: append(environment(s, etcd, o.prefix), "NEWSVC_READY_FILE="+ready),
			})
		}
	}
	return all
}

// keep runs all children and keeps the record, until ctx ends and the last child is gone.
func (o *options) keep(ctx context.Context, services []service, children []*child, etcd []string, out *output) error {
	change := make(chan struct{}, 1)
	change <- struct{}{} // perhaps there is nothing to wait for
	life, end := context.WithCancel(ctx)
	defer end()
	var g errgroup.Group
	for _, c := range children {
		c.changed = func() {
			select {
			case change <- struct{}{}:
			default: // a look is due already
			}
		}
		g.Go(func() error { return c.keep(life) })
	}
	record := Record{Version: 1, PID: os.Getpid(), Root: o.root, Etcd: RecordEtcd{Endpoints: etcd, Prefix: o.prefix}}
	err := o.follow(ctx, record, services, children, change, out)
	if rerr := os.Remove(RecordPath(o.root)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if ctx.Err() != nil {
		out.say("newsvc", "stopping: calls may finish; Ctrl-C again does not wait")
	}
	end() // without a record nobody finds them
	return errors.Join(err, g.Wait())
}

// follow writes the record once everything serves, or has finished, and after each change from then on.
func (o *options) follow(ctx context.Context, record Record, services []service, children []*child, change <-chan struct{}, out *output) error {
	complete := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-change:
		}
		due := len(children)
		record.Services = make(map[string]RecordService, len(services))
		for _, s := range services {
			record.Services[s.name] = RecordService{Instances: []RecordInstance{}}
		}
		for _, c := range children {
			if inst, ok := c.instance(); ok {
				due--
				s := record.Services[c.service.name]
				s.Instances = append(s.Instances, inst)
				record.Services[c.service.name] = s
			} else if c.finished.Load() {
				due--
			}
		}
		if due > 0 && !complete {
			continue
		}
		if err := record.write(); err != nil {
			return err
		}
		if !complete {
			complete = true
			announce(record, services, out)
		}
	}
}

// announce tells where everything listens.
func announce(r Record, services []service, out *output) {
	for _, s := range services {
		var where []string
		for _, i := range r.Services[s.name].Instances {
			switch {
			case i.HTTP != "":
				where = append(where, "http://"+i.HTTP)
			case i.GRPC != "":
				where = append(where, i.GRPC)
			default:
				where = append(where, fmt.Sprintf("pid %d", i.PID))
			}
		}
		if len(where) > 0 {
			out.say(s.name, "serving at "+strings.Join(where, ", "))
		}
	}
	out.say("newsvc", "everything serves; Ctrl-C stops it")
}
