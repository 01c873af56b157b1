package doctor_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
)

// stopped starts a process, and stops it.
func stopped(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed
	})
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return devrecord.Stopped(cmd.Process.Pid) })
	return cmd.Process.Pid
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

func TestWhatNewsvcDevRunsIsComparedWithTheRegistry(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	pid := stopped(t)
	admin := "" // of the process
	of := func(pid int, grpc string) doctor.Options {
		o := options(t, ".newsvc/dev.json", etcd.Addr())
		find := o.Locate
		o.Locate = func(ctx context.Context) (doctor.Registry, error) {
			r, err := find(ctx)
			r.Records = []devrecord.Record{{Etcd: devrecord.Etcd{Prefix: prefix}, Services: map[string]devrecord.Service{
				"users": {Instances: []devrecord.Instance{{PID: pid, GRPC: grpc, Admin: admin, HTTP: "127.0.0.1:8080"}}},
			}}}
			return r, err
		}
		return o
	}
	// It was frozen for so long that its lease has ended.
	f := finding(t, run(t, of(pid, "127.0.0.1:9")), "dev")
	if want := "users (pid " + strconv.Itoa(pid) + "), which newsvc dev runs, is stopped (SIGSTOP, a debugger), so its lease has ended and nobody finds it any more"; f.What != want || f.Level != doctor.Fail {
		t.Errorf("it says %s %q, want %q", f.Level, f.What, want)
	}
	// An edge, which is never registered.
	if f := finding(t, run(t, of(pid, "")), "dev"); !strings.HasSuffix(f.What, "is stopped (SIGSTOP, a debugger) and answers nothing") || f.At != "127.0.0.1:8080" {
		t.Errorf("of an edge it says %+v", f)
	}
	// The remedy works as it is pasted, and what it leaves is a process that runs and is not registered.
	paste(t, f.Fix)
	await(t, func() bool { return !devrecord.Stopped(pid) })
	if f := finding(t, run(t, of(pid, "127.0.0.1:9")), "dev"); f.Level != doctor.Warn || !strings.HasSuffix(f.What, "is not registered") || f.Fix != "newsvc why users" {
		t.Errorf("after the remedy it says %+v", f)
	}
	// One that is not meant to be registered says so.
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"service":"users"}`)) }))
	t.Cleanup(page.Close)
	admin = page.Listener.Addr().String()
	if r := run(t, of(pid, "127.0.0.1:9")); level(r, "dev") != "" {
		t.Errorf("it finds one that keeps out: %+v", r)
	}
	// All is well.
	listening := etcd.Addr() // somebody who can be reached
	put(t, etcd.Client(), "users", listening, clientv3.WithLease(grant(t, etcd.Client())))
	for name, o := range map[string]doctor.Options{"registered": of(os.Getpid(), listening), "an edge": of(os.Getpid(), "")} {
		if r := run(t, o); r.Findings() && level(r, "dev") != "" {
			t.Errorf("%s: it finds something: %+v", name, r)
		}
	}
}
