package user

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// failure turns what a store answered into what a client is told. id and email are those of the request.
func failure(what string, err error, id, email string) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return answer(codes.NotFound, fmt.Sprintf("%s: no user has the id %q", what, id),
			&errdetails.ResourceInfo{ResourceType: resourceType(), ResourceName: id, Description: "it was never created or it was deleted"})
	case errors.Is(err, ErrEmailTaken):
		return answer(codes.AlreadyExists, fmt.Sprintf("%s: another user has the email %q", what, email),
			&errdetails.ResourceInfo{ResourceType: resourceType(), ResourceName: email, Description: "emails are unique, compared without case"})
	case errors.Is(err, ErrBusy), errors.Is(err, ErrClosed):
		return &storageError{codes.Unavailable, what, err}
	case errors.Is(err, context.DeadlineExceeded):
		return &storageError{codes.DeadlineExceeded, what, err}
	case errors.Is(err, context.Canceled):
		return &storageError{codes.Canceled, what, err}
	default:
		return &storageError{codes.Internal, what, err}
	}
}

// invalid answers that one field of the request cannot be used.
func invalid(what, field, description string) error {
	return answer(codes.InvalidArgument, fmt.Sprintf("%s: %s: %s", what, field, description),
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}}})
}

// answer makes a status with details; a detail that cannot be encoded is left out rather than the answer.
func answer(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	st := status.New(code, message)
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st.Err()
}

func resourceType() string { return string((*userv1.User)(nil).ProtoReflect().Descriptor().FullName()) }

// storageError tells the operator, who logs Error, what went wrong, and the client, who gets GRPCStatus, only of what kind it
// is: paths and statements are none of its business.
type storageError struct {
	code  codes.Code
	what  string
	cause error
}

func (e *storageError) Error() string { return e.what + ": " + e.cause.Error() }

func (e *storageError) Unwrap() error { return e.cause }

func (e *storageError) GRPCStatus() *status.Status {
	reason := "the user storage failed"
	switch e.code {
	case codes.Unavailable:
		reason = "the user storage is busy; try again"
	case codes.DeadlineExceeded, codes.Canceled:
		reason = "the call ended before the user storage answered"
	}
	return status.New(e.code, e.what+": "+reason)
}
