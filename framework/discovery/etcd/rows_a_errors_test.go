package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// What etcd may answer to any call, whether it fits the call or not. Which of them says that a lease is gone is believed,
// so a registration may be announced anew after those.
var etcdErrors = []struct {
	err  error
	gone bool
}{
	{rpctypes.ErrGRPCNoSpace, false}, {rpctypes.ErrGRPCCorrupt, false}, {rpctypes.ErrGRPCRequestTooManyRequests, false},
	{rpctypes.ErrGRPCRequestTooLarge, false}, {rpctypes.ErrGRPCNoLeader, false}, {rpctypes.ErrGRPCNotLeader, false},
	{rpctypes.ErrGRPCLeaderChanged, false}, {rpctypes.ErrGRPCNotCapable, false}, {rpctypes.ErrGRPCStopped, false},
	{rpctypes.ErrGRPCTimeout, false}, {rpctypes.ErrGRPCTimeoutDueToLeaderFail, false}, {rpctypes.ErrGRPCTimeoutDueToConnectionLost, false},
	{rpctypes.ErrGRPCTimeoutWaitAppliedIndex, false}, {rpctypes.ErrGRPCUnhealthy, false}, {rpctypes.ErrGRPCNotSupportedForLearner, false},
	{rpctypes.ErrGRPCPermissionDenied, false}, {rpctypes.ErrGRPCInvalidAuthToken, false}, {rpctypes.ErrGRPCAuthOldRevision, false},
	{rpctypes.ErrGRPCAuthFailed, false}, {rpctypes.ErrGRPCUserEmpty, false}, {rpctypes.ErrGRPCCompacted, false},
	{rpctypes.ErrGRPCFutureRev, false}, {rpctypes.ErrGRPCLeaseNotFound, true}, {rpctypes.ErrGRPCLeaseExist, true},
	{rpctypes.ErrGRPCLeaseTTLTooLarge, false}, {rpctypes.ErrGRPCTooManyOps, false}, {rpctypes.ErrGRPCDuplicateKey, false},
	{rpctypes.ErrGRPCEmptyKey, false}, {rpctypes.ErrGRPCCanceled, false}, {rpctypes.ErrGRPCDeadlineExceeded, false},
	{rpctypes.ErrGRPCWatchCanceled, false}, {rpctypes.ErrGRPCClusterIDMismatch, false},
}

func TestA18EveryErrorOfEtcdIsSurvived(t *testing.T) {
	t.Parallel()
	const atOnce = 4
	for first := range atOnce {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel()
			for k := first; k < len(etcdErrors); k += atOnce {
				tc := etcdErrors[k]
				t.Run(strings.ReplaceAll(status.Convert(tc.err).Message(), " ", "-"), func(t *testing.T) { survive(t, tc.err, tc.gone) })
			}
		})
	}
}

// survive refuses every call for a while, before the registration is up and again while it is.
func survive(t *testing.T, refusal error, gone bool) {
	t.Helper()
	f := newFixture(t)
	rel := newRelay(t, f.server.Addr())
	f.cli = dial(t, rel.listen)
	fail := func(string, []byte) ([]byte, error) { return nil, refusal }
	rel.hooks(fail, nil)
	r := f.registrar(withTTL(6 * time.Second))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	reg, err := r.Register(f.ctx(), *discoverytest.Instance("user", addr1))
	if err != nil {
		t.Fatal(err)
	}
	f.await(reg, "a reason", func(st discovery.RegistrationStatus) bool { return st.Err != nil })
	if st := reg.Status(); st.State == discovery.RegistrationUp {
		t.Errorf("status = %+v though etcd refuses everything", st)
	}
	rel.hooks(nil, nil)
	f.await(reg, "it to be up", inState(discovery.RegistrationUp))
	w.WaitAddrs(addr1)
	rel.hooks(fail, nil) // and now while it is up
	f.del(f.key("user", addr1))
	f.pass(300 * time.Millisecond)
	rel.hooks(nil, nil)
	f.await(reg, "it to be up again", announcedAgain(2))
	w.WaitAddrs(addr1)
	f.pass(100 * time.Millisecond)
	if st := reg.Status(); st.State != discovery.RegistrationUp || st.Count > 2 && !gone {
		t.Errorf("status = %+v, want up, announced twice", st)
	}
	if err := r.Close(f.ctx()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if keys := f.keys(); len(keys) > 0 {
		t.Errorf("keys after Close: %v", keys)
	}
}
