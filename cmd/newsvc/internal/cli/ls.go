package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/discovery"
)

func newLs(g *globals) *cobra.Command {
	var where locate.Flags
	var watch bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:         "ls [NAME|GLOB]",
		Short:       "what is registered",
		Annotations: map[string]string{waits: "no answer from etcd yet; how long to wait is --timeout"},
		Long: `Ls lists the instances that are registered in etcd: of all services, of the one called NAME, or of those whose names
match GLOB. It reads with the source that services find each other by, and writes nothing.

Columns show "-" where an instance does not say, as those of other programs mostly don't. With --watch there is one line
for each event: "gone after draining" is an instance that was stopped in order; "gone without draining" is one that was
killed, cut off or frozen for longer than its lease. An etcd that is not up yet is waited for, with --timeout for as long as
that says.

Nothing registered is exit 0, and exit 5 when a NAME was given.`,
		Example: `  newsvc ls
  newsvc ls 'blogger-*'
  newsvc ls blogger-user --watch
  newsvc ls -o json --env prod`,
		Args: func(cmd *cobra.Command, args []string) error { return atMostOne(cmd, args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			pattern := ""
			if len(args) == 1 {
				pattern = args[0]
			}
			if err := checkPattern(pattern); err != nil {
				return err
			}
			if err := checkTimeout(timeout); err != nil {
				return err
			}
			if watch {
				limit := time.Duration(0)
				if cmd.Flags().Changed("timeout") {
					limit = timeout
				}
				return g.watch(cmd, where, pattern, limit)
			}
			reg, err := openRegistry(cmd.Context(), where)
			if err != nil {
				return err
			}
			defer reg.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return g.list(ctx, cmd, reg, pattern)
		},
	}
	where.Add(cmd.Flags())
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, with a line for each event, until Ctrl-C")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for etcd")
	cmd.ValidArgsFunction = completeServices(&where)
	return cmd
}

// openRegistry finds the etcd to talk to and makes a client for it.
func openRegistry(ctx context.Context, where locate.Flags) (*registryview.Registry, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	place, err := where.Find(ctx, dir)
	if err != nil {
		return nil, err
	}
	return registryview.Open(place)
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return &problem.Error{
		Exit: problem.Usage, What: fmt.Sprintf("%s takes one name or pattern, not %d", cmd.CommandPath(), len(args)),
		Fix: cmd.CommandPath() + " " + quote(args[0]) + "      a pattern needs quotes, or the shell replaces it by names of files: " + cmd.CommandPath() + " 'blogger-*'",
	}
}

// checkTimeout refuses a time in which nobody can answer: that nobody did would be blamed on others.
func checkTimeout(d time.Duration) error {
	if d > 0 {
		return nil
	}
	return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("--timeout %s leaves no time to answer", d), Fix: "--timeout 5s"}
}

func checkPattern(pattern string) error {
	if registryview.IsPattern(pattern) {
		if _, err := path.Match(pattern, ""); err != nil {
			return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%q is no pattern: a bracket is not closed", pattern), Fix: "newsvc ls 'blogger-*'", Err: err}
		}
		return nil
	}
	if err := discovery.CheckService(pattern); err != nil {
		return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc ls", Err: err}
	}
	return nil
}

func (g *globals) list(ctx context.Context, cmd *cobra.Command, reg *registryview.Registry, pattern string) error {
	found, err := reg.List(ctx, pattern)
	if err != nil {
		return err
	}
	if len(found) == 0 && !registryview.IsPattern(pattern) {
		return reg.Unknown(ctx, pattern, "newsvc ls "+pattern)
	}
	rows := registryview.Rows(found)
	if g.output == "json" {
		return printJSON(cmd, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintf(g.progress(cmd), "nothing is registered in %s\n", reg.Place)
	}
	return registryview.WriteTable(cmd.OutOrStdout(), rows)
}

// knockAgain is how often --watch asks for an etcd that is not up yet.
const knockAgain = 500 * time.Millisecond

// watch waits for etcd, and prints events until Ctrl-C. Which etcd it is, is found anew each time: a newsvc dev that starts
// meanwhile may have one elsewhere. A limit of 0 is none.
func (g *globals) watch(cmd *cobra.Command, where locate.Flags, pattern string, limit time.Duration) error {
	ctx := cmd.Context()
	if limit > 0 {
		within, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = within
	}
	tick := time.NewTicker(knockAgain)
	defer tick.Stop()
	var last error
	say := func() {}
	for said := ""; ; {
		reg, err := openRegistry(cmd.Context(), where)
		if err != nil {
			return err
		}
		place := reg.Place.String()
		if place != said {
			said = place
			say = sync.OnceFunc(func() {
				fmt.Fprintf(g.progress(cmd), "no answer from %s yet; waiting for it - Ctrl-C to stop\n", place)
			})
		}
		silent := time.AfterFunc(patience, say) // one that is frozen refuses nothing
		_, err = reg.Services(ctx)
		silent.Stop()
		if err == nil {
			defer reg.Close() //nolint:gocritic // the loop ends here
			return g.follow(cmd, reg, pattern)
		}
		_ = reg.Close()
		if cause := context.Cause(cmd.Context()); cause != nil {
			return cause
		}
		switch {
		case ctx.Err() != nil && last != nil:
			return last // this one was only cut short
		case !errors.Is(err, registryview.ErrAway) || ctx.Err() != nil:
			return err
		}
		last = err
		say()
		select {
		case <-ctx.Done():
			if cause := context.Cause(cmd.Context()); cause != nil {
				return cause
			}
			return err
		case <-tick.C:
		}
	}
}

// follow prints events until Ctrl-C.
func (g *globals) follow(cmd *cobra.Command, reg *registryview.Registry, pattern string) error {
	fmt.Fprintf(g.progress(cmd), "watching %s - Ctrl-C to stop\n", reg.Place)
	enc := json.NewEncoder(cmd.OutOrStdout())
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	return reg.Follow(ctx, pattern, func(e registryview.Event) {
		var err error
		if g.output == "json" {
			err = enc.Encode(e)
		} else {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), e)
		}
		if err != nil { // who read the lines is gone
			cancel(err)
		}
	})
}
