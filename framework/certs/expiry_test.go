package certs_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

func TestExpiryIsThatOfTheWeakestLinkAndOfTheLastAuthority(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "first")
	soon, late := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(9*time.Hour).Truncate(time.Second)
	a, _ := ca.issue(t, "a", soon)
	b, _ := ca.issue(t, "b", late)
	both := write(t, filepath.Join(t.TempDir(), "both.pem"), append(b, a...))
	got := certs.ServerConfig{Cert: both, Key: "x", ClientCA: both}.Expiry()
	if len(got) != 2 || !got[0].At.Equal(soon) || !got[1].At.Equal(late) || got[0].File != both {
		t.Errorf("expiry = %v, want %s for the chain and %s for the authorities", got, soon, late)
	}
	if got := (certs.ClientConfig{Enabled: true}).Expiry(); len(got) != 0 {
		t.Errorf("expiry of no files = %v", got)
	}
	damaged := write(t, filepath.Join(t.TempDir(), "damaged.pem"), b[:len(b)/2])
	for _, file := range []string{damaged, "missing.pem"} {
		if got := (certs.ClientConfig{CA: file}).Expiry(); len(got) != 1 || got[0].Err == nil || !got[0].At.IsZero() {
			t.Errorf("expiry of %q = %v, want an error and no time", file, got)
		}
	}
}
