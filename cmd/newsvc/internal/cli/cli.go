// Package cli is the command tree of newsvc: flags, help texts, what goes to stdout and what to stderr, exit codes. The
// commands themselves are in the packages beside it.
//
// Results go to stdout, progress and errors to stderr, and no command ever asks a question.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/dev"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// InterruptedError is the cause of a context that a signal ended.
type InterruptedError struct{ Signal os.Signal }

// Error names the signal.
func (i InterruptedError) Error() string { return fmt.Sprintf("ended by signal: %v", i.Signal) }

// ExitCode is 128 plus the number of the signal, as shells have it.
func (i InterruptedError) ExitCode() int {
	if s, ok := i.Signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return problem.Failed
}

// Run executes one command line, without the program's name, and returns the exit code.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(args)
	root.SetArgs(args)
	root.SetIn(stdin)
	out := &result{w: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	err := explain(root.ExecuteContext(ctx), out.err)
	out.waiting.end()
	var signal InterruptedError
	if err != nil && errors.As(context.Cause(ctx), &signal) && errors.Is(err, context.Canceled) {
		err = signal
	}
	if wantsJSON(args) {
		problem.PrintJSON(stderr, err)
	} else {
		problem.Print(stderr, err)
	}
	return problem.Code(err)
}

// result is stdout. It remembers that something could not be written: a result that got lost is no success, and most of
// what prints does not look.
type result struct {
	w       io.Writer
	err     error
	waiting *waiting
}

// Write passes on what is printed.
func (r *result) Write(p []byte) (int, error) {
	r.waiting.end()
	n, err := r.w.Write(p)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n, err
}

// Unwrap is stdout itself, for what newsvc dev tells as it goes: nobody loses a result when nobody reads that any longer.
func (r *result) Unwrap() io.Writer { return r.w }

// explain says in our words what the system says of a command's surroundings. lost is why stdout could not be written.
func explain(err, lost error) error {
	var call *os.SyscallError
	var p *problem.Error
	switch {
	case lost != nil && (err == nil || err.Error() == "" || errors.Is(err, lost)):
		return &problem.Error{What: "the result cannot be written to stdout: " + reasonOf(lost), Fix: "write it elsewhere: newsvc ... >FILE", Err: lost}
	case errors.As(err, &call) && call.Syscall == "getwd" && !errors.As(err, &p):
		return &problem.Error{Exit: problem.Environment, What: "the current directory is gone: " + reasonOf(call), Fix: "cd ~", Err: err}
	}
	return err
}

// reasonOf is what the system said, without the call that it said it to.
func reasonOf(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no.Error()
	}
	return err.Error()
}

// globals are the flags that every command has.
type globals struct {
	dir    string
	output string
	quiet  bool
	args   []string // the whole command line, without the program's name
}

// newRoot is the command tree. One command line is run by it: the flags are in its variables.
func newRoot(args []string) *cobra.Command {
	g := &globals{args: args}
	root := &cobra.Command{
		Use:   "newsvc",
		Short: "create and run gRPC services that find each other by name",
		Long: `newsvc creates gRPC services that register in etcd and call each other by name.

  newsvc create blogger-user      write a service that builds, tests, runs and registers
  newsvc dev                      run the services below this directory, with an etcd of their own
  newsvc generate                 after a change of a .proto file
  newsvc add rpc GetUser          a method: proto, stub and test; or add client, to call others
  newsvc ls                       what is registered
  newsvc call blogger-user Ping   call a method, by name as services do
  newsvc why blogger-user         what its callers see, and why an instance is not used
  newsvc doctor                   what is wrong with this machine, this project, the registry

Results go to stdout, progress and errors to stderr. No command asks questions.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          g.noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("dir") {
				if err := g.enterDir(); err != nil {
					return err
				}
			}
			if !slices.Contains([]string{"text", "json"}, g.output) {
				return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("--output %q is unknown", g.output), Fix: "--output text, or --output json"}
			}
			g.wait(cmd)
			return nil
		},
	}
	root.PersistentFlags().StringVarP(&g.dir, "dir", "C", ".", "work in this `directory`")
	root.PersistentFlags().StringVarP(&g.output, "output", "o", "text", "`form` of the result on stdout: text or json")
	choices(root, "output", "text", "json")
	root.PersistentFlags().BoolVarP(&g.quiet, "quiet", "q", false, "no progress on stderr, errors only")
	root.SetFlagErrorFunc(g.flagError)
	root.SetHelpCommand(newHelp(g))
	root.SetHelpFunc(printHelp)
	root.AddCommand(
		newCreate(g),
		newInit(g),
		dev.Command(),
		newGenerate(g),
		newAdd(g),
		newLs(g),
		newCall(g),
		newWhy(g),
		newCompletion(),
		newEtcdRoles(g),
		newVersion(g),
		newDoctor(g),
	)
	root.AddCommand(topics()...)
	g.complete(root)
	return root
}

// enterDir makes the directory of -C the current one, so that it holds for whatever a command starts too.
func (g *globals) enterDir() error {
	if err := os.Chdir(g.dir); err != nil {
		p := &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("-C %q is not a directory to work in", g.dir), Fix: "mkdir -p " + quote(g.dir), Err: err}
		if info, err := os.Stat(g.dir); g.dir == "" || err == nil && !info.IsDir() {
			p.Fix = g.instead(g.dir, filepath.Dir(g.dir)) // of "" that is here
		}
		return p
	}
	return nil
}

// printJSON prints the result of a command as other programs read it.
func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (g *globals) progress(cmd *cobra.Command) io.Writer {
	if g.quiet {
		return io.Discard
	}
	return cmd.ErrOrStderr()
}
