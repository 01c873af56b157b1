// Command gomod writes templates/gomod: the go.mod and go.sum of a new project without the lines of the framework.
// `make generate` runs it from the root of the repository, after any change of the dependencies:
//
//	go run ./cmd/newsvc/internal/scaffold/gomod
//
// It renders a project, lets `go mod tidy` complete it, and keeps the result. That needs the network, or a module cache
// that has everything; `newsvc create` then needs neither.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

func main() {
	out := flag.String("out", "templates/gomod", "directory to write to")
	flag.Parse()
	if err := run(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "gomod:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, kind := range []string{scaffold.Service, scaffold.Gateway} {
		mod, sum, err := scaffold.Tidy(ctx, root, kind)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, kind+".mod"), mod, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, kind+".sum"), sum, 0o644); err != nil {
			return err
		}
	}
	return nil
}
