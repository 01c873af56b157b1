// Package dev is the command newsvc dev: it starts an etcd in this process, or joins that of another newsvc dev, and the
// services found below a directory as child processes. It keeps them running, replaces them when what they are made of is
// saved, tells where everything listens, and drains them all at Ctrl-C.
//
// A session has a unit for each service, a unit has a slot for each instance, and a slot is filled by one process after the
// other. The watcher makes reloads due, and units carry them out. What runs is in the record, see package devrecord.
package dev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/discovery"
)

const (
	stateDir    = ".newsvc"
	maxReplicas = 100
)

// options are the command's flags.
type options struct {
	etcd     []string
	prefix   string
	replicas map[string]string
	services []string
	root     string
	noWatch  bool
	known    map[string]bool // the services that were there at the start, or that were told of
}

// Command returns newsvc dev.
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "dev [SERVICE...]",
		Short: "run the services found below this directory, with an etcd of their own",
		Long: `dev starts an etcd in this process, builds every service found at or below the
current directory (a newsvc.yaml with "kind: service" marks one) and runs it, in
its own directory, as many times as its dev.replicas says. A service that dies is
started again, after 0.5s at first and 10s at the most. Ctrl-C lets all of them
finish their calls and leave the registry; a second Ctrl-C does not wait.

When a source file or a .proto is saved, the services made of it are built anew.
The new process is started beside the old one, which finishes its calls once the
new one serves and is registered; public HTTP ports are open all the while. A
build that fails, and a program that exits at its start, leave the old one alone.
A service whose first build fails waits for a save that mends it, while the others
run; with --no-watch dev ends with exit code 1. Configuration files are followed by
the services themselves; they are restarted for the keys that take it. A newsvc.yaml
that is changed or new counts when dev is started anew.

A second newsvc dev of the same user, in another directory, joins the etcd of the
first, so their services find each other.

newsvc.yaml can say, below "dev:",
  replicas: 3                  how many instances
  exclusive: true              stop the old process before the new one starts
  run: ["docker run ..."]      commands that the service needs: started before it,
                               stopped after it

What runs, and where it listens, is in .newsvc/dev.json once everything serves.

Windows has no signal that asks a process to finish and passes on no sockets: there
processes are ended at once, and a new one serves HTTP at another port. On macOS, the
BSDs and Windows the services outlive a dev that was killed; stop them by their pid.`,
		Example: `  newsvc dev
  newsvc dev user-service --replicas user-service=3
  newsvc dev --etcd 10.0.0.5:2379`,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := os.Getwd()
			if err == nil { // so that it is above what lies below it, whatever links were followed
				root, err = filepath.EvalSymlinks(root)
			}
			if err != nil {
				return err
			}
			o.root, o.services = root, args
			w := cmd.OutOrStdout()
			if result, ok := w.(interface{ Unwrap() io.Writer }); ok { // these lines are no result that could get lost
				w = result.Unwrap()
			}
			return o.run(cmd.Context(), &output{w: w})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.etcd, "etcd", nil, "join this etcd (host:port, repeatable or comma-separated) instead of starting one; \"embedded\" starts one even if another newsvc dev has one")
	f.StringVar(&o.prefix, "prefix", discovery.DefaultPrefix, "etcd prefix below which the services find each other")
	f.StringToStringVar(&o.replicas, "replicas", nil, "how many instances, for example user-service=3 (repeatable)")
	f.BoolVar(&o.noWatch, "no-watch", false, "do not reload what is saved")
	return cmd
}

