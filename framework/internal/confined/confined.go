// Package confined makes errors of calls that say more in this process than outside of it. Why a callee has no instances
// names the registry, its prefix and its addresses: that is for the log of whoever made the call, not for whoever called
// him, who may be anybody.
package confined

import (
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

// Public returns err as it may leave the process. It differs from err only when that wraps one [Error] or more: gRPC would
// send the text of the whole, with the full texts in it.
func Public(err error) error {
	if err == nil { // before found, which is allocated where it is declared
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // gRPC sends that instead of a text
		return err
	}
	found := within(err, nil)
	if len(found) == 0 {
		return err
	}
	text := err.Error()
	for _, e := range found {
		text = strings.ReplaceAll(text, e.Error(), e.public.Message())
	}
	p := status.Convert(err).Proto()
	p.Message = text
	return status.FromProto(p).Err()
}

// within adds to found what err is and wraps; joined errors wrap several.
func within(err error, found []*Error) []*Error {
	switch e := err.(type) { //nolint:errorlint // this is what walks through what is wrapped
	case *Error:
		return append(found, e)
	case interface{ Unwrap() error }:
		return within(e.Unwrap(), found)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			found = within(one, found)
		}
	}
	return found
}
