// Package locate says which etcd a tool talks to, and why that one: what the command line or NEWSVC_ETCD names, what a
// service's own configuration says, what a running newsvc dev started, or the usual address of this machine. It reads
// files and asks nobody.
package locate

import (
	"context"

	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// EnvEtcd is the variable that names an etcd for all commands.
const EnvEtcd = "NEWSVC_ETCD"

// Where an etcd was found, beside what a configuration says of itself.
const (
	HowFlag    = "--etcd"
	HowEnv     = EnvEtcd
	HowDev     = ".newsvc/dev.json"
	HowDefault = "default"
)

// Flags is what the command line says about etcd.
type Flags struct {
	Etcd   []string
	Prefix string
	Env    string
}

// Add makes the flags known to a command.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringSliceVar(&f.Etcd, "etcd", nil, "etcd's client `addresses`, host:port (default: newsvc help config)")
	set.StringVar(&f.Prefix, "prefix", "", "`prefix` in etcd below which services find each other (default: as its owner has it, else "+discovery.DefaultPrefix+")")
	set.StringVar(&f.Env, "env", "", "inside a service: the etcd of this `environment`, as config.ENV.yaml has it, with its TLS and user")
}

// Args is the flags as they were given, each with a space before it: what a remedy has to be given, too, so that it looks at the
// same etcd.
func (f Flags) Args() string {
	var line strings.Builder
	for _, flag := range []struct{ name, value string }{{"etcd", strings.Join(f.Etcd, ",")}, {"prefix", f.Prefix}, {"env", f.Env}} {
		if flag.value != "" {
			line.WriteString(" --" + flag.name + " " + flag.value)
		}
	}
	return line.String()
}

// Place is an etcd and the prefix below which services are looked for.
type Place struct {
	// Etcd says where it is and how to talk to it, TLS and user included. Names of files in it are absolute.
	Etcd   etcdclient.Config
	Prefix string
	// How says where all that comes from, for people: "--etcd", "NEWSVC_ETCD", ".newsvc/dev.json", "the running newsvc dev
	// in /x", "config.prod.yaml:3 of user-service" or "default".
	How string
	// Service and Dir are the service whose directory the command runs in; empty outside of services.
	Service, Dir string
	// Env is the environment that was asked for.
	Env string
	// Devs are the running newsvc dev whose services are registered there.
	Devs []devrecord.Record
}

// Endpoints are the client addresses of etcd.
func (p Place) Endpoints() []string { return p.Etcd.Endpoints }

// String is the place in one line, as errors say where they looked.
func (p Place) String() string {
	return fmt.Sprintf("etcd %s (%s), prefix %s", strings.Join(p.Etcd.Endpoints, ", "), p.How, p.Prefix)
}

// Find returns the place for a command that runs in dir. The errors are of type [*problem.Error]: an address or prefix
// that is none, a configuration that can't be read, or several running newsvc dev to choose from.
func (f Flags) Find(ctx context.Context, dir string) (Place, error) {
	if err := ctx.Err(); err != nil {
		return Place{}, err
	}
	ws, err := workspace.Find(dir)
	if err != nil {
		return Place{}, err
	}
	p := Place{Etcd: etcdclient.DefaultConfig(), Prefix: discovery.DefaultPrefix, How: HowDefault, Service: ws.ServiceName, Dir: ws.ServiceDir, Env: f.Env}
	if f.Env != "" && p.Service == "" {
		return Place{}, &problem.Error{
			Exit: problem.Usage, What: fmt.Sprintf("--env %q means the configuration of a service, and %s is in none", f.Env, ws.Dir),
			Fix: "-C the service's directory, or --etcd and --prefix in place of --env",
		}
	}
	live, err := devrecord.Live()
	if err != nil {
		return Place{}, &problem.Error{Exit: problem.Environment, What: "cannot tell which newsvc dev are running: " + err.Error(), Fix: "--etcd 127.0.0.1:2379", Err: err}
	}
	live = slices.DeleteFunc(live, func(r devrecord.Record) bool { return len(r.Etcd.Endpoints) == 0 }) // it is only starting
	if err := f.take(&p, ws.Dir, live); err != nil {
		return Place{}, err
	}
	if f.Prefix != "" {
		p.Prefix = f.Prefix
	}
	for _, r := range live {
		if sharesAddress(r.Etcd.Endpoints, p.Etcd.Endpoints) {
			p.Devs = append(p.Devs, r)
		}
	}
	return p, f.check(p)
}

