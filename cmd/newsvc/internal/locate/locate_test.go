package locate_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// alone gives the test a user without a running newsvc dev and without settings. The directory is outside of everything.
func alone(t *testing.T) (dir string) {
	t.Helper()
	cache := t.TempDir()
	for _, key := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(key, cache)
	}
	t.Setenv(locate.EnvEtcd, "")
	t.Setenv("NEWSVC_ENV", "")
	t.Setenv("NEWSVC_CONFIG", "")
	return t.TempDir()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// service makes dir the directory of a service with this configuration.
func service(t *testing.T, dir, config string) {
	t.Helper()
	write(t, dir, "newsvc.yaml", "kind: service\nname: user-service\n")
	write(t, dir, "config.yaml", config)
}

// dev makes this very process the newsvc dev that runs in root.
func dev(t *testing.T, root, etcd, prefix string, services ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, ".newsvc"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := devrecord.New(root)
	if etcd != "" {
		r.Etcd = devrecord.Etcd{Endpoints: []string{etcd}, Prefix: prefix}
	}
	for _, s := range services {
		r.Services[s] = devrecord.Service{}
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
}

// expect looks in dir and compares the endpoints, the prefix and the reason.
func expect(t *testing.T, f locate.Flags, dir, etcd, prefix, how string) locate.Place {
	t.Helper()
	p, err := f.Find(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Endpoints(), ","); got != etcd || p.Prefix != prefix || p.How != how {
		t.Errorf("found %q, prefix %q, by %q; want %q, %q, %q", got, p.Prefix, p.How, etcd, prefix, how)
	}
	return p
}

func refused(t *testing.T, f locate.Flags, dir string, exit int, texts ...string) {
	t.Helper()
	_, err := f.Find(t.Context(), dir)
	var p *problem.Error
	if !errors.As(err, &p) || problem.Code(err) != exit {
		t.Fatalf("Find = %v (exit %d), want a problem with exit %d", err, problem.Code(err), exit)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q lacks %q", err, text)
		}
	}
}

const standard = "/newsvc/default"

func TestNothingSaidIsThisMachine(t *testing.T) {
	expect(t, locate.Flags{}, alone(t), "127.0.0.1:2379", standard, "default")
}

func TestTheFlagWinsOverTheVariableOverTheService(t *testing.T) {
	dir := alone(t)
	service(t, dir, "etcd:\n  endpoints: [\"10.0.0.5:2379\"]\ndiscovery:\n  prefix: /own\n")
	expect(t, locate.Flags{}, dir, "10.0.0.5:2379", "/own", "config.yaml:2 of user-service")
	t.Setenv(locate.EnvEtcd, "10.0.0.6:2379;10.0.0.7:2379")
	expect(t, locate.Flags{}, dir, "10.0.0.6:2379,10.0.0.7:2379", "/own", "NEWSVC_ETCD")
	expect(t, locate.Flags{Etcd: []string{"10.0.0.8:2379"}, Prefix: "/said"}, dir, "10.0.0.8:2379", "/said", "--etcd")
}

func TestTheServicesOwnEtcdComesWithTLSAndUser(t *testing.T) {
	dir := alone(t)
	service(t, dir, "user:\n  store: memory\netcd:\n  call_timeout: 2s\n")
	write(t, dir, "config.prod.yaml", "etcd:\n  endpoints: [\"etcd.prod:2379\"]\n  username: ops\n  password: secret\n  tls:\n    ca: certs/ca.pem\ndiscovery:\n  prefix: /prod\n")
	p := expect(t, locate.Flags{Env: "prod"}, filepath.Join(dir), "etcd.prod:2379", "/prod", "config.prod.yaml:2 of user-service")
	if p.Etcd.Username != "ops" || p.Etcd.Password != "secret" || p.Etcd.TLS.CA != filepath.Join(dir, "certs/ca.pem") || p.Etcd.CallTimeout.String() != "2s" {
		t.Errorf("the rest of the section is %+v", p.Etcd)
	}
	p = expect(t, locate.Flags{Env: "prod", Etcd: []string{"other:2379"}}, dir, "other:2379", "/prod", "--etcd")
	if p.Etcd.Username != "ops" {
		t.Errorf("--etcd beside --env has lost the user: %+v", p.Etcd)
	}
	t.Setenv("USER_SERVICE__ETCD__ENDPOINTS", "10.1.1.1:2379")
	expect(t, locate.Flags{}, dir, "10.1.1.1:2379", standard, "env USER_SERVICE__ETCD__ENDPOINTS of user-service")
}

