package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// pluginsWork is what generating waits for when it takes long.
const pluginsWork = "the plugins of buf.gen.yaml are at work; what go tool has to build first takes a while"

func newGenerate(g *globals) *cobra.Command {
	var o generate.Options
	var export string
	cmd := &cobra.Command{
		Use:         "generate [PATH...]",
		Short:       "bring the Go code of the .proto files up to date",
		Annotations: map[string]string{waits: pluginsWork},
		Long: `Generate compiles the .proto files below proto/ and writes their Go code beside them: messages and gRPC stubs. It needs
no protoc, no buf and no network. With PATHs, files or directories, it generates from those only.

It reads buf.gen.yaml and writes the same bytes as "buf generate"; an option there that it does not implement is an
error that names the line. Plugins are the tools that go.mod pins: they run inside newsvc when it was built with the
same release, and by "go tool" otherwise. Without a buf.gen.yaml the Go import path follows from the module and the
directory, and a go_package option in a file wins.

Imports of google/protobuf, google/api, google/rpc, buf/validate and newsvc/auth are built in. For buf, which would ask
a registry for them, --export-deps writes them into a directory that buf.yaml names as a module: third_party in a
created project. After that, buf needs no network.

A file that carries the line "Code generated ... DO NOT EDIT." is rewritten; any other is refused, with exit code 4.
Nothing is ever deleted. Either all files are written or none.`,
		Example: `  newsvc generate
  newsvc generate --check         # in CI: exit 4 when something is out of date
  newsvc generate --export-deps third_party`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			o.Dir, o.Paths = dir, args
			if cmd.Flags().Changed("export-deps") {
				if len(args) > 0 || o.Check {
					return &problem.Error{Exit: problem.Usage, What: "--export-deps goes with neither PATHs nor --check", Fix: "newsvc generate --export-deps " + export}
				}
				res, err := generate.Export(o, export)
				return g.generated(cmd, o, res, err)
			}
			res, err := generate.Run(cmd.Context(), o)
			if err = g.generated(cmd, o, res, err); err == nil && g.output != "json" {
				g.unwritten(cmd, dir)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&o.Check, "check", false, "write nothing; exit 4 when files are out of date")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "list what would be written, write nothing")
	cmd.Flags().StringVar(&export, "export-deps", "", "write the built-in imports to this `directory`, for buf, and generate nothing")
	return cmd
}

// generated prints the result; a person's decision (exit code 4) comes with one.
func (g *globals) generated(cmd *cobra.Command, o generate.Options, res generate.Result, err error) error {
	if err != nil && problem.Code(err) != problem.Conflict {
		return err
	}
	if g.output == "json" {
		return errors.Join(printJSON(cmd, res), err)
	}
	if len(res.Edited) > 0 {
		return err // nothing was written
	}
	verb := "update"
	if o.Check {
		verb = "stale"
	}
	for _, f := range res.Updated {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", verb, f)
	}
	for _, f := range res.Orphans {
		if o.Check {
			fmt.Fprintf(cmd.OutOrStdout(), "orphan %s\n", f)
			continue
		}
		fmt.Fprintf(g.progress(cmd), "note: %s has lost its source; when nobody needs it: rm %s\n", f, f)
	}
	switch n := len(res.Updated); {
	case err != nil:
	case o.DryRun:
		fmt.Fprintf(g.progress(cmd), "dry run: %d to update, %d unchanged, nothing is written\n", n, res.Same)
	default:
		fmt.Fprintf(g.progress(cmd), "%d updated, %d unchanged\n", n, res.Same)
	}
	if res.Hint != "" {
		fmt.Fprintf(g.progress(cmd), "note: %s\n", res.Hint)
	}
	return err
}

// unwritten tells of methods that the .proto files have and the Go code has not.
func (g *globals) unwritten(cmd *cobra.Command, dir string) {
	missed, err := addrpc.FindUnwritten(cmd.Context(), dir)
	if err != nil {
		return // the Go code may be half-way to what was generated
	}
	for _, m := range missed {
		fmt.Fprintf(g.progress(cmd), "note: %s; a stub: %s\n", m, m.Add)
	}
}

// noArgs refuses arguments of commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]), Fix: cmd.CommandPath()}
}
