package client_test

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoChat sends back each message.
func echoChat(_ *server, _, _ string, stream grpc.ServerStream) error {
	for {
		m := &wrapperspb.StringValue{}
		if err := stream.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
}
