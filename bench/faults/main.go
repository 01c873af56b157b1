// Command faults puts newsvc, etcd's own naming resolver and the recipe of many articles under the faults of the suite in
// framework/discovery/faulttest, side by side, and writes docs/faults.md. It runs every process of that by itself, on
// loopback, and takes about ten minutes; progress goes to standard error.
//
// It exits with 1 when newsvc lost a call or was late, or when a fault could not be proven.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

func main() {
	if code, ran := faulttest.Main(adapters()...); ran {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// retries is how often a row is run again when the machine was too busy for it to say anything.
const retries = 2

func adapters() []faulttest.Adapter {
	return []faulttest.Adapter{newsvc.Adapter(), naming(), recipe()}
}

// about says what stands in the columns.
func about() map[string]string {
	return map[string]string{
		newsvc.Name: "this repository with its defaults, but for the shortened times above.",
		"naming": "etcd's own `client/v3/naming` as its documentation shows it: an endpoint with a lease that is kept alive, its resolver, " +
			"round robin, calls that wait for a server. The package has no registrar; the usual loop around it announces anew when the lease is lost.",
		"recipe": "the design that many articles show, written anew on the current gRPC: a key for each address, looked at once per TTL; a resolver " +
			"that lists, then watches. It is kinder than the originals in several ways, named in [recipe.go](../bench/faults/recipe.go).",
	}
}

// settings are the flags.
type settings struct {
	only     *regexp.Regexp
	adapters []string
	page     string
	log      string
	list     bool
	stdout   io.Writer
	stderr   io.Writer
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stdout, stderr)
	if err != nil {
		return 2
	}
	if s.list {
		for _, r := range faulttest.RowsMatching(s.only) {
			fmt.Fprintf(stdout, "%-32s %-12s %s\n", r.ID, strings.Join(r.Covers, ", "), r.Fault)
		}
		return 0
	}
	ok, err := s.all(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "faults:", err)
		return 1
	}
	if !ok {
		return 1
	}
	return 0
}

func parse(args []string, stdout, stderr io.Writer) (settings, error) {
	s := settings{stdout: stdout, stderr: stderr}
	fs := flag.NewFlagSet("faults", flag.ContinueOnError)
	fs.SetOutput(stderr)
	only := fs.String("only", "", "run only rows whose id matches this regular expression")
	names := fs.String("adapters", "newsvc,naming,recipe", "run only these implementations")
	fs.StringVar(&s.page, "out", "", "write the page to this file; empty: to standard output")
	fs.StringVar(&s.log, "log", "", "keep what the processes log in this file")
	fs.BoolVar(&s.list, "list", false, "list the rows and run nothing")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	s.adapters = strings.Split(*names, ",")
	var err error
	if s.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintln(stderr, "faults: -only:", err)
	}
	return s, err
}

// all runs the rows, one after the other, and writes the page. It reports whether newsvc did what it promises.
func (s settings) all(ctx context.Context) (ok bool, err error) {
	began := time.Now()
	where := faulttest.LabOptions{Adapters: adapters()}
	if s.log != "" {
		f, err := os.Create(s.log)
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		where.Log = f
	}
	opt := faulttest.RowOptions{Adapters: s.adapters, Progress: func(format string, args ...any) {
		fmt.Fprintf(s.stderr, "%7.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}}
	rows := faulttest.RowsMatching(s.only)
	t := faulttest.Table{About: about(), Options: opt}
	ok = true
	for i, row := range rows {
		opt.Progress("row %d of %d: %s", i+1, len(rows), row.ID)
		res, err := faulttest.RunRow(ctx, where, row, opt)
		for again := 0; again < retries && err == nil && res.TooBusy; again++ {
			opt.Progress("%s: once more", row.ID)
			res, err = faulttest.RunRow(ctx, where, row, opt)
		}
		if err != nil {
			return false, err
		}
		s.tell(opt, res)
		ok = ok && s.good(res)
		t.Results = append(t.Results, res)
	}
	t.Facts = facts(time.Since(began))
	return ok, s.write(t)
}

func (s settings) tell(opt faulttest.RowOptions, res faulttest.Result) {
	for _, c := range res.Cells {
		opt.Progress("%s: %s: %s", res.Row.ID, c.Adapter, c)
	}
}

// good reports whether a row shows what it is meant to show.
func (s settings) good(res faulttest.Result) bool {
	if res.Void != "" {
		return false
	}
	for _, c := range res.Cells {
		if c.Adapter == newsvc.Name && !c.Passed() {
			return false
		}
	}
	return true
}

// write writes the page at once, so that one that was cut off leaves the old one in place.
func (s settings) write(t faulttest.Table) error {
	var page bytes.Buffer
	if err := t.Write(&page); err != nil {
		return err
	}
	if s.page == "" {
		_, err := page.WriteTo(s.stdout)
		return err
	}
	name := filepath.Clean(s.page)
	if err := os.WriteFile(name+".new", page.Bytes(), 0o644); err != nil { //nolint:gosec // documentation
		return err
	}
	return os.Rename(name+".new", name)
}

func facts(took time.Duration) []string {
	versions := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			versions[d.Path] = d.Version
		}
	}
	return []string{
		fmt.Sprintf("%s, %d cores, %s/%s, %s; etcd %s, gRPC %s", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
			runtime.Version(), versions["go.etcd.io/etcd/server/v3"], versions["google.golang.org/grpc"]),
		"each implementation: 3 servers and a caller with 250 calls a second, deadline 2 s; TTL 5 s; newsvc keeps what vanished all at once for 20 s " +
			"(a minute while permissions are missing), not for its 5 minutes",
		fmt.Sprintf("etcd runs with its usual clock and disk; the whole run took %v", took.Round(time.Second)),
	}
}
