package devetcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/devetcd"
)

const damagedDir = "DEVETCD_TEST_DAMAGED_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(damagedDir); dir != "" {
		os.Exit(startDamaged(dir))
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, cfg devetcd.Config) *devetcd.Server {
	t.Helper()
	cfg.Fast = true
	s, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, s *devetcd.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := c.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func TestServesAsSoonAsStartReturns(t *testing.T) {
	t.Parallel()
	s := start(t, devetcd.Config{})
	c := dial(t, s)
	put(t, c, "k", "v")
	if got := get(t, c, "k"); got != "v" {
		t.Errorf("over the network: %q, want %q", got, "v")
	}
	if got := get(t, s.Client(), "k"); got != "v" {
		t.Errorf("in process: %q, want %q", got, "v")
	}
	if s.Err() != nil {
		t.Errorf("Err = %v while running", s.Err())
	}
	members, err := c.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := members.Members[0].ClientURLs[0], "http://"+s.Addr(); got != want {
		t.Errorf("the member tells clients %q, want %q", got, want)
	}
}

func TestRestartKeepsDataAndPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, devetcd.Config{Dir: dir})
	c := dial(t, first)
	put(t, c, "k", "v")
	lease, err := c.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, devetcd.Config{Dir: dir, ClientAddr: first.Addr()})
	if second.Addr() != first.Addr() {
		t.Errorf("restarted on %q, want %q", second.Addr(), first.Addr())
	}
	if got := get(t, c, "k"); got != "v" { // the client of the first server finds the second one
		t.Errorf("after the restart: %q, want %q", got, "v")
	}
	if ttl, err := c.TimeToLive(t.Context(), lease.ID); err != nil || ttl.TTL <= 0 {
		t.Errorf("the lease did not survive: %v, %v", ttl, err)
	}
}

func TestRestartOnAnotherPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, devetcd.Config{Dir: dir})
	put(t, first.Client(), "k", "v")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, devetcd.Config{Dir: dir})
	if got := get(t, dial(t, second), "k"); got != "v" {
		t.Errorf("after the restart: %q, want %q", got, "v")
	}
}

func TestTwoServersAtOnce(t *testing.T) {
	t.Parallel()
	a, b := start(t, devetcd.Config{}), start(t, devetcd.Config{})
	put(t, dial(t, a), "k", "a")
	if got := get(t, dial(t, b), "k"); got != "" {
		t.Errorf("the second server knows %q of the first", got)
	}
}

func TestCloseCutsOpenWatchesAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, devetcd.Config{})
	c := dial(t, s)
	w := c.Watch(clientv3.WithRequireLeader(t.Context()), "k", clientv3.WithCreatedNotify())
	if r := <-w; r.Err() != nil {
		t.Fatal(r.Err())
	}
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v with an open watch", took)
	}
	<-s.Done()
	if s.Err() != nil {
		t.Errorf("Err = %v after Close", s.Err())
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
}

func TestBusyPortNamesTheAddressAndTheWayOut(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = devetcd.Start(t.Context(), devetcd.Config{Fast: true, ClientAddr: l.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("error = %v, want the address and the remedy", err)
	}
}

func TestPortThatBecomesFreeIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(200*time.Millisecond, func() { _ = l.Close() })
	defer timer.Stop()
	s := start(t, devetcd.Config{ClientAddr: l.Addr().String()})
	if s.Addr() != l.Addr().String() {
		t.Errorf("listens on %q, want %q", s.Addr(), l.Addr())
	}
}

func TestBusyDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, devetcd.Config{Dir: t.TempDir()})
	_, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true, Dir: s.Dir()})
	if err == nil || !strings.Contains(err.Error(), "in use by another etcd") {
		t.Errorf("error = %v, want the directory to be in use", err)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := devetcd.Start(ctx, devetcd.Config{Fast: true, Dir: dir}); !errors.Is(err, cause) {
		t.Errorf("error = %v, want the cause", err)
	}
	start(t, devetcd.Config{Dir: dir}) // the directory is free again
}

func TestRunningServerOutlivesTheContextOfStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := devetcd.Start(ctx, devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	put(t, dial(t, s), "k", "v")
}

func TestBadAddressIsExplained(t *testing.T) {
	t.Parallel()
	_, err := devetcd.Start(t.Context(), devetcd.Config{ClientAddr: "2379"})
	if err == nil || !strings.Contains(err.Error(), `"2379" is no host:port`) {
		t.Errorf("error = %v", err)
	}
}

// TestDamagedDataIsAnErrorAndNotAnExit looks in a process of its own: etcd leaves goroutines behind when it meets a
// fatal error.
func TestDamagedDataIsAnErrorAndNotAnExit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, devetcd.Config{Dir: dir})
	put(t, s.Client(), "k", "v")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wals, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err != nil || len(wals) == 0 {
		t.Fatalf("no log found: %v", err)
	}
	if err := os.WriteFile(wals[0], []byte(strings.Repeat("damaged ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), damagedDir+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "start etcd on ") {
		t.Errorf("start on damaged data: %v, said %q", err, out)
	}
}

// startDamaged prints why etcd does not start on dir and returns the exit code.
func startDamaged(dir string) int {
	_, err := devetcd.Start(context.Background(), devetcd.Config{Fast: true, Dir: dir})
	if err == nil {
		return 1
	}
	fmt.Println(err)
	return 0
}

func TestTokensAreWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a key that only this test knows"), 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, dots := range map[string]int{"": 1, "simple": 1, "jwt,sign-method=HS256,ttl=1m,priv-key=" + key: 2} { // a simple one is a word and a number
		ctx, c := t.Context(), start(t, devetcd.Config{AuthToken: kind}).Client()
		_, e1 := c.UserAdd(ctx, "root", "secret")
		_, e2 := c.UserGrantRole(ctx, "root", "root")
		_, e3 := c.AuthEnable(ctx)
		token, e4 := c.Authenticate(ctx, "root", "secret")
		if err := errors.Join(e1, e2, e3, e4); err != nil {
			t.Fatal(err)
		}
		if strings.Count(token.Token, ".") != dots {
			t.Errorf("with %q a token is %q", kind, token.Token)
		}
	}
	for _, kind := range []string{"jwt,sign-method=HS256", "jwt", "other"} {
		s, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true, AuthToken: kind})
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("auth token %q", kind)) {
			t.Errorf("with %q: err = %v, want one that names it", kind, err)
		}
	}
}

func TestLogGoesWhereItIsSent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	cfg := zap.NewProductionConfig()
	cfg.OutputPaths = []string{path}
	log, err := cfg.Build()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, devetcd.Config{Log: log})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "starting an etcd server") {
		t.Errorf("log = %q, %v", text, err)
	}
}
