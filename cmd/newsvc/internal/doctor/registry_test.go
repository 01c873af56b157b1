package doctor_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

const prefix = discovery.DefaultPrefix

func startEtcd(t *testing.T, listen string) *devetcd.Server {
	t.Helper()
	s, err := devetcd.Start(t.Context(), devetcd.Config{Dir: t.TempDir(), ClientAddr: listen, Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func options(t *testing.T, how string, endpoints ...string) doctor.Options {
	t.Helper()
	conf := etcdclient.DefaultConfig()
	conf.Endpoints = endpoints
	return doctor.Options{
		Dir: t.TempDir(), Environ: os.Environ(), Build: buildinfo.Read(), Limit: time.Minute, // of a busy machine
		Locate: func(context.Context) (doctor.Registry, error) {
			return doctor.Registry{Etcd: conf, Prefix: prefix, How: how}, nil
		},
	}
}

func run(t *testing.T, o doctor.Options) doctor.Report {
	t.Helper()
	r, err := doctor.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// finding returns the finding of a check, and fails the test unless there is just one.
func finding(t *testing.T, r doctor.Report, check string) doctor.Finding {
	t.Helper()
	var found []doctor.Finding
	for _, f := range r.Checks {
		if f.Check == check && (f.Level == doctor.Warn || f.Level == doctor.Fail) {
			found = append(found, f)
		}
	}
	if len(found) != 1 || found[0].Fix == "" {
		t.Fatalf("findings of %s: %+v, want one with a remedy, in %+v", check, found, r)
	}
	return found[0]
}

func level(r doctor.Report, check string) doctor.Level {
	for _, f := range r.Checks {
		if f.Check == check {
			return f.Level
		}
	}
	return ""
}

// paste runs a remedy as a person would, with an etcdctl in PATH.
func paste(t *testing.T, fix string) {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "etcdctl")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", fix)
	cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", fix, err, out)
	}
}

func put(t *testing.T, cli *clientv3.Client, service, addr string, opts ...clientv3.OpOption) {
	t.Helper()
	if _, err := cli.Put(t.Context(), discovery.Key(prefix, service, addr), addr, opts...); err != nil {
		t.Fatal(err)
	}
}

func grant(t *testing.T, cli *clientv3.Client) clientv3.LeaseID {
	t.Helper()
	lease, err := cli.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	return lease.ID
}

// closedAddr is an address where nobody listens.
func closedAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestAHealthyRegistry(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	put(t, etcd.Client(), "user-service", etcd.Addr(), clientv3.WithLease(grant(t, etcd.Client())))
	before, err := etcd.Client().Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, options(t, "--etcd", etcd.Addr()))
	for _, check := range []string{"etcd", "clock", "instances", "leases"} {
		if got := level(r, check); got != doctor.OK {
			t.Errorf("%s is %q, want ok, in %+v", check, got, r)
		}
	}
	after, err := etcd.Client().Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if before.Header.Revision != after.Header.Revision {
		t.Errorf("doctor wrote to etcd: revision %d became %d", before.Header.Revision, after.Header.Revision)
	}
}

func TestAnInstanceThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, lease := range map[string]bool{"with a lease": true, "whose key has no lease": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := startEtcd(t, "")
			gone := closedAddr(t)
			var opts []clientv3.OpOption
			if lease {
				opts = append(opts, clientv3.WithLease(grant(t, etcd.Client())))
			}
			put(t, etcd.Client(), "user-service", gone, opts...)
			o := options(t, "--etcd", etcd.Addr())
			f := finding(t, run(t, o), "instances")
			if !strings.Contains(f.What, "user-service is registered at "+gone) || !strings.Contains(f.What, "connection refused") || f.At != discovery.Key(prefix, "user-service", gone) {
				t.Errorf("it says %+v", f)
			}
			if stays := strings.Contains(f.What, "no lease"); stays == lease {
				t.Errorf("of a key %s it says %q", name, f.What)
			}
			paste(t, f.Fix)
			if got := level(run(t, o), "instances"); got != doctor.OK {
				t.Errorf("after %s instances are %q", f.Fix, got)
			}
		})
	}
}

