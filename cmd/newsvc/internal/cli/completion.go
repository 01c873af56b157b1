package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// completeWithin bounds what a shell waits for: who presses Tab wants to go on typing.
const completeWithin = 300 * time.Millisecond

func newCompletion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion",
		Short: "what makes a shell complete commands, services and methods",
		Long: `Completion prints what a shell needs to complete the commands and flags of newsvc, the names of services that are
registered, and their methods. Names come from the registry when they are asked for, within 300 ms, or not at all.`,
		Example: `  source <(newsvc completion bash)
  newsvc completion zsh > "${fpath[1]}/_newsvc"
  newsvc completion fish > ~/.config/fish/completions/newsvc.fish
  newsvc completion powershell | Out-String | Invoke-Expression`,
	}
	for shell, write := range map[string]func(*cobra.Command, io.Writer) error{
		"bash":       func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":        (*cobra.Command).GenZshCompletion,
		"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
		"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
	} {
		cmd.AddCommand(&cobra.Command{
			Use: shell, Short: "for " + shell, Long: "Prints the script that makes " + shell + " complete newsvc.", Example: "  newsvc completion " + shell,
			Args: func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return &problem.Error{Exit: problem.Usage, What: cmd.CommandPath() + " takes no arguments", Fix: cmd.CommandPath()}
				}
				return nil
			},
			RunE: func(cmd *cobra.Command, _ []string) error { return write(cmd.Root(), cmd.OutOrStdout()) },
		})
	}
	return cmd
}

type completer = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// choices completes the values of a flag that has few.
func choices(cmd *cobra.Command, flag string, values ...string) {
	// The error would be that there is no such flag, which completing it would show.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeServices completes the first argument as the name of a service that is registered.
func completeServices(where *locate.Flags) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		reg, err := openRegistry(ctx, *where)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer reg.Close()
		names, err := reg.Services(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return begins(names, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeCall completes a service, and then one of its methods.
func completeCall(where *locate.Flags) completer {
	services := completeServices(where)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return services(cmd, args, typed)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		return begins(methodsOf(ctx, *where, args[0]), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// methodsOf are the methods of a service; none when it does not tell in time.
func methodsOf(ctx context.Context, where locate.Flags, service string) []string {
	dir, err := os.Getwd()
	if err != nil {
		return nil
	}
	place, err := where.Find(ctx, dir)
	if err != nil {
		return nil
	}
	caller, err := call.Open(ctx, place, service, call.Options{})
	if err != nil {
		return nil
	}
	defer caller.Close()
	methods, err := caller.Learn(ctx, "", dir)
	if err != nil {
		return nil
	}
	return methods.Names()
}

func begins(words []string, typed string) []string {
	var out []string
	for _, w := range words {
		if strings.HasPrefix(w, typed) {
			out = append(out, w)
		}
	}
	return out
}
