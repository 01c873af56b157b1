package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addclient"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func newAdd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add",
		Short: "add a method to a service, or a service that it calls",
		Long: `Add changes a service that exists: "add rpc" writes a method, "add client" lets the service call another one.

Both change no Go code of yours but one marked list in main.go, write everything or nothing, and have nothing to do the
second time.`,
		Example: `  newsvc add rpc GetUser
  newsvc add client blogger-post`,
		Args: g.noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAddRPC(g), newAddClient(g))
	return cmd
}

func newAddRPC(g *globals) *cobra.Command {
	var o addrpc.Options
	cmd := &cobra.Command{
		Use:         "rpc NAME",
		Short:       "add a method: proto, generated code, a stub and its test",
		Annotations: map[string]string{waits: pluginsWork},
		Long: `Add rpc writes a method called NAME, and its two messages, into the .proto file, generates, and makes two new files: a
stub that answers Unimplemented, and a test that holds only while the stub stands. It builds at once.

The proto is edited by its syntax tree: comments, blank lines and line ends survive. A method that the proto has
already gets its stub.`,
		Example: `  newsvc add rpc GetUser
  newsvc add rpc WatchUsers --stream server
  newsvc add rpc Reset --service AdminService --dry-run`,
		Args: oneArg("the name of the method", "newsvc add rpc GetUser"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			o.Dir, o.Name = dir, args[0]
			res, err := addrpc.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd, res)
			}
			var lines []change
			for _, c := range res.Changes {
				lines = append(lines, change(c))
			}
			g.changed(cmd, lines, o.DryRun)
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Service, "service", "", "proto `service` that gets the method; needed when there are several")
	cmd.Flags().StringVar(&o.Stream, "stream", "none", "which `side` sends more than one message: none, server, client or bidi")
	choices(cmd, "stream", "none", "server", "client", "bidi")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "list the files, write nothing")
	return cmd
}

func newAddClient(g *globals) *cobra.Command {
	var o addclient.Options
	cmd := &cobra.Command{
		Use:         "client NAME",
		Short:       "call another service by its name",
		Annotations: map[string]string{waits: pluginsWork},
		Long: `Add client lets this service call the service NAME. It adds one line between the marks "newsvc:clients" and
"newsvc:end" in main.go, and the policy of the calls to config.yaml, as a comment. Every constructor may then take the
generated client as a parameter.

The callee's .proto is looked for in this module, beside it, and in the modules of go.work and go.mod but the
framework; --proto says where it is. Its Go code is imported when its module is in the graph: it is this one, go.mod
requires it, or the go.work that is in force uses both. If not, the .proto is copied, with its source and hash on top,
and generated here; a second run brings the copy up to date.`,
		Example: `  newsvc add client blogger-post
  newsvc add client blogger-post --proto ../blogger-post/proto`,
		Args: oneArg("the name of the service to call", "newsvc add client blogger-post"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			o.Dir, o.Name = dir, args[0]
			res, err := addclient.Run(cmd.Context(), o)
			for _, line := range res.Paste {
				if g.output != "json" {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
			}
			if err != nil && len(res.Paste) == 0 {
				return err
			}
			if g.output == "json" {
				return errors.Join(printJSON(cmd, res), err)
			}
			if err != nil {
				return err
			}
			var lines []change
			for _, c := range res.Changes {
				lines = append(lines, change(c))
			}
			if g.changed(cmd, lines, o.DryRun) {
				fmt.Fprintf(g.progress(cmd), "\nEvery constructor may now take a parameter of type %s, of %s.\n", res.Client, res.Import)
				if alias, client, ok := strings.Cut(strings.TrimSuffix(res.Client, "Client"), "."); ok {
					fmt.Fprintf(g.progress(cmd), "Where e2e_test.go comes to such a call, it needs a callee beside the service, a fake:\n"+
						"  apptest.Fake(%q, func(s grpc.ServiceRegistrar) { %s.Register%sServer(s, fake{}) }),\n", o.Name, alias, client)
				}
				if res.Hint != "" {
					fmt.Fprintf(g.progress(cmd), "note: %s\n", res.Hint)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Proto, "proto", "", "`directory` of the callee's .proto files")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "list the files, write nothing")
	return cmd
}

// change is one file that a command wrote.
type change struct {
	Action string
	Path   string
	Note   string
}

// changed lists files on stdout, and reports whether anything was written.
func (g *globals) changed(cmd *cobra.Command, list []change, dryRun bool) bool {
	for _, c := range list {
		if c.Note != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s      %s\n", c.Action, c.Path, c.Note)
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", c.Action, c.Path)
	}
	switch {
	case len(list) == 0:
		fmt.Fprintln(cmd.OutOrStdout(), "unchanged")
	case dryRun:
		fmt.Fprintln(g.progress(cmd), "dry run: nothing is written")
	default:
		return true
	}
	return false
}

// oneArg wants exactly one argument.
func oneArg(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return &problem.Error{Exit: problem.Usage, What: cmd.CommandPath() + " needs " + what, Fix: example}
		case 1:
			return nil
		}
		return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%s takes one name, got %d", cmd.CommandPath(), len(args)), Fix: cmd.CommandPath() + " " + args[0]}
	}
}
