package fakeetcd

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Trouble is a source of faults for schedules that are drawn at random: each kind by its name, with a number that chooses
// among its variants. One goroutine uses it.
type Trouble struct {
	s       *Server
	backups []Backup
	next    func(method string) Fault // of one write; guarded by the server's mu
	standby func(method string) Fault // of everything until Heal; guarded by the server's mu

	// Patient is set once something happened after which it is right to wait long before the next attempt.
	Patient bool
	// Silent is set once something was lost about which nothing tells, so that only a routine look finds it.
	Silent bool
	// LostEvents is set once a watch was not told of something.
	LostEvents bool
	// Lied is set once etcd denied what is: that a lease exists, for example.
	Lied bool
	// Rewound is set once what had been written or ended may have been undone.
	Rewound bool
	// LeasesEnded is set once somebody ended a lease before its time.
	LeasesEnded bool
}

// NewTrouble returns a source of faults that has done nothing yet. It takes the server's SetFault.
func NewTrouble(s *Server) *Trouble {
	t := &Trouble{s: s, backups: []Backup{s.Backup()}}
	s.SetFault(t.meet)
	return t
}

func (t *Trouble) meet(method string) Fault {
	if t.standby != nil {
		if f := t.standby(method); f != (Fault{}) {
			return f
		}
	}
	if next := t.next; next != nil && (method == "Txn" || method == "Put" || method == "LeaseGrant") {
		t.next = nil
		return next(method)
	}
	return Fault{}
}

// Refusals are the errors that etcd may refuse a request with.
func Refusals() []error {
	return []error{
		rpctypes.ErrGRPCNoSpace, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCUserEmpty,
		rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCAuthFailed, rpctypes.ErrGRPCCorrupt, rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotLeader,
		rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCNotCapable, rpctypes.ErrGRPCStopped, rpctypes.ErrGRPCTimeout,
		rpctypes.ErrGRPCTimeoutDueToLeaderFail, rpctypes.ErrGRPCTimeoutDueToConnectionLost, rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		rpctypes.ErrGRPCUnhealthy, rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCRequestTooLarge, rpctypes.ErrGRPCNotSupportedForLearner,
		rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrGRPCLeaseExist,
		rpctypes.ErrGRPCLeaseTTLTooLarge, rpctypes.ErrGRPCTooManyOps, rpctypes.ErrGRPCDuplicateKey, rpctypes.ErrGRPCEmptyKey,
		rpctypes.ErrGRPCPermissionNotGranted, rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCCanceled,
		rpctypes.ErrGRPCDeadlineExceeded, rpctypes.ErrGRPCWatchCanceled, rpctypes.ErrGRPCClusterIDMismatch,
	}
}

// Links are the kinds of trouble that only keep client and server apart, or the server from its work: nothing that is stored
// is changed by them but by leases that run out.
func Links() []string {
	return []string{"cut", "reset", "hold to server", "hold to client", "hold", "slow", "stop", "no leader", "heal", "heal"}
}

// Kinds are all kinds of trouble.
func Kinds() []string {
	return append(Links(), "refuse all", "refuse writes", "refuse watches", "refuse renewals", "refuse reads", "refuse some",
		"lose a write", "swallow a write", "delay a write", "revoke all", "compact", "remove all", "backup", "restore", "wipe",
		"other cluster", "expire tokens", "lose events")
}

// Make makes one kind of trouble; n chooses among its variants. It returns what it did, for people.
func (t *Trouble) Make(kind string, n int) string {
	s, net := t.s, t.s.Network()
	switch kind {
	case "cut":
		net.Cut()
	case "reset":
		net.Reset()
	case "hold to server":
		net.Hold(true, false)
	case "hold to client":
		net.Hold(false, true)
	case "hold":
		net.Hold(true, true)
	case "slow":
		net.Delay(time.Duration(n%40) * 100 * time.Millisecond)
	case "stop":
		s.Stop()
	case "no leader":
		s.SetLeader(false)
	case "heal":
		t.Heal()
	default:
		return t.store(kind, n)
	}
	return kind
}

// store is the trouble that is not with the link.
func (t *Trouble) store(kind string, n int) string {
	s := t.s
	switch kind {
	case "revoke all":
		t.LeasesEnded = true
		for _, id := range s.Leases() {
			s.Revoke(id)
		}
	case "compact":
		s.CompactAll()
	case "remove all":
		s.Remove("/")
	case "backup":
		t.backups = append(t.backups, s.Backup())
	case "restore":
		t.rewind(t.backups[n%len(t.backups)])
	case "wipe":
		t.rewind(Empty(1))
	case "other cluster":
		t.rewind(Empty(uint64(2 + n%3)))
	case "expire tokens":
		s.ExpireTokens()
	case "lose events":
		t.Silent, t.LostEvents = true, true
		s.DropEvents(func(*mvccpb.Event) bool { return rand.IntN(100) < 1+n%100 })
	default:
		return t.requests(kind, n)
	}
	return kind
}

func (t *Trouble) rewind(b Backup) {
	t.Rewound, t.Silent, t.LeasesEnded = true, true, true
	t.s.Restore(b)
}

// requests is the trouble of single requests.
func (t *Trouble) requests(kind string, n int) string {
	one := func(f Fault) {
		t.s.mu.Lock()
		t.next = func(string) Fault { return f }
		t.s.mu.Unlock()
	}
	switch kind {
	case "lose a write":
		one(Fault{Lose: true})
		return kind
	case "swallow a write":
		one(Fault{Swallow: true})
		return kind
	case "delay a write":
		one(Fault{Late: time.Duration(n%30) * 100 * time.Millisecond})
		return kind
	}
	all := Refusals()
	err := all[n%len(all)]
	methods := map[string][]string{
		"refuse writes": {"Txn", "Put", "LeaseGrant"}, "refuse watches": {"Watch"},
		"refuse renewals": {"LeaseKeepAlive", "LeaseTimeToLive"}, "refuse reads": {"Range"},
	}[kind]
	// Such an error says that waiting helps, or that what is asked about is not there.
	t.Patient, t.Silent = true, true
	t.Lied = t.Lied || errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) || errors.Is(err, rpctypes.ErrGRPCLeaseExist)
	t.s.mu.Lock()
	t.standby = func(method string) Fault {
		if kind == "refuse some" && rand.IntN(2) == 0 || methods != nil && !slices.Contains(methods, method) {
			return Fault{}
		}
		return Fault{Err: err}
	}
	t.s.mu.Unlock()
	return kind + " with " + strings.TrimPrefix(err.Error(), "rpc error: ")
}

// Heal ends all trouble; what was lost stays lost.
func (t *Trouble) Heal() {
	t.s.mu.Lock()
	t.next, t.standby, t.s.faults.drop = nil, nil, nil
	t.s.mu.Unlock()
	t.s.Start()
}