// take goes through the possibilities, the most explicit one first.
func (f Flags) take(p *Place, dir string, live []devrecord.Record) error {
	own, err := f.settings(*p)
	if err != nil {
		return err
	}
	p.Prefix = own.discovery.Prefix
	named, how := f.Etcd, HowFlag
	if len(named) == 0 {
		named, how = split(os.Getenv(EnvEtcd)), HowEnv
	}
	if len(named) > 0 {
		if f.Env != "" { // its TLS and user, at another address
			p.Etcd = own.etcd
		}
		p.Etcd.Endpoints, p.How = named, how
		if strings.HasPrefix(named[0], "https://") && !p.Etcd.TLS.Active() {
			p.Etcd.TLS.Enabled = true
		}
		return nil
	}
	here, isHere, err := devrecord.Here(dir)
	if err != nil {
		return &problem.Error{Exit: problem.Environment, What: "cannot read the record of newsvc dev: " + err.Error(), Fix: "--etcd 127.0.0.1:2379", Err: err}
	}
	_, runs := here.Services[p.Service]
	switch {
	case f.Env == "" && isHere && len(here.Etcd.Endpoints) > 0 && (own.from == "" || runs):
		p.Etcd.Endpoints, p.Prefix, p.How = here.Etcd.Endpoints, here.Etcd.Prefix, HowDev
	case own.from != "" || f.Env != "":
		p.Etcd, p.How = own.etcd, own.how()
	default:
		return p.only(live)
	}
	return nil
}

// only takes the newsvc dev that runs on this machine, if it is one; several that share an etcd are one.
func (p *Place) only(live []devrecord.Record) error {
	if len(live) == 0 {
		return nil
	}
	first := live[0]
	for _, r := range live[1:] {
		if !sharesAddress(r.Etcd.Endpoints, first.Etcd.Endpoints) || r.Etcd.Prefix != first.Etcd.Prefix {
			return several(live)
		}
	}
	p.Etcd.Endpoints, p.Prefix, p.How = first.Etcd.Endpoints, first.Etcd.Prefix, "the running newsvc dev in "+first.Root
	return nil
}

func several(live []devrecord.Record) error {
	lines := make([]string, len(live))
	for i, r := range live {
		lines[i] = fmt.Sprintf("%s (pid %d): etcd %s, prefix %s", r.Root, r.PID, strings.Join(r.Etcd.Endpoints, ","), r.Etcd.Prefix)
	}
	return &problem.Error{
		Exit: problem.Conflict, What: fmt.Sprintf("%d newsvc dev run on this machine, each with an etcd of its own", len(live)),
		At:  strings.Join(lines, "\n       "),
		Fix: "-C " + live[0].Root + "      or --etcd " + strings.Join(live[0].Etcd.Endpoints, ","),
	}
}

// check refuses what can't be used, in words of where it was said.
func (f Flags) check(p Place) error {
	if err := p.Etcd.Validate(); err != nil {
		fix := "--etcd 127.0.0.1:2379"
		if p.How == HowEnv {
			fix = "export " + EnvEtcd + "=127.0.0.1:2379"
		}
		return &problem.Error{Exit: problem.Usage, What: err.Error(), At: p.How, Fix: fix, Err: err}
	}
	if err := discovery.CheckPrefix(p.Prefix); err != nil {
		return &problem.Error{Exit: problem.Usage, What: "--prefix: " + err.Error(), Fix: "--prefix " + discovery.DefaultPrefix, Err: err}
	}
	return nil
}

func sharesAddress(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if bare(x) == bare(y) {
				return true
			}
		}
	}
	return false
}

// bare is an address without its scheme; localhost and 127.0.0.1 are one.
func bare(addr string) string {
	if i := strings.Index(addr, "://"); i >= 0 {
		addr = addr[i+3:]
	}
	if port, ok := strings.CutPrefix(addr, "localhost:"); ok {
		return "127.0.0.1:" + port
	}
	return addr
}

func split(list string) []string {
	var out []string
	for _, part := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ';' || r == ' ' }) {
		out = append(out, strings.TrimSpace(part))
	}
	return out
}
