package faulttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// The user of servers and callers while authentication is on. Its role has the user's name.
const (
	accessUser     = "fault"
	accessPassword = "fault-password"
	rootUser       = "root"
	accessToken    = 3 * time.Second
)

// accessRows are faults of authentication.
func accessRows() []Row {
	return []Row{
		{
			ID: "token-expired", Covers: []string{"A19", "B5"}, Members: 1, Limit: limitUsual, orderly: true, links: links{clients: true},
			Fault:   "authentication is on and tokens live 3 s; after twice that callers are cut off, what they would watch next is compacted, and the link works again: they need another token",
			cluster: ClusterConfig{AuthTokenTTL: accessToken}, prepare: (*stage).turnAuthOn,
			inject: (*stage).outliveTokens, proof: (*stage).tokenExpired,
			heal: func(s *stage, _ context.Context) error { return s.relink(s.clientLinks) },
		},
		{
			ID: "role-revoked", Covers: []string{"A19", "B6"}, Members: 1, Limit: limitRefused, links: links{clients: true}, hold: time.Minute,
			Fault:   "the role of servers and callers loses its permissions for 2 TTL, and callers have to connect anew; a server starts meanwhile. Who was refused asks again after 30 s, give or take a fifth",
			prepare: (*stage).turnAuthOn, inject: (*stage).revokeRole, proof: (*stage).denied, heal: (*stage).giveRoleBack,
		},
	}
}

// turnAuthOn makes the users and switches authentication on.
func (s *stage) turnAuthOn(ctx context.Context) error {
	c := s.cluster.Admin()
	var errs []error
	note := func(_ any, err error) { errs = append(errs, err) }
	note(c.RoleAdd(ctx, rootUser))
	note(c.UserAdd(ctx, rootUser, accessPassword))
	note(c.UserGrantRole(ctx, rootUser, rootUser))
	note(c.RoleAdd(ctx, accessUser))
	note(c.UserAdd(ctx, accessUser, accessPassword))
	note(c.UserGrantRole(ctx, accessUser, accessUser))
	for _, p := range s.territories() {
		note(c.RoleGrantPermission(ctx, accessUser, p, clientv3.GetPrefixRangeEnd(p), clientv3.PermissionType(clientv3.PermReadWrite)))
	}
	note(c.AuthEnable(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch authentication on: %w", err)
	}
	s.credentials = Etcd{Username: accessUser, Password: accessPassword}
	return s.cluster.Login(rootUser, accessPassword)
}

// territories are the prefixes below which the adapters keep their services. One of them lists without the slash at the end.
func (s *stage) territories() (all []string) {
	for _, d := range s.sides {
		all = append(all, strings.TrimSuffix(d.adapter.Keys(d.service), "/"))
	}
	return all
}

// client makes another client for the suite itself.
func (s *stage) client(user, password string) (*clientv3.Client, error) {
	c, err := newClient(s.cluster.Endpoints(), user, password)
	if err == nil {
		s.closers = append(s.closers, c.Close)
	}
	return c, err
}

func (s *stage) outliveTokens(ctx context.Context) error {
	c, err := s.client("", "")
	if err != nil {
		return err
	}
	resp, err := c.Authenticate(ctx, accessUser, accessPassword)
	if err != nil {
		return err
	}
	s.token = resp.Token
	if err := s.wait(ctx, 2*accessToken); err != nil {
		return err
	}
	return s.compactBehind(ctx)
}

// tokenExpired shows that a token of before is worth nothing.
func (s *stage) tokenExpired(ctx context.Context) (string, error) {
	c, err := s.client("", "")
	if err != nil {
		return "", err
	}
	_, err = c.Get(metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, s.token), s.territories()[0]+"/")
	if !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		return "", fmt.Errorf("reading with a token of before: %v", err)
	}
	text, err := s.compacted(ctx)
	return join("a token of before is refused", text), err
}

func (s *stage) revokeRole(ctx context.Context) error {
	for _, p := range s.territories() {
		if _, err := s.etcd().RoleRevokePermission(ctx, accessUser, p, clientv3.GetPrefixRangeEnd(p)); err != nil {
			return err
		}
	}
	for _, l := range s.clientLinks {
		l.Reset()
	}
	s.newcomers(ctx)
	return s.wait(ctx, 2*s.opt.TTL)
}

// denied shows that the user may not read.
func (s *stage) denied(ctx context.Context) (string, error) {
	c, err := s.client(accessUser, accessPassword)
	if err != nil {
		return "", err
	}
	_, err = c.Get(ctx, s.territories()[0]+"/")
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return "", fmt.Errorf("reading as %s: %v", accessUser, err)
	}
	return "etcd refuses a read: " + err.Error(), nil
}

func (s *stage) giveRoleBack(ctx context.Context) error {
	for _, p := range s.territories() {
		if _, err := s.etcd().RoleGrantPermission(ctx, accessUser, p, clientv3.GetPrefixRangeEnd(p), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
			return err
		}
	}
	return s.back(nil)
}
