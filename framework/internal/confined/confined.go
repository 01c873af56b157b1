// Package confined makes errors of calls that say more in this process than outside of it. Why a callee has no instances
// names the registry, its prefix and its addresses: that is for the log of whoever made the call, not for whoever called
// him, who may be anybody.
package confined

import (
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a status with two texts. Its own text, which logs show, is the full one; gRPC, and gateways in front of it,
// take the status out of an error and so send the public one.
type Error struct {
	public *status.Status
	full   string
}

// New returns an error with that code: public leaves the process, full does not.
func New(code codes.Code, public, full string) error {
	return &Error{public: status.New(code, public), full: full}
}

func (e *Error) Error() string {
	return "rpc error: code = " + e.public.Code().String() + " desc = " + e.full
}

// GRPCStatus is the public status.
func (e *Error) GRPCStatus() *status.Status { return e.public }

// Public returns err as it may leave the process. It differs from err only when that wraps an [Error]: gRPC would send the
// text of the whole, with the full text in it.
func Public(err error) error {
	if err == nil { // before e, which is allocated where it is declared
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	if direct, ok := err.(*Error); ok { //nolint:errorlint // the error itself, not one that wraps it
		return direct
	}
	return status.Error(e.public.Code(), strings.ReplaceAll(err.Error(), e.Error(), e.public.Message()))
}
