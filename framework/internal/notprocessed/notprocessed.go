// Package notprocessed marks refusals that happened before any handler ran, so that the caller may repeat the call on
// another instance whatever the method does. Server interceptors set the mark; the client factory reads it.
package notprocessed

import (
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Domain and Reason are the ErrorInfo that makes up the mark. They are part of the wire contract.
const (
	Domain = "newsvc"
	Reason = "NOT_PROCESSED"
)

// Error returns an UNAVAILABLE status that carries the mark. The text reaches the caller.
func Error(text string) error {
	st := status.New(codes.Unavailable, text)
	marked, err := st.WithDetails(&errdetails.ErrorInfo{Domain: Domain, Reason: Reason})
	if err != nil { // only an OK status refuses details
		return st.Err()
	}
	return marked.Err()
}

// Is reports whether err is a status that carries the mark.
func Is(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unavailable {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain && info.GetReason() == Reason {
			return true
		}
	}
	return false
}

// Clear returns err without the mark; an err without it is returned as it is. The mark of an error that passes through
// a handler speaks of somebody else's handler, and would have this one's call repeated.
func Clear(err error) error {
	if !Is(err) {
		return err
	}
	p := status.Convert(err).Proto()
	p.Details = slices.DeleteFunc(p.GetDetails(), func(d *anypb.Any) bool {
		var info errdetails.ErrorInfo
		return d.MessageIs(&info) && d.UnmarshalTo(&info) == nil && info.GetDomain() == Domain && info.GetReason() == Reason
	})
	return status.ErrorProto(p)
}
