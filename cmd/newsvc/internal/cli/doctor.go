package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"os"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func newDoctor(g *globals) *cobra.Command {
	var where locate.Flags
	cmd := &cobra.Command{
		Use:         "doctor",
		Short:       "look for what is wrong with this machine, this project and the registry",
		Annotations: map[string]string{waits: "not all checks are done; what does not answer is given up after seconds"},
		Long: `Doctor looks at what newsvc and the project in the current directory depend on, and prints each finding
with a remedy to paste. It changes nothing, asks nothing, and ends after 5 seconds at the latest.

  go          the go command, and whether GOTOOLCHAIN lets it fetch what the project needs
  path        commands that go install puts away are found
  project     newsvc.yaml can be read
  versions    newsvc, the framework of the project and the template that wrote it fit together
  replace     the directories that go.mod refers to are there
  plugins     the versions of the generators that go.mod and buf.gen.yaml name
  generated   the Go code of the .proto files is up to date
  copies      copied .proto files are what their sources are, where those can be read
  rpcs        every method of the .proto files is written in Go
  config      the framework's settings of the service can be read
  deploy      Kubernetes gives pods longer to end than the service may take
  ports       nothing listens where "go run ." would
  advertise   no instance registers an address that only its own machine can reach
  etcd        it can be reached; where it was looked for
  clock       etcd's clock and this one are less than the life of a lease apart
  instances   every registered address answers
  leases      every lease in etcd holds a key
  dev         what newsvc dev runs on this machine is registered, and not stopped

The exit code is 4 when there is a finding, problem or warning; checks that cannot run are skipped, and say why.`,
		Example: `  newsvc doctor
  newsvc doctor --etcd 10.0.0.5:2379
  newsvc doctor -o json           # "checks", "problems" and "warnings", for a weekly job`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			report, err := doctor.Run(cmd.Context(), doctor.Options{
				Dir: dir, Environ: os.Environ(), Build: buildinfo.Read(),
				Locate: func(ctx context.Context) (doctor.Registry, error) {
					p, err := where.Find(ctx, dir)
					r := doctor.Registry{Etcd: p.Etcd, Prefix: p.Prefix, How: p.How, Records: p.Devs}
					for _, d := range p.Devs {
						r.Devs = append(r.Devs, cmp.Or(d.Etcd.Owner, d.PID))
					}
					return r, err
				},
			})
			if err != nil {
				return err
			}
			if g.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				report.Print(cmd.OutOrStdout())
			}
			if err == nil && report.Findings() {
				return &problem.Error{Exit: problem.Conflict} // the report said it all
			}
			return err
		},
	}
	where.Add(cmd.Flags())
	return cmd
}
