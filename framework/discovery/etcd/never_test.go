package etcd_test

import (
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// What etcd was never asked for need not be revoked: stopping neither waits for an etcd that is away nor complains.
func TestARegistrationThatNeverReachedEtcdLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	nobody := unused(t)
	f.cli = dial(t, nobody)
	r := f.registrar(withTTL(time.Minute))
	reg, err := r.Register(f.ctx(), *discoverytest.Instance("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	f.await(reg, "an attempt to fail", func(st discovery.RegistrationStatus) bool { return st.Err != nil })
	began := time.Now()
	if err := reg.Close(f.ctx()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second { // it would try for a minute
		t.Errorf("it took %v", took)
	}
}
