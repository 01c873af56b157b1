package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func newGenerate(g *globals) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "bring the Go code of the .proto files up to date",
		Long: `Generate compiles the .proto files below proto/ and writes their Go code beside them: messages and gRPC stubs, the
same bytes as protoc-gen-go and protoc-gen-go-grpc write. It needs no protoc, no buf and no network. Imports of
google/protobuf, google/api, google/rpc, buf/validate and newsvc/auth are built in.

The Go import path follows from the module and the directory; a go_package option in a file wins.`,
		Example: `  newsvc generate
  newsvc generate --check         # in CI: exit 4 when something is out of date`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			res, err := generate.Run(cmd.Context(), generate.Options{Dir: dir, Check: check})
			if err != nil && problem.Code(err) != problem.Conflict {
				return err
			}
			if g.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return errors.Join(enc.Encode(res), err)
			}
			verb := "update"
			if check {
				verb = "stale"
			}
			for _, f := range res.Updated {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", verb, f)
			}
			if err == nil {
				fmt.Fprintf(g.progress(cmd), "%d updated, %d unchanged\n", len(res.Updated), res.Same)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; exit 4 when files are out of date")
	return cmd
}

// noArgs refuses arguments of commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]), Fix: cmd.CommandPath()}
}
