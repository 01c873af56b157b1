// Command etcd is the registry of the benchmark. It is a program of its own because the server brings packages along
// that register themselves, such as a compressor, which would then be part of what is measured.
//
// It prints its address as JSON and ends with its standard input. With -dir and -listen it can be started again on its
// data and its address.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/newsvc/newsvc/framework/devetcd"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(ctx context.Context, args []string, in io.Reader, out, stderr io.Writer) int {
	var c devetcd.Config // with fsync, as in production
	fs := flag.NewFlagSet("etcd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.Dir, "dir", "", "where the data is; empty for a temporary directory")
	fs.StringVar(&c.ClientAddr, "listen", "", "where clients are served; empty for a free port of this machine")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	s, err := devetcd.Start(ctx, c)
	if err == nil {
		err = json.NewEncoder(out).Encode(map[string]string{"addr": s.Addr()})
		if err == nil {
			_, err = io.Copy(io.Discard, in)
		}
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "etcd:", err)
		return 1
	}
	return 0
}
