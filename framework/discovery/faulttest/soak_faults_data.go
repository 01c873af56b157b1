package faulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

func dataKinds() []soakKind {
	return []soakKind{
		{name: "history compacted", class: classData, begin: func(ctx context.Context, s *soak, f *injected) error {
			rev, err := s.cluster.Revision(ctx)
			if err != nil {
				return err
			}
			f.detail = fmt.Sprintf("up to %d", rev)
			return persist(ctx, func(ctx context.Context) error {
				_, err := s.cluster.Admin().Compact(ctx, rev, clientv3.WithCompactPhysical())
				return err
			})
		}},
		{name: "keys deleted", class: classData, begin: func(ctx context.Context, s *soak, f *injected) error {
			return persist(ctx, func(ctx context.Context) error {
				res, err := s.cluster.Admin().Delete(ctx, s.territory(), clientv3.WithPrefix())
				if err == nil {
					f.detail = fmt.Sprintf("%d keys", res.Deleted)
				}
				return err
			})
		}},
		{name: "leases revoked", class: classData, begin: func(ctx context.Context, s *soak, f *injected) error {
			leases, err := s.cluster.Leases(ctx)
			if err != nil {
				return err
			}
			f.detail = fmt.Sprintf("%d leases", len(leases))
			for _, id := range leases {
				err := persist(ctx, func(ctx context.Context) error {
					_, err := s.cluster.Admin().Revoke(ctx, id)
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "value corrupted", class: classData, begin: func(ctx context.Context, s *soak, f *injected) error {
			v := s.anyServer()
			junk := s.adapter.Keys(v.service) + "junk"
			f.detail = v.String() + ", and a key that is no address"
			f.heal = func(ctx context.Context) error {
				return persist(ctx, func(ctx context.Context) error {
					_, err := s.cluster.Admin().Delete(ctx, junk)
					return err
				})
			}
			return persist(ctx, func(ctx context.Context) error {
				_, err := s.cluster.Admin().Put(ctx, s.keyOf(v), "{\"Addr\": 7")
				if err == nil {
					_, err = s.cluster.Admin().Put(ctx, junk, "\x00\xff")
				}
				return err
			})
		}},
		{name: "no space", class: classData, limit: SoakConvergeDenied, begin: func(ctx context.Context, s *soak, f *injected) error {
			f.heal = func(ctx context.Context) error { return s.alarm(ctx, etcdserverpb.AlarmRequest_DEACTIVATE) }
			return s.alarm(ctx, etcdserverpb.AlarmRequest_ACTIVATE)
		}},
		{name: "permission revoked", class: classData, limit: SoakConvergeDenied, usable: func(s *soak) bool { return s.auth }, begin: func(ctx context.Context, s *soak, f *injected) error {
			f.heal = func(ctx context.Context) error {
				return persist(ctx, func(ctx context.Context) error {
					_, err := s.cluster.Admin().UserGrantRole(ctx, soakUser, soakUser)
					return err
				})
			}
			return persist(ctx, func(ctx context.Context) error {
				_, err := s.cluster.Admin().UserRevokeRole(ctx, soakUser, soakUser)
				return err
			})
		}},
	}
}

// alarm says that there is no space, or that there is again.
func (s *soak) alarm(ctx context.Context, action etcdserverpb.AlarmRequest_AlarmAction) error {
	return persist(ctx, func(ctx context.Context) error {
		list, err := s.cluster.Admin().MemberList(ctx)
		if err != nil {
			return err
		}
		cli := clientv3.RetryMaintenanceClient(s.cluster.Admin(), s.cluster.Admin().ActiveConnection())
		_, err = cli.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: action, MemberID: list.Members[0].ID, Alarm: etcdserverpb.AlarmType_NOSPACE})
		return err
	})
}

// persist asks etcd for something until it is done: a leader that changed or a machine that was busy is no fault of the
// implementation.
func persist(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		once, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := do(once)
		cancel()
		if err == nil || isDone(err) {
			return nil
		}
		if stopped := backoff.Sleep(ctx, 5*probePause); stopped != nil {
			return errors.Join(err, stopped)
		}
	}
}

// isDone tells errors of a second attempt when the first one came through.
func isDone(err error) bool {
	return slices.ContainsFunc([]error{
		rpctypes.ErrCompacted, rpctypes.ErrLeaseNotFound, rpctypes.ErrRoleNotGranted, rpctypes.ErrRoleAlreadyExist, rpctypes.ErrUserAlreadyExist, rpctypes.ErrUserEmpty,
	}, func(e error) bool { return errors.Is(err, e) })
}

// setUpAuth gives the subjects a user that may use their territory and nothing else.
func (s *soak) setUpAuth(ctx context.Context) error {
	if err := s.cluster.Login("", ""); err != nil {
		return err
	}
	cli := s.cluster.Admin()
	var failed error
	step := func(do func(ctx context.Context) error) {
		if failed == nil {
			failed = persist(ctx, do)
		}
	}
	step(func(ctx context.Context) error { _, err := cli.RoleAdd(ctx, "root"); return err })
	step(func(ctx context.Context) error { _, err := cli.UserAdd(ctx, "root", soakSecret); return err })
	step(func(ctx context.Context) error { _, err := cli.UserGrantRole(ctx, "root", "root"); return err })
	step(func(ctx context.Context) error { _, err := cli.RoleAdd(ctx, soakUser); return err })
	step(func(ctx context.Context) error {
		_, err := cli.RoleGrantPermission(ctx, soakUser, s.territory(), clientv3.GetPrefixRangeEnd(s.territory()), clientv3.PermissionType(clientv3.PermReadWrite))
		return err
	})
	step(func(ctx context.Context) error { _, err := cli.UserAdd(ctx, soakUser, soakSecret); return err })
	step(func(ctx context.Context) error { _, err := cli.UserGrantRole(ctx, soakUser, soakUser); return err })
	step(func(ctx context.Context) error { _, err := cli.AuthEnable(ctx); return err })
	if failed != nil {
		return fmt.Errorf("switch passwords on: %w", failed)
	}
	return s.cluster.Login("root", soakSecret)
}
