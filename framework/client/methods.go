package client

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// methodKind is what a proto says about a method, as far as calling it goes.
type methodKind struct {
	unary      bool
	idempotent bool
}

// methods holds the methods of all protos linked into this process. Which of them a callee serves is not known here
// and does not matter: names are fully qualified. Read-only after it was made.
type methods struct {
	byPath map[string]methodKind       // "/package.Service/Method"
	byKind map[methodKind][]methodName // sorted
}

// linkedMethods reads the process' protos.
func linkedMethods() methods {
	m := methods{byPath: map[string]methodKind{}, byKind: map[methodKind][]methodName{}}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		services := file.Services()
		for i := range services.Len() {
			list := services.Get(i).Methods()
			for j := range list.Len() {
				m.add(services.Get(i), list.Get(j))
			}
		}
		return true
	})
	for _, names := range m.byKind {
		slices.SortFunc(names, func(a, b methodName) int {
			return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Method, b.Method))
		})
	}
	return m
}

func (m methods) add(service protoreflect.ServiceDescriptor, method protoreflect.MethodDescriptor) {
	kind := methodKind{unary: !method.IsStreamingClient() && !method.IsStreamingServer()}
	if o, ok := method.Options().(*descriptorpb.MethodOptions); ok {
		kind.idempotent = o.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
	}
	name := methodName{Service: string(service.FullName()), Method: string(method.Name())}
	m.byPath["/"+name.Service+"/"+name.Method] = kind
	m.byKind[kind] = append(m.byKind[kind], name)
}
