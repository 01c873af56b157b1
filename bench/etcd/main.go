// Command etcd is the registry of the benchmark. It is a program of its own because the server brings packages along
// that register themselves, such as a compressor, which would then be part of what is measured.
//
// It prints its address as JSON and ends with its standard input.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/newsvc/newsvc/framework/devetcd"
)

func main() { os.Exit(run(context.Background(), os.Stdin, os.Stdout, os.Stderr)) }

func run(ctx context.Context, in io.Reader, out, stderr io.Writer) int {
	s, err := devetcd.Start(ctx, devetcd.Config{}) // with fsync, as in production
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
