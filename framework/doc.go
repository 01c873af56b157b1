// Package framework is a map, and holds no code. Its packages turn plain gRPC implementations into services that find
// each other by name:
//
//	package main
//
//	import (
//		"context"
//
//		"github.com/newsvc/newsvc/framework/app"
//		userv1 "github.com/newsvc/newsvc/proto/user/v1"
//	)
//
//	type users struct {
//		userv1.UnimplementedUserServiceServer
//	}
//
//	func newUsers() *users { return &users{} }
//
//	func (*users) GetUser(_ context.Context, req *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
//		return &userv1.GetUserResponse{User: &userv1.User{Id: req.GetId(), DisplayName: "Ada"}}, nil
//	}
//
//	func main() {
//		app.Run("user-service", app.Serve(userv1.RegisterUserServiceServer, newUsers))
//	}
//
// That program reads its configuration, listens on :9000, registers in etcd once it is ready, answers health checks,
// counts and validates its calls, and leaves in good order when it gets a signal. A caller adds one line,
// app.Client("user-service", userv1.NewUserServiceClient), and takes a userv1.UserServiceClient in its constructors.
//
// What a service's main sees:
//
//   - app: the edge to Fx. Options in, a running process out.
//   - apptest: the same options in a test, in memory or with a real etcd.
//   - gateway, gateway/gatewayfx: HTTP/JSON in front of services that are found by name.
//
// What puts the rooms together:
//
//   - stack: server, clients, discovery and admin server with their default chains, and the order in which they start
//     and stop. It works without Fx.
//
// The rooms, which know nothing of each other but what a listed few need:
//
//   - config: layered sources to strict, typed sections that know where each value was set, and take over what changes;
//     config/etcdsource: a prefix of etcd as one of them.
//   - logging, telemetry: zap's logger from configuration; metrics and traces as interceptors.
//   - discovery: instance, source, registrar, and the names and values in etcd. discovery/etcd announces and reads there,
//     discovery/cache shares one watch and holds back mass disappearances, discovery/discoverytest keeps all in memory
//     and is the conformance suite, discovery/faulttest puts all of it under faults, and
//     discovery/faulttest/newsvc is the stack as its subject.
//   - grpcresolver: a cache of instances as gRPC's name resolver.
//   - client: a stable connection for each callee, with its policy.
//   - server: the gRPC server, its chain of named slots, its health and its stop.
//   - readiness: named checks, one answer.
//   - httpserver, admin: an HTTP listener; what operators ask, mounted on one.
//   - etcdclient, certs: the process' one etcd client; TLS files that are looked at again when they change.
//   - auth: who makes a call, by token or certificate, and what he may call.
//   - coordination: one process at a time does something; leaders, locks and their fencing tokens.
//   - devetcd: a real etcd in this process, for development and tests.
//
// docs/architecture.md walks one call and one instance through them.
package framework
