package etcd_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// withAuth switches authentication on and gives the code under test a user of its own, with no permission yet.
func (f *fixture) withAuth() {
	f.t.Helper()
	f.admin = f.server.Client() // in the same process: it needs no password
	ctx := f.ctx()
	do := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	_, err := f.admin.UserAdd(ctx, "root", "secret")
	do(err)
	_, err = f.admin.UserGrantRole(ctx, "root", "root")
	do(err)
	_, err = f.admin.UserAdd(ctx, "svc", "secret")
	do(err)
	_, err = f.admin.RoleAdd(ctx, "svc")
	do(err)
	_, err = f.admin.UserGrantRole(ctx, "svc", "svc")
	do(err)
	_, err = f.admin.AuthEnable(ctx)
	do(err)
	f.admin = f.user("root")
	f.cli = f.user("svc")
}

func (f *fixture) user(name string) *clientv3.Client {
	f.t.Helper()
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints, cfg.Username, cfg.Password = []string{f.proxy.addr()}, name, "secret"
	cli, err := etcdclient.New(cfg, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func (f *fixture) grant() {
	f.t.Helper()
	if _, err := f.admin.RoleGrantPermission(f.ctx(), "svc", f.prefix+"/", clientv3.GetPrefixRangeEnd(f.prefix+"/"),
		clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		f.t.Fatal(err)
	}
}

func TestA19MissingPermissionIsReportedAndEndsByItself(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{AuthTokenTTL: time.Second})
	f.withAuth()
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	reg, err := f.registrar().Register(f.ctx(), *discoverytest.Instance("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	st := f.await(reg, "a hint at etcd.username", hints("etcd.username"))
	if st.State != discovery.RegistrationPending {
		t.Errorf("status = %+v, want pending", st)
	}
	w.Wait("an update with a hint at etcd.username", func(u discovery.Update) bool {
		return !u.Known() && u.Err != nil && strings.Contains(u.Err.Error(), "etcd.username")
	})
	f.grant()
	f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	if u := w.WaitAddrs(addr1); u.Err != nil {
		t.Errorf("Err = %v", u.Err)
	}
}

func TestA19ExpiringTokensDisturbNothing(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{AuthTokenTTL: 3 * time.Second})
	f.withAuth()
	f.grant()
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs(addr1)
	f.pass(10 * time.Second)
	if st := reg.Status(); st.Count != 1 {
		t.Errorf("status = %+v, want announced once", st)
	}
	if n := len(w.Updates()); n != 1 {
		t.Errorf("%d updates, want the first one only: %+v", n, w.Updates())
	}
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000")
}

// Each renewal of a lease is checked against the token with which its stream was opened, and a JWT token ends of itself.
func TestA19ExpiringJWTTokensDisturbNothing(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	const life = 5 * time.Second
	f := newOwnFixture(t, devetcd.Config{AuthToken: fmt.Sprintf("jwt,sign-method=EdDSA,priv-key=%s,ttl=%v", file, life)})
	f.withAuth()
	f.grant()
	reg := f.register(f.registrar(), discoverytest.Instance("user", addr1))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs(addr1)
	changes := f.changes()
	token, err := f.admin.Authenticate(f.ctx(), "svc", "secret")
	if err != nil || strings.Count(token.Token, ".") != 2 {
		t.Fatalf("got %v, %v; want a JWT token", token, err)
	}
	old := metadata.AppendToOutgoingContext(f.ctx(), rpctypes.TokenFieldNameGRPC, token.Token)
	plain := dial(t, f.server.Addr())
	if _, err := plain.Get(old, f.key("user", addr1)); err != nil {
		t.Fatalf("with a token of now: %v", err)
	}
	f.pass(2*life + time.Second)
	if _, err := plain.Get(old, f.key("user", addr1)); !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		t.Fatalf("with a token of then: %v, want it refused; the test proves nothing", err)
	}
	if puts, deletes := changes(); puts+deletes > 0 {
		t.Errorf("%d keys were written and %d deleted", puts, deletes)
	}
	if st := reg.Status(); st.State != discovery.RegistrationUp || st.Count != 1 {
		t.Errorf("status = %+v, want up, announced once", st)
	}
	if n := len(w.Updates()); n != 1 {
		t.Errorf("%d updates, want the first one only: %+v", n, w.Updates())
	}
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000")
}

func TestA17FullEtcdKeepsWhatIsThereAndTakesTheRestLater(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{QuotaBytes: 4 << 20})
	const ttl = 9 * time.Second
	r := f.registrar(withTTL(ttl), func(o *etcd.Options) { o.Timing.Patience = time.Minute })
	older := f.register(r, discoverytest.Instance("user", addr1))
	lease, _ := f.get(f.key("user", addr1))
	big := strings.Repeat("x", 256<<10)
	for {
		_, err := f.admin.Put(f.ctx(), f.prefix+"-filler", big)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	newer, err := r.Register(f.ctx(), *discoverytest.Instance("user", "10.0.0.2:9000"))
	if err != nil {
		t.Fatal(err)
	}
	f.await(newer, "it to say that etcd is full and what to do", hints("is full", "defragment"))
	f.afterRenewal(r)
	f.proxy.setCut(true)
	f.pass(ttl / 2)
	f.proxy.setCut(false)
	f.await(newer, "it to say so again", hints("is full", "defragment"))
	f.freeSpace()
	m := measure(t)
	f.await(newer, "it to be up", inState(discovery.RegistrationUp))
	took := time.Since(m.start)
	t.Logf("it took %v", took)
	if !m.fits(took, 2500*time.Millisecond) { // attempts are 2 s apart, spread by a fifth
		t.Errorf("it took %v", took)
	}
	if after, _ := f.get(f.key("user", addr1)); after != lease || older.Status().Count != 1 {
		t.Errorf("the older one hangs on %x and has status %+v, want it untouched on %x", after, older.Status(), lease)
	}
}

func (f *fixture) freeSpace() {
	f.t.Helper()
	f.del(f.prefix + "-filler")
	resp, err := f.admin.Get(f.ctx(), "x")
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.admin.Compact(f.ctx(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.admin.Defragment(f.ctx(), f.server.Addr()); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.admin.AlarmDisarm(f.ctx(), &clientv3.AlarmMember{}); err != nil {
		f.t.Fatal(err)
	}
}

// hints reports whether the reason contains all the texts.
func hints(texts ...string) func(discovery.RegistrationStatus) bool {
	return func(st discovery.RegistrationStatus) bool {
		for _, text := range texts {
			if st.Err == nil || !strings.Contains(st.Err.Error(), text) {
				return false
			}
		}
		return true
	}
}
