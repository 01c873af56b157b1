package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/why"
	"github.com/newsvc/newsvc/framework/discovery"
)

func newWhy(g *globals) *cobra.Command {
	var where locate.Flags
	q := why.Query{}
	cmd := &cobra.Command{
		Use:         "why CALLEE",
		Short:       "why a service can't be called: what its callers see",
		Annotations: map[string]string{waits: "callers and instances are asked, and not all have answered yet"},
		Long: `Why asks running callers of CALLEE, by their admin servers, which instances they know, how old that is, how each connection
is doing, and why an instance is not used: held by the guard, ejected, draining, outside of the subset, not reachable. It
dials the instances itself, too, and looks for CALLEE below other prefixes. Callers are found in the registry and in the
record of a running newsvc dev; when none answers, the view is that of a new caller, and says so.

Exit 0: every caller has an instance to call; 4: one has none; 5: no instance of CALLEE is registered; 3: neither
etcd nor a caller answers.`,
		Example: `  newsvc why blogger-user
  newsvc why blogger-user --from gateway
  newsvc why blogger-user --admin 10.0.0.7:9001 -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("newsvc why takes the name of one service, not %d", len(args)), Fix: "newsvc why blogger-user"}
			}
			if err := discovery.CheckService(args[0]); err != nil {
				return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc ls      shows which services there are", Err: err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.From != "" && q.Admin != "" {
				return &problem.Error{Exit: problem.Usage, What: "--from and --admin exclude each other", Fix: "keep one of them"}
			}
			if err := checkTimeout(q.Timeout); err != nil {
				return err
			}
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			if q.Place, err = where.Find(cmd.Context(), dir); err != nil {
				return err
			}
			q.Callee = args[0]
			report, err := why.Ask(cmd.Context(), q)
			if err != nil {
				return err
			}
			if g.output == "json" {
				err = printJSON(cmd, report)
			} else {
				err = report.Write(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			return report.Err()
		},
	}
	where.Add(cmd.Flags())
	cmd.Flags().StringVar(&q.From, "from", "", "ask the instances of this `service` only")
	cmd.Flags().StringVar(&q.Admin, "admin", "", "ask the process whose admin server has this `address`")
	cmd.Flags().DurationVar(&q.Timeout, "timeout", 2*time.Second, "how long to wait for etcd")
	cmd.ValidArgsFunction = completeServices(&where)
	return cmd
}
