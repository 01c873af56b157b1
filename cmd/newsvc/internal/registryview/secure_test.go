package registryview_test

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// Nobody waits for a deadline, as no wait would help. What is wrong and what to do is said.
func TestAnEtcdThatCannotBeTalkedToIsToldAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	front := func(auth tls.ClientAuthType) *calltest.TLS {
		s, err := calltest.StartTLS(t.TempDir(), f.etcd.Addr(), auth)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	secure, strict := front(tls.NoClientCert), front(tls.RequireAnyClientCert)
	config := "env prod of users"
	for name, tc := range map[string]struct {
		endpoint, how string
		tls           certs.ClientConfig
		want          string // empty: it answers
	}{
		"as it should be":    {secure.Addr, config, certs.ClientConfig{CA: secure.CA}, ""},
		"unknown authority":  {secure.Addr, config, certs.ClientConfig{Enabled: true}, "certificate signed by unknown authority\n  fix: set etcd.tls.ca to the file of the authority that signed etcd's certificate (env prod of users)"},
		"no certificate":     {strict.Addr, config, certs.ClientConfig{CA: strict.CA}, "tls: certificate required\n  fix: set etcd.tls.cert and etcd.tls.key"},
		"plaintext to TLS":   {secure.Addr, config, certs.ClientConfig{}, "  fix: it speaks TLS: write https://" + secure.Addr + " in etcd.endpoints and set etcd.tls.ca"},
		"TLS to plaintext":   {f.etcd.Addr(), config, certs.ClientConfig{CA: secure.CA}, "  fix: it does not speak TLS: write http://" + f.etcd.Addr()},
		"--etcd without TLS": {secure.Addr, locate.HowFlag, certs.ClientConfig{}, "  fix: --etcd https://" + secure.Addr},
		"--etcd with TLS":    {"https://" + f.etcd.Addr(), locate.HowFlag, certs.ClientConfig{Enabled: true}, "  fix: --etcd http://" + f.etcd.Addr()},
		"variable":           {secure.Addr, locate.HowEnv, certs.ClientConfig{}, "  fix: export NEWSVC_ETCD=https://" + secure.Addr},
		"--etcd and no CA":   {"https://" + secure.Addr, locate.HowFlag, certs.ClientConfig{Enabled: true}, "unknown authority\n  fix: -C the directory of a service whose config.yaml has etcd.tls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := etcdclient.DefaultConfig()
			cfg.Endpoints, cfg.TLS, cfg.CallTimeout = []string{tc.endpoint}, tc.tls, 30*time.Second
			reg, err := registryview.Open(locate.Place{Etcd: cfg, Prefix: discovery.DefaultPrefix, How: tc.how})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = reg.Close() })
			began := time.Now()
			_, err = reg.List(f.limit(), "")
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v, a call's deadline", took)
			}
			what := "etcd at " + tc.endpoint + " (" + tc.how + ") can't be talked to\n"
			if problem.Code(err) != problem.Environment || !strings.HasPrefix(err.Error(), what) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it says\n%v\nwant %s...%s", err, what, tc.want)
			}
		})
	}
}
