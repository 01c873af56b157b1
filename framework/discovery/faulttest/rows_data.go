package faulttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// dataRows are faults of what is in etcd.
func dataRows() []Row {
	return []Row{
		{
			ID: "keys-deleted", Covers: []string{"A15", "B12"}, Members: 1, Limit: limitUsual,
			Fault:  "somebody deletes all keys of the services; a server starts at that moment",
			inject: (*stage).deleteAll, proof: (*stage).allDeleted,
		},
		{
			ID: "leases-revoked", Covers: []string{"A4", "A8", "B12"}, Members: 1, Limit: limitUsual,
			Fault:  "somebody revokes all leases; a server starts at that moment",
			inject: (*stage).revokeAll, proof: (*stage).allRevoked,
		},
		{
			ID: "values-corrupted", Covers: []string{"B13"}, Members: 1, Limit: limitUsual,
			Fault:  "what one server wrote is overwritten with nonsense, and keys with nonsense appear beside it; a server starts meanwhile",
			inject: (*stage).corrupt, proof: (*stage).corrupted,
		},
		{
			ID: "compacted", Covers: []string{"B3"}, Members: 1, Limit: limitUsual, orderly: true, links: links{clients: true},
			Fault:  "callers are cut from etcd; a server starts and another one leaves, 300 other revisions follow, and all history is compacted; then the link works again. The limit is 1 s for what compaction needs, and 2 s for the reconnection before it",
			inject: (*stage).compactBehind, proof: (*stage).compacted,
			heal: func(s *stage, _ context.Context) error { return s.relink(s.clientLinks) },
		},
		{
			ID: "key-storm", Covers: []string{"B20"}, Members: 1, Limit: limitUsual,
			Fault:  "500 keys of servers that do not exist are put beside the living ones and deleted again, 50 at a time; a server starts in between",
			inject: (*stage).storm, proof: (*stage).stormed,
		},
		{
			ID: "nospace", Covers: []string{"A17"}, Members: 1, Limit: limitUsual, cluster: ClusterConfig{QuotaBytes: 16 << 20},
			Fault:  "etcd's database is full for 2 TTL; a server starts meanwhile; then it is compacted, defragmented and the alarm disarmed",
			inject: (*stage).fillUp, proof: (*stage).full, heal: (*stage).makeRoom,
		},
	}
}

// etcd is the suite's own client.
func (s *stage) etcd() *clientv3.Client {
	return s.cluster.Admin()
}

// fill writes n small keys and returns the revision then.
func (s *stage) fill(ctx context.Context, prefix string, n int) (rev int64, err error) {
	for i := range n {
		resp, err := s.etcd().Put(ctx, fmt.Sprintf("%s%d", prefix, i%10), "x")
		if err != nil {
			return 0, err
		}
		rev = resp.Header.Revision
	}
	return rev, nil
}