func TestARunningDevIsFoundHereAboveAndFromElsewhere(t *testing.T) {
	elsewhere := alone(t)
	root := t.TempDir()
	dev(t, root, "127.0.0.1:4001", "/dev")
	below := filepath.Join(root, "services", "user-service")
	service(t, below, "discovery:\n  prefix: /own\n")
	p := expect(t, locate.Flags{}, below, "127.0.0.1:4001", "/dev", ".newsvc/dev.json")
	if len(p.Devs) != 1 || p.Devs[0].Root != root {
		t.Errorf("the dev that uses this etcd is not told: %+v", p.Devs)
	}
	expect(t, locate.Flags{}, elsewhere, "127.0.0.1:4001", "/dev", "the running newsvc dev in "+root)
	if p := expect(t, locate.Flags{Etcd: []string{"10.0.0.1:2379"}}, elsewhere, "10.0.0.1:2379", standard, "--etcd"); len(p.Devs) != 0 {
		t.Errorf("a dev with another etcd is told: %+v", p.Devs)
	}
	p = expect(t, locate.Flags{Etcd: []string{"http://localhost:4001"}}, elsewhere, "http://localhost:4001", standard, "--etcd")
	if len(p.Devs) != 1 {
		t.Errorf("a dev with the same etcd is not told")
	}
}

// newsvc dev overrides what config.yaml says about etcd, for what it runs.
func TestADevThatRunsTheServiceWinsOverItsFile(t *testing.T) {
	alone(t)
	root := t.TempDir()
	service(t, root, "etcd:\n  endpoints: [\"10.0.0.5:2379\"]\n")
	dev(t, root, "127.0.0.1:4001", "/dev", "another")
	expect(t, locate.Flags{}, root, "10.0.0.5:2379", standard, "config.yaml:2 of user-service")
	dev(t, root, "127.0.0.1:4001", "/dev", "user-service")
	expect(t, locate.Flags{}, root, "127.0.0.1:4001", "/dev", ".newsvc/dev.json")
	write(t, root, "config.prod.yaml", "log:\n  level: warn\n")
	expect(t, locate.Flags{Env: "prod"}, root, "10.0.0.5:2379", standard, "config.yaml:2 of user-service")
}

func TestADevThatIsOnlyStartingIsNotTaken(t *testing.T) {
	elsewhere := alone(t)
	root := t.TempDir()
	dev(t, root, "", "")
	expect(t, locate.Flags{}, elsewhere, "127.0.0.1:2379", standard, "default")
	expect(t, locate.Flags{}, root, "127.0.0.1:2379", standard, "default")
}

func TestSeveralDevsAreAnErrorUnlessTheyShareAnEtcd(t *testing.T) {
	elsewhere := alone(t)
	one, two := t.TempDir(), t.TempDir()
	dev(t, one, "127.0.0.1:4001", standard)
	dev(t, two, "localhost:4001", standard)
	p, err := locate.Flags{}.Find(t.Context(), elsewhere)
	if err != nil || len(p.Devs) != 2 {
		t.Errorf("two that share an etcd: %+v, %v", p, err)
	}
	dev(t, two, "127.0.0.1:4002", standard)
	refused(t, locate.Flags{}, elsewhere, problem.Conflict, "2 newsvc dev run on this machine", one, two, "etcd 127.0.0.1:4001", "etcd 127.0.0.1:4002", "fix: -C ")
	expect(t, locate.Flags{}, two, "127.0.0.1:4002", standard, ".newsvc/dev.json")
	expect(t, locate.Flags{Etcd: []string{"127.0.0.1:4001"}}, elsewhere, "127.0.0.1:4001", standard, "--etcd")
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	dir := alone(t)
	refused(t, locate.Flags{Etcd: []string{"nonsense"}}, dir, problem.Usage, `"nonsense" is no etcd address`, "at: --etcd", "fix: --etcd 127.0.0.1:2379")
	refused(t, locate.Flags{Prefix: "nonsense"}, dir, problem.Usage, `--prefix: "nonsense" is not a prefix`, "fix: --prefix /newsvc/default")
	refused(t, locate.Flags{Env: "prod"}, dir, problem.Usage, `--env "prod" means the configuration of a service`)
	service(t, dir, "etcd:\n  endpoint: x\n")
	refused(t, locate.Flags{}, dir, problem.Environment, "configuration of user-service", "config.yaml:2", "endpoints")
	service(t, dir, "")
	refused(t, locate.Flags{Env: "nope"}, dir, problem.Environment, "config.nope.yaml")
}

func TestAnAddressWithHTTPSMeansTLS(t *testing.T) {
	p := expect(t, locate.Flags{Etcd: []string{"https://etcd:2379"}}, alone(t), "https://etcd:2379", standard, "--etcd")
	if !p.Etcd.TLS.Active() {
		t.Error("TLS is off")
	}
}
