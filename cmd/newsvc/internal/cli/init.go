package cli

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

func newInit(g *globals) *cobra.Command {
	var o scaffold.Options
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "start a workspace: several services in one module",
		Long: `Init makes DIR (default: this directory) a workspace: one go.mod, one tree of .proto files, one CI, and services below
services/, which "newsvc create" writes there.

In a repository that exists it adds what is missing and changes nothing. Files that are there but say something else are
listed, and make exit code 4; what they would have been is in .newsvc/base.txtar. An existing go.mod stays as it is until the
first service needs something of it.`,
		Example: `  newsvc init acme && cd acme && newsvc create blogger-user
  newsvc init .
  newsvc init . --dry-run`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			cwd, err := os.Getwd()
			if err != nil {
				return err
			}
			o.Cwd, o.From, o.Progress = cwd, g.dir, g.progress(cmd)
			o.FrameworkEnv = os.Getenv("NEWSVC_FRAMEWORK")
			o.Build = buildinfo.Read()
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			res, err := scaffold.Init(cmd.Context(), o, dir)
			if res.Kind != "" {
				err = cmp.Or(err, g.initialized(cmd, res, err == nil))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.Module, "module", "", "`path` of the Go module (default: that of the go.mod there, else example.com/DIR)")
	cmd.Flags().StringVar(&o.FrameworkFlag, "framework", "", "`version` of newsvc to require, or the directory of a checkout (default: the one this newsvc is from)")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "list the files, write nothing")
	return cmd
}

func oneDir(_ *cobra.Command, args []string) error {
	if len(args) == 1 && args[0] == "" { // an unset variable of a script, mostly
		return &problem.Error{Exit: problem.Usage, What: `"" is not a directory`, Fix: "newsvc init .      (here), or newsvc init NAME"}
	}
	if len(args) <= 1 {
		return nil
	}
	return &problem.Error{
		Exit: problem.Usage, What: fmt.Sprintf("newsvc init takes one directory, not %d: %s", len(args), strings.Join(args, " ")),
		Fix: "newsvc init " + quoted(args[0]),
	}
}

// initialized prints the result; conflicts are printed as the error they are.
func (g *globals) initialized(cmd *cobra.Command, res scaffold.Result, ready bool) error {
	out := cmd.OutOrStdout()
	if g.output == "json" {
		return printJSON(cmd, res)
	}
	if res.DryRun {
		for _, f := range res.Files {
			fmt.Fprintf(out, "create %s\n", joined(res.Root, f))
		}
		for _, f := range res.Kept {
			fmt.Fprintf(out, "conflict %s\n", joined(res.Root, f))
		}
		return nil
	}
	if ready && len(res.Files) > 0 {
		cd := ""
		if res.Dir != "." {
			cd = "  cd " + quoted(res.Dir) + "\n"
		}
		fmt.Fprintf(g.progress(cmd), `%s is a workspace.

%s  newsvc create blogger-user      # a service, in services/blogger-user
  newsvc dev                      # etcd and all services

`, res.Dir, cd)
		warnOfPath(cmd.Context(), g.progress(cmd))
	}
	fmt.Fprintln(out, res.Dir)
	return nil
}
