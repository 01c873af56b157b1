package server

import (
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// validation checks received messages. The rules of a message are compiled once; those of registered services at
// start.
type validation struct {
	validator protovalidate.Validator
	log       logs
}

// prepare compiles the rules of the inputs of the given services ahead of the first call. Services whose descriptors
// are not linked in are compiled when their first message comes.
func (v *validation) prepare(services map[string]grpc.ServiceInfo) error {
	var inputs []protoreflect.MessageDescriptor
	for name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			continue
		}
		service, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			continue
		}
		for i := range service.Methods().Len() {
			inputs = append(inputs, service.Methods().Get(i).Input())
		}
	}
	compiled, err := protovalidate.New(protovalidate.WithMessageDescriptors(inputs...))
	if err != nil {
		return fmt.Errorf("preparing the validation of messages: %w; switch it off with server.chain.validation: false", err)
	}
	v.validator = compiled
	return nil
}

// check returns nil or a status: INVALID_ARGUMENT for a message that breaks its rules, INTERNAL for rules that cannot
// be applied.
func (v *validation) check(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil // a foreign codec; there are no rules to know of
	}
	err := v.validator.Validate(msg)
	if err == nil {
		return nil
	}
	violated, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		v.log.Error("the validation rules of a message cannot be applied",
			zap.String("message", string(msg.ProtoReflect().Descriptor().FullName())), zap.Error(err))
		return status.Error(codes.Internal, "internal error")
	}
	return badRequest(violated)
}

// badRequest says it in google.rpc's words, which clients can read without knowing protovalidate.
func badRequest(violated *protovalidate.ValidationError) error {
	details := &errdetails.BadRequest{}
	for _, violation := range violated.Violations {
		details.FieldViolations = append(details.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field:       protovalidate.FieldPathString(violation.Proto.GetField()),
			Description: violation.Proto.GetMessage(),
			Reason:      violation.Proto.GetRuleId(),
		})
	}
	st := status.New(codes.InvalidArgument, violated.Error())
	detailed, err := st.WithDetails(details)
	if err != nil { // only an OK status refuses details
		return st.Err()
	}
	return detailed.Err()
}

// validatedStream checks each message that the handler receives.
type validatedStream struct {
	grpc.ServerStream
	validation *validation
}

func (s *validatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.validation.check(m)
}