// choose returns the services to run, with their replicas.
func (o *options) choose() ([]service, error) {
	all, err := find(o.root)
	if err != nil {
		return nil, &problem.Error{Exit: problem.Usage, What: err.Error(), Err: err}
	}
	if len(all) == 0 {
		return nil, &problem.Error{
			Exit: problem.NotFound, What: fmt.Sprintf("no service found at or below %s", o.root),
			At: "no " + markerFile + " with kind: service", Fix: "newsvc create blogger-user && cd blogger-user && newsvc dev",
		}
	}
	names := make([]string, len(all))
	o.known = map[string]bool{}
	for i, s := range all {
		names[i] = s.name
		o.known[s.name] = true
	}
	for _, want := range append(slices.Clone(o.services), keys(o.replicas)...) {
		if !slices.Contains(names, want) {
			return nil, &problem.Error{
				Exit: problem.Usage, What: fmt.Sprintf("there is no service %q here", want),
				At: "found: " + strings.Join(names, ", "),
			}
		}
	}
	var chosen []service
	for _, s := range all {
		if len(o.services) > 0 && !slices.Contains(o.services, s.name) {
			continue
		}
		if n, ok := o.replicas[s.name]; ok {
			if s.replicas, err = strconv.Atoi(n); err != nil || s.replicas < 0 || s.replicas > maxReplicas {
				return nil, &problem.Error{
					Exit: problem.Usage, What: fmt.Sprintf("--replicas %s=%s: want a number from 0 to %d", s.name, n, maxReplicas),
					Fix: fmt.Sprintf("newsvc dev --replicas %s=3", s.name),
				}
			}
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// others are services that were not there at the start; each is told of once.
func (o *options) others() []string {
	all, err := find(o.root)
	if err != nil {
		return nil // perhaps half of it is written
	}
	var names []string
	for _, s := range all {
		if !o.known[s.name] {
			o.known[s.name] = true
			names = append(names, s.name)
		}
	}
	return names
}

func keys(m map[string]string) []string {
	all := make([]string, 0, len(m))
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// check looks at the flags before anything is started.
func (o *options) check() error {
	if err := discovery.CheckPrefix(o.prefix); err != nil {
		return &problem.Error{Exit: problem.Usage, What: "--prefix: " + err.Error(), Err: err}
	}
	if o.etcd = slices.DeleteFunc(o.etcd, func(h string) bool { return h == "" }); slices.Contains(o.etcd, embedded) && len(o.etcd) > 1 {
		return &problem.Error{Exit: problem.Usage, What: "--etcd " + embedded + " means none of the others: " + strings.Join(o.etcd, ","), Fix: "newsvc dev --etcd " + embedded}
	}
	return o.scratch()
}

// scratch makes the directory for what newsvc dev writes, which is nothing for a repository.
func (o *options) scratch() error {
	state := filepath.Join(o.root, stateDir)
	err := os.MkdirAll(state, 0o755)
	ignore := filepath.Join(state, ".gitignore")
	if _, statErr := os.Stat(ignore); err == nil && errors.Is(statErr, fs.ErrNotExist) {
		err = os.WriteFile(ignore, []byte("*\n"), 0o644)
	}
	if err != nil {
		return &problem.Error{Exit: problem.Environment, What: err.Error(), Err: err}
	}
	return nil
}

// lock makes sure that one newsvc dev runs in this directory; the system lets go of it when the process ends, however
// it ends. The file tells who holds it.
func (o *options) lock() (unlock func() error, err error) {
	path := filepath.Join(o.root, stateDir, "dev.lock")
	f, err := fileutil.TryLockFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		holder, _ := os.ReadFile(path) // empty for the blink of an eye in which it was just taken
		pid := strings.TrimSpace(string(holder))
		return nil, &problem.Error{
			Exit: problem.Environment, What: fmt.Sprintf("newsvc dev runs here already (pid %s)", pid),
			At: o.root, Fix: "kill -INT " + pid,
		}
	}
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintln(f, os.Getpid())
		}
		err = errors.Join(err, emptied(filepath.Join(o.root, stateDir, "run")), emptied(filepath.Join(o.root, stateDir, "bin")))
	}
	if err != nil {
		return nil, &problem.Error{Exit: problem.Environment, What: err.Error(), At: path, Err: err}
	}
	return f.Close, nil
}

// emptied removes the files of an earlier run, which nobody but us uses now.
func emptied(dir string) error {
	return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}
