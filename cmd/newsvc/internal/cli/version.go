package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
	"github.com/newsvc/newsvc/templates"
)

// versions is what "newsvc version -o json" prints.
type versions struct {
	buildinfo.Info
	// Framework is what a project created here would refer to; empty when that cannot be told.
	Framework string `json:"framework,omitempty"`
	// Project is what the project in the current directory refers to; empty outside a project.
	Project   string `json:"project,omitempty"`
	Templates int    `json:"templates"`
}

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "versions of newsvc, of the framework and of Go",
		Long: `Version tells what this newsvc is, which framework a new project would refer to, which one the project in the
current directory refers to, and the Go release newsvc was built with. A warning on stderr tells when
the directory where go install puts commands is not in PATH.`,
		Example: `  newsvc version
  newsvc version -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			v := versions{Info: buildinfo.Read(), Templates: templates.Version, Project: scaffold.ProjectFramework(dir)}
			fw, err := scaffold.FindFramework(scaffold.FrameworkQuery{Env: os.Getenv("NEWSVC_FRAMEWORK"), Build: v.Info, Cwd: dir})
			if err == nil {
				v.Framework = fw.String()
			}
			if bin, ok := doctor.GoBin(cmd.Context(), os.Environ()); !ok {
				warnOfGoBin(cmd.ErrOrStderr(), bin)
			}
			out := cmd.OutOrStdout()
			if g.output == "json" {
				return printJSON(cmd, v)
			}
			fmt.Fprintf(out, "newsvc %s\n", v.Version)
			for _, line := range []struct{ what, value string }{
				{"sum", v.Sum}, {"commit", v.commit()}, {"framework", v.Framework}, {"project", v.Project},
				{"templates", fmt.Sprint(v.Templates)}, {"go", v.Go + " " + v.Platform},
			} {
				if line.value != "" {
					fmt.Fprintf(out, "  %-9s %s\n", line.what, line.value)
				}
			}
			return nil
		},
	}
}

func (v versions) commit() string {
	if v.Dirty {
		return v.Commit + " (with changes)"
	}
	return v.Commit
}
