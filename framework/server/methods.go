package server

import (
	"slices"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// Methods lists what is registered so far, with health and, where it is on, reflection, as "/package.Service/Method" and
// in order.
func (s *Server) Methods() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	descs := []*grpc.ServiceDesc{&healthpb.Health_ServiceDesc}
	if s.params.Config.Reflection {
		descs = append(descs, &reflectionpb.ServerReflection_ServiceDesc, &reflectionalpha.ServerReflection_ServiceDesc)
	}
	for _, r := range s.pending {
		descs = append(descs, r.desc)
	}
	var methods []string
	for _, d := range descs {
		for _, m := range d.Methods {
			methods = append(methods, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, st := range d.Streams {
			methods = append(methods, "/"+d.ServiceName+"/"+st.StreamName)
		}
	}
	slices.Sort(methods)
	return methods
}
