package doctor_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// TestMain is also etcdctl, when the binary is called so, and newsvc dev: remedies are pasted as they are.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "etcdctl" {
		if err := etcdctl(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("DOCTOR_TEST_DEV"); dir != "" {
		if err := dev(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// dev is what matters of newsvc dev here: it has an etcd, and ends at a signal.
func dev(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	etcd, err := devetcd.Start(ctx, devetcd.Config{Dir: dir, Fast: true})
	if err != nil {
		return err
	}
	fmt.Println(etcd.Addr())
	<-ctx.Done()
	return etcd.Close()
}

// etcdctl knows the commands that remedies consist of, with the syntax of the real one.
func etcdctl(args []string) error {
	endpoint, ok := strings.CutPrefix(args[0], "--endpoints=")
	if !ok {
		return fmt.Errorf("no --endpoints in %q", args)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Context: ctx})
	if err != nil {
		return err
	}
	defer cli.Close()
	switch {
	case len(args) == 4 && args[1] == "lease" && args[2] == "revoke":
		id, err := strconv.ParseInt(args[3], 16, 64)
		if err != nil {
			return err
		}
		_, err = cli.Revoke(ctx, clientv3.LeaseID(id))
		return err
	case len(args) == 3 && args[1] == "del":
		resp, err := cli.Delete(ctx, args[2])
		if err == nil && resp.Deleted != 1 {
			err = fmt.Errorf("deleted %d keys", resp.Deleted)
		}
		return err
	}
	return fmt.Errorf("etcdctl is not called like this: %q", args)
}
