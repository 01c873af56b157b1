package etcdlink

import (
	"context"
	"errors"
	"path"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// LoginOnce returns an option for clients with a password: without it they answer "log in first" with a login, even when
// it was a login that got this answer, and that login with the next one, as fast as etcd answers and one call deeper each
// time, until the call's deadline or the end of the stack. Old versions of etcd give that answer once a token has expired, and
// so may a proxy. See https://github.com/etcd-io/etcd/pull/12549.
func LoginOnce() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(loginOnce)
}

func loginOnce(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := call(ctx, method, req, reply, cc, opts...)
	if path.Base(method) != "Authenticate" || !wantsLogin(err) {
		return err
	}
	return status.Errorf(codes.Unauthenticated, "etcd wants a login before the login: %s", rpctypes.ErrorDesc(err))
}

// wantsLogin reports whether a client with a password logs in because of the error.
func wantsLogin(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}
