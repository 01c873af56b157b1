// Package examples_test holds the product to its promises: the examples and newsvc dev as real processes, under load,
// while instances and etcd are stopped, killed and frozen. Each test proves that its fault took place. The binaries are
// the plain ones that users run, built once; nothing but Go is needed.
package examples_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// envEtcd makes this test binary an etcd in a process of its own, which can be killed and frozen.
const envEtcd = "NEWSVC_E2E_ETCD"

// bin is the directory of the binaries under test.
var bin string

func TestMain(m *testing.M) {
	if addr := os.Getenv(envEtcd); addr != "" {
		if err := serveEtcd(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(bin)
		os.Exit(code)
	}))
}

func build() (err error) {
	if bin, err = os.MkdirTemp("", "newsvc-e2e-"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./cmd/newsvc", "./examples/user-service", "./examples/gateway")
	cmd.Dir = repo()
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build what is tested: %w\n%s", err, out), os.RemoveAll(bin))
	}
	return nil
}

// repo is the root of the repository.
func repo() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(here))
}

// lookAtSources stats every source file once: the go command then knows that a cached result is stale when one of them
// changes, although this package imports few of them.
var lookAtSources = sync.OnceFunc(func() {
	for _, dir := range []string{"cmd", "examples", "framework", "proto"} {
		_ = filepath.WalkDir(filepath.Join(repo(), dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") {
				_, _ = os.Stat(path)
			}
			return nil
		})
	}
})

// binary is the path of a binary under test.
func binary(name string) string {
	lookAtSources()
	return filepath.Join(bin, name)
}

// serveEtcd runs etcd on addr, with data in the working directory, until nobody holds the other end of stdin.
func serveEtcd(addr string) error {
	srv, err := devetcd.Start(context.Background(), devetcd.Config{Dir: "data", ClientAddr: addr, Fast: true})
	if err != nil {
		return err
	}
	fmt.Println(srv.Addr())
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return srv.Close()
}

// within gives a test a context that fails it long before its deadline.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks again, every few milliseconds, until done says true. It fails the test with what() when ctx ends.
func eventually(ctx context.Context, t *testing.T, what func() string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what(), context.Cause(ctx))
		}
	}
}

// text is an argument of eventually.
func text(format string, args ...any) func() string {
	return func() string { return fmt.Sprintf(format, args...) }
}

// pass waits while something is to go on for some time.
func pass(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}
