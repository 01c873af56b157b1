package cli

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// plain is what means nothing to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._-]*$`)

// roles is what a service needs in etcd, with its user and role, which have its name.
type roles struct {
	Service     string            `json:"service"`
	Permissions []etcd.Permission `json:"permissions"`
	Password    bool              `json:"password"`
}

func newEtcdRoles(g *globals) *cobra.Command {
	var prefix, config string
	var leaders, leaderships, locks []string
	var password bool
	cmd := &cobra.Command{
		Use:   "etcd-roles SERVICE",
		Short: "the user and role that a service needs in etcd, as etcdctl commands",
		Long: `Etcd-roles prints the etcdctl commands that make a user and a role with what a service needs in etcd, and nothing
more: to write its own instances and to read those of all services, and with the flags below to read its settings, to lead
and to lock. It changes nothing by itself.

The user has the service's name and no password: the service proves who it is by a client certificate with that common
name (etcd.tls), which costs etcd less than passwords do. With --password, etcdctl asks for one; the service gets it as
etcd.username and etcd.password. Permissions count once authentication is on: etcdctl auth enable, with a user root.`,
		Example: `  newsvc etcd-roles user-service
  newsvc etcd-roles user-service --prefix /newsvc/eu --password
  newsvc etcd-roles report-service --leader nightly --config-prefix /newsvc/config/report-service
  newsvc etcd-roles user-service | sh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("newsvc etcd-roles takes the name of one service, not %d", len(args)), Fix: cmd.CommandPath() + " user-service"}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := names.Parse(args[0])
			if err != nil {
				return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: cmd.CommandPath() + " user-service", Err: err}
			}
			for _, text := range slices.Concat([]string{prefix, config}, leaders, leaderships, locks) {
				if !plain.MatchString(text) {
					return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%q is no name or prefix; letters, digits and / . _ - are accepted, as shells read what is printed", text), Fix: cmd.CommandPath() + " --help"}
				}
			}
			access, err := etcd.Access(prefix, n.Service)
			if err != nil {
				return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "--prefix " + discovery.DefaultPrefix, Err: err}
			}
			r := roles{Service: n.Service, Permissions: access, Password: password}
			coordination := prefix + "-coordination"
			for _, name := range leaders { // stack.Leader puts the service's name before that
				leaderships = append(leaderships, n.Service+"."+name)
			}
			for _, name := range leaderships {
				r.Permissions = append(r.Permissions, etcd.Permission{Prefix: coordination + "/leader/" + name + "/", Write: true})
			}
			for _, name := range locks {
				r.Permissions = append(r.Permissions, etcd.Permission{Prefix: coordination + "/lock/" + name + "/", Write: true})
			}
			if config != "" {
				err := discovery.CheckPrefix(config)
				if err == nil && (within(config, prefix) || within(config, coordination)) {
					err = fmt.Errorf("settings below %q and what lies below %q would lie within each other", config, prefix)
				}
				if err != nil {
					return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "--config-prefix /newsvc/config/" + n.Service, Err: err}
				}
				r.Permissions = append(r.Permissions, etcd.Permission{Prefix: config + "/"})
			}
			if g.output == "json" {
				return printJSON(cmd, r)
			}
			r.print(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", discovery.DefaultPrefix, "discovery.prefix of the service: the `prefix` of all services in etcd")
	cmd.Flags().StringVar(&config, "config-prefix", "", "app.config_prefix of the service: it also reads settings below this `prefix`")
	cmd.Flags().StringArrayVar(&leaders, "leader", nil, "the service also leads under this `name`, as stack.Leader takes it; may be repeated")
	cmd.Flags().StringArrayVar(&leaderships, "leadership", nil, "the service also leads under this `name`, as Coordinator.Lead takes it, without the service's; may be repeated")
	cmd.Flags().StringArrayVar(&locks, "lock", nil, "the service also takes the lock of this `name`; may be repeated")
	cmd.Flags().BoolVar(&password, "password", false, "the user has a password, which etcdctl asks for")
	return cmd
}

// within says whether one of two prefixes lies in the other.
func within(a, b string) bool {
	return strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/")
}

// print writes the commands.
func (r roles) print(w io.Writer) {
	fmt.Fprintf(w, "etcdctl role add %s\n", r.Service)
	for _, p := range r.Permissions {
		fmt.Fprintf(w, "etcdctl role grant-permission %s %s %s --prefix\n", r.Service, p.Kind(), p.Prefix)
	}
	without := " --no-password"
	if r.Password {
		without = ""
	}
	fmt.Fprintf(w, "etcdctl user add %s%s\n", r.Service, without)
	fmt.Fprintf(w, "etcdctl user grant-role %s %s\n", r.Service, r.Service)
}