func TestALeaseWithoutAKey(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	grant(t, etcd.Client())
	grant(t, etcd.Client())
	o := options(t, "--etcd", etcd.Addr())
	f := finding(t, run(t, o), "leases")
	if !strings.HasPrefix(f.What, "2 leases of 2 without a key") {
		t.Errorf("it says %q", f.What)
	}
	paste(t, f.Fix)
	if got := level(run(t, o), "leases"); got != doctor.OK {
		t.Errorf("after %s leases are %q", f.Fix, got)
	}
}

func TestLoopbackInARegistryOfOtherMachines(t *testing.T) {
	t.Parallel()
	host := ownAddr(t)
	etcd := startEtcd(t, net.JoinHostPort(host, "0"))
	put(t, etcd.Client(), "user-service", "127.0.0.1:9000", clientv3.WithLease(grant(t, etcd.Client())))
	f := finding(t, run(t, options(t, "--etcd", etcd.Addr())), "advertise")
	if !strings.HasPrefix(f.What, "user-service registers 127.0.0.1:9000, which other machines cannot reach") {
		t.Errorf("it says %q", f.What)
	}
	if want := "export USER_SERVICE__REGISTRATION__ADVERTISE=" + host; f.Fix != want {
		t.Errorf("the remedy is %q, want %q", f.Fix, want)
	}
}

// ownAddr is an address of this machine that is not loopback.
func ownAddr(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this machine has no address besides loopback")
	return ""
}

func TestAClockThatIsWrong(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	for ahead, says := range map[time.Duration]string{time.Hour: "-", -time.Hour: ""} {
		o := options(t, "--etcd", etcd.Addr())
		o.Now = func() time.Time { return time.Now().Add(ahead) }
		if f := finding(t, run(t, o), "clock"); !regexp.MustCompile("^etcd's clock is " + says + "(59m5.s|1h0m.s) from this one").MatchString(f.What) {
			t.Errorf("%v ahead: it says %q", ahead, f.What)
		}
	}
}

func TestEtcdThatIsAway(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	gone := closedAddr(t)
	for how, fix := range map[string]string{"NEWSVC_ETCD": "unset NEWSVC_ETCD", "--etcd": "etcdctl --endpoints=" + gone + " endpoint health", "config.yaml:3 of user-service": "${EDITOR:-vi} ", "env X__ETCD__ENDPOINTS of x": "unset X__ETCD__ENDPOINTS"} {
		f := finding(t, run(t, options(t, how, gone)), "etcd")
		if f.Level != doctor.Fail || f.At != how || !strings.Contains(f.Fix, fix) || !strings.HasSuffix(f.What, gone+" cannot be reached: connection refused") {
			t.Errorf("by %s: %+v", how, f)
		}
	}
	if got := level(run(t, options(t, "default", gone)), "etcd"); got != doctor.Skip {
		t.Errorf("where nobody named an etcd it is %q, want skip", got)
	}
	if f := finding(t, run(t, options(t, "--etcd", gone, etcd.Addr())), "etcd"); f.Level != doctor.Warn {
		t.Errorf("one of two away: %+v, want a warning", f)
	}
}

// TestWhatTakesTooLongIsSkipped: the report is there nevertheless, and says so.
func TestWhatTakesTooLongIsSkipped(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := options(t, "--etcd", l.Addr().String())
	o.Limit = time.Nanosecond
	r := run(t, o)
	if got := level(r, "etcd"); got != doctor.Skip && got != doctor.Fail {
		t.Errorf("etcd is %q, want skip, or that there was no answer, in %+v", got, r)
	}
	if len(r.Checks) < 4 {
		t.Errorf("the report is %+v", r)
	}
}

// TestAnswersInTime has an etcd and an instance that take connections and never say a word.
func TestAnswersInTime(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	o := options(t, "--etcd", l.Addr().String())
	o.Limit = 0
	f := finding(t, run(t, o), "etcd")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v; 5s are allowed, and as much again for a busy machine", took)
	}
	if !strings.HasSuffix(f.What, "no answer") {
		t.Errorf("it says %q", f.What)
	}
}