func (s *stage) deleteAll(ctx context.Context) error {
	s.healed = time.Now()
	for _, d := range s.sides {
		resp, err := s.etcd().Delete(ctx, d.adapter.Keys(d.service), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		s.notes["deleted"] += resp.Deleted
	}
	s.newcomers(ctx)
	return nil
}

func (s *stage) allDeleted(context.Context) (string, error) {
	if n, want := s.notes["deleted"], int64(s.working()*s.opt.Servers); n < want {
		return "", fmt.Errorf("%d keys were deleted, not %d", n, want)
	}
	return fmt.Sprintf("etcd confirmed %d deleted keys", s.notes["deleted"]), nil
}

// working is how many adapters take part.
func (s *stage) working() (n int) {
	for _, d := range s.sides {
		if d.err == nil {
			n++
		}
	}
	return n
}

func (s *stage) revokeAll(ctx context.Context) error {
	leases, err := s.etcd().Leases(ctx)
	if err != nil {
		return err
	}
	s.healed = time.Now()
	for _, l := range leases.Leases {
		if _, err := s.etcd().Revoke(ctx, l.ID); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		s.leases = append(s.leases, l.ID)
	}
	s.newcomers(ctx)
	return nil
}

func (s *stage) allRevoked(ctx context.Context) (string, error) {
	if len(s.leases) < s.working()*s.opt.Servers {
		return "", fmt.Errorf("there were only %d leases", len(s.leases))
	}
	return s.leasesGone(ctx)
}

// leasesGone shows that noted leases are dead.
func (s *stage) leasesGone(ctx context.Context) (string, error) {
	for _, id := range s.leases {
		resp, err := s.etcd().TimeToLive(ctx, id)
		if err != nil {
			return "", err
		}
		if resp.TTL >= 0 {
			return "", fmt.Errorf("lease %x lives for another %d s", id, resp.TTL)
		}
	}
	return fmt.Sprintf("%d leases are gone", len(s.leases)), nil
}

// noteLeases notes the leases of the living servers.
func (s *stage) noteLeases(ctx context.Context) error {
	for _, d := range s.sides {
		resp, err := s.etcd().Get(ctx, d.adapter.Keys(d.service), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			s.leases = append(s.leases, clientv3.LeaseID(kv.Lease))
		}
	}
	return nil
}

// nonsense is what stands in etcd beside the living servers; the last is larger than what gRPC allows by default.
func nonsense() map[string]string {
	return map[string]string{"x": "{", "127.0.0.1:1": "", "127.0.0.1:2": `{"Addr":5,"Op":"x"}`, "0.0.0.0:0": `{"Op":0,"Addr":"0.0.0.0:0"}`, "y": strings.Repeat("z", 1<<20)}
}

func (s *stage) corrupt(ctx context.Context) error {
	for _, d := range s.sides {
		if d.err != nil {
			continue
		}
		prefix := d.adapter.Keys(d.service)
		resp, err := s.etcd().Put(ctx, prefix+d.live[0].Addr(), "{", clientv3.WithIgnoreLease())
		if err != nil {
			return err
		}
		s.notes["overwritten"] = resp.Header.Revision
		for name, value := range nonsense() {
			if _, err := s.etcd().Put(ctx, prefix+name, value); err != nil {
				return err
			}
		}
	}
	s.newcomers(ctx)
	s.healed = time.Now() // the nonsense stays; all must be well beside it
	return nil
}

func (s *stage) corrupted(ctx context.Context) (string, error) {
	n := int64(0)
	for _, d := range s.sides {
		for name := range nonsense() {
			resp, err := s.etcd().Get(ctx, d.adapter.Keys(d.service)+name, clientv3.WithCountOnly())
			if err != nil {
				return "", err
			}
			n += resp.Count
		}
	}
	if n < int64(len(nonsense())*s.working()) {
		return "", fmt.Errorf("only %d keys with nonsense are in etcd", n)
	}
	return fmt.Sprintf("%d keys with nonsense are in etcd; the overwriting is revision %d", n, s.notes["overwritten"]), nil
}

func (s *stage) compactBehind(ctx context.Context) error {
	before, err := s.cluster.Revision(ctx)
	if err != nil {
		return err
	}
	s.notes["before"] = before
	for _, l := range s.clientLinks {
		l.Cut()
	}
	s.newcomers(ctx)
	s.each(func(d *side) error {
		return s.soon(ctx, func() bool { return s.listed(ctx, d) == "" })
	})
	s.leavers(ctx)
	rev, err := s.fill(ctx, "/age/", 300)
	if err != nil {
		return err
	}
	_, err = s.etcd().Compact(ctx, rev)
	return err
}

func (s *stage) compacted(ctx context.Context) (string, error) {
	_, err := s.etcd().Get(ctx, "x", clientv3.WithRev(s.notes["before"]+1))
	if !errors.Is(err, rpctypes.ErrCompacted) {
		return "", fmt.Errorf("reading at revision %d: %v", s.notes["before"]+1, err)
	}
	return fmt.Sprintf("etcd says that revision %d, the next for the callers, is compacted", s.notes["before"]+1), nil
}

// storm puts and deletes keys that look like those of living servers.
func (s *stage) storm(ctx context.Context) error {
	const waves, wave = 10, 50
	before, err := s.cluster.Revision(ctx)
	if err != nil {
		return err
	}
	for w := range waves {
		s.each(func(d *side) error { return s.gust(ctx, d, w*wave, wave) })
		if w == waves/2 {
			s.newcomers(ctx)
		}
	}
	rev, err := s.cluster.Revision(ctx)
	s.notes["revisions"] = rev - before
	return err
}

// gust puts n keys of an adapter and deletes them.
func (s *stage) gust(ctx context.Context, d *side, from, n int) error {
	prefix, addr := d.adapter.Keys(d.service), d.live[0].Addr()
	resp, err := s.etcd().Get(ctx, prefix+addr)
	if err != nil || len(resp.Kvs) == 0 {
		return fmt.Errorf("the key of %s is not there to be copied: %w", addr, errors.Join(err))
	}
	dead := func(i int) string { return fmt.Sprintf("127.9.%d.%d:9", i/200, i%200+1) }
	for i := from; i < from+n; i++ {
		if _, err := s.etcd().Put(ctx, prefix+dead(i), strings.ReplaceAll(string(resp.Kvs[0].Value), addr, dead(i))); err != nil {
			return err
		}
	}
	for i := from; i < from+n; i++ {
		if _, err := s.etcd().Delete(ctx, prefix+dead(i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) stormed(context.Context) (string, error) {
	if want := int64(1000 * s.working()); s.notes["revisions"] < want {
		return "", fmt.Errorf("etcd counted only %d changes, not %d", s.notes["revisions"], want)
	}
	return fmt.Sprintf("etcd counted %d changes", s.notes["revisions"]), nil
}

func (s *stage) fillUp(ctx context.Context) error {
	value := strings.Repeat("x", 1<<20)
	for i := range 100 {
		if _, err := s.etcd().Put(ctx, fmt.Sprintf("/fill/%d", i), value); err != nil {
			break // full holds the proof
		}
	}
	s.newcomers(ctx)
	return s.wait(ctx, 2*s.opt.TTL)
}

func (s *stage) full(ctx context.Context) (string, error) {
	_, err := s.etcd().Put(ctx, "/fill/again", "x")
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		return "", fmt.Errorf("a write: %v", err)
	}
	return "etcd refuses a write: " + err.Error(), nil
}

func (s *stage) makeRoom(ctx context.Context) error {
	resp, err := s.etcd().Delete(ctx, "/fill/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if _, err := s.etcd().Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	if _, err := s.etcd().Defragment(ctx, s.cluster.Endpoints()[0]); err != nil {
		return err
	}
	_, err = s.etcd().AlarmDisarm(ctx, &clientv3.AlarmMember{})
	return s.back(err)
}
