// Package notprocessed marks refusals that happened before any handler ran, so that the caller may repeat the call on
// another instance whatever the method does. Server interceptors set the mark; the client factory reads it.
package notprocessed

import (
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain and Reason are the ErrorInfo that makes up the mark. They are part of the wire contract.
const (
	Domain = "newsvc"
	Reason = "NOT_PROCESSED"
)

// Error returns an UNAVAILABLE status that carries the mark. The text reaches the caller.
func Error(text string) error {
	return refusal(text, &errdetails.ErrorInfo{Domain: Domain, Reason: Reason})
}

// Later is Error with pushback: whoever repeats the call is to wait so long before.
func Later(text string, wait time.Duration) error {
	return refusal(text, &errdetails.ErrorInfo{Domain: Domain, Reason: Reason}, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
}

func refusal(text string, details ...protoadapt.MessageV1) error {
	st := status.New(codes.Unavailable, text)
	marked, err := st.WithDetails(details...)
	if err != nil { // only an OK status refuses details
		return st.Err()
	}
	return marked.Err()
}

// Wait is how long whoever repeats the call is to wait: what [Later] was told, else 0.
func Wait(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(0, info.GetRetryDelay().AsDuration())
		}
	}
	return 0
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
