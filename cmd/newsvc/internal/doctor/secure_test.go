package doctor_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

func TestAnEtcdThatCannotBeTalkedTo(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t, "")
	front, err := calltest.StartTLS(t.TempDir(), etcd.Addr(), tls.NoClientCert)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = front.Close() })
	place := func(how, endpoint string, conf certs.ClientConfig) doctor.Options {
		o := options(t, how, endpoint)
		o.Locate = func(context.Context) (doctor.Registry, error) {
			c := etcdclient.DefaultConfig()
			c.Endpoints, c.TLS = []string{endpoint}, conf
			return doctor.Registry{Etcd: c, Prefix: prefix, How: how}, nil
		}
		return o
	}
	const own = "config.yaml:3 of user-service"
	for name, tc := range map[string]struct {
		o         doctor.Options
		what, fix string
	}{
		"no CA":              {place(own, front.Addr, certs.ClientConfig{Enabled: true}), "certificate signed by unknown authority; set etcd.tls.ca", "${EDITOR:-vi} "},
		"no TLS":             {place(own, front.Addr, certs.ClientConfig{}), "it speaks TLS", "${EDITOR:-vi} "},
		"--etcd without TLS": {place(locate.HowFlag, front.Addr, certs.ClientConfig{}), "it speaks TLS", "newsvc doctor --etcd https://" + front.Addr},
		"--etcd with TLS":    {place(locate.HowFlag, "https://"+etcd.Addr(), certs.ClientConfig{Enabled: true}), "it does not speak TLS", "newsvc doctor --etcd http://" + etcd.Addr()},
		"variable":           {place(locate.HowEnv, front.Addr, certs.ClientConfig{}), "it speaks TLS", "export NEWSVC_ETCD=https://" + front.Addr},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := finding(t, run(t, tc.o), "etcd")
			if f.Level != doctor.Fail || !strings.Contains(f.What, tc.what) || !strings.HasPrefix(f.Fix, tc.fix) {
				t.Errorf("%+v, want %q and %q", f, tc.what, tc.fix)
			}
		})
	}
	r := run(t, place(own, front.Addr, certs.ClientConfig{CA: front.CA}))
	for _, check := range []string{"etcd", "clock"} {
		if got := level(r, check); got != doctor.OK {
			t.Errorf("with its authority %s is %q, in %+v", check, got, r)
		}
	}
}
