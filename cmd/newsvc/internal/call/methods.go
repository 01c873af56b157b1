package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// ErrNoReflection says that a service does not tell its methods.
var ErrNoReflection = errors.New("no reflection")

// Methods are the services that a callee offers, with all that their messages are made of.
type Methods struct {
	// Services are the names of the services that count, sorted: those of a callee's own, without health and reflection.
	Services []protoreflect.FullName
	files    *protoregistry.Files
}

// The two names of the one protocol; old servers know the second only.
const (
	reflectionV1    = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectionAlpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
)

// Reflect asks an instance, by way of conn, for its methods. The error is [ErrNoReflection] when it does not tell, or that
// of gRPC.
func Reflect(ctx context.Context, conn grpc.ClientConnInterface) (*Methods, error) {
	var err error
	for _, method := range []string{reflectionV1, reflectionAlpha} {
		var m *Methods
		if m, err = reflectBy(ctx, conn, method); err == nil {
			return m, nil
		}
		if status.Code(err) != codes.Unimplemented {
			return nil, err
		}
	}
	return nil, ErrNoReflection
}

func reflectBy(ctx context.Context, conn grpc.ClientConnInterface, method string) (*Methods, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	r := reflection{stream: stream, files: map[string]*descriptorpb.FileDescriptorProto{}}
	res, err := r.ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, err
	}
	m := &Methods{}
	for _, s := range res.GetListServicesResponse().GetService() {
		if strings.HasPrefix(s.GetName(), "grpc.reflection.") {
			continue
		}
		if !common(s.GetName()) {
			m.Services = append(m.Services, protoreflect.FullName(s.GetName()))
		}
		if err := r.fetch(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.GetName()}}); err != nil {
			return nil, err
		}
	}
	slices.Sort(m.Services)
	set := &descriptorpb.FileDescriptorSet{}
	for _, f := range r.files {
		set.File = append(set.File, f)
	}
	m.files, err = protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	return m, err
}

// common reports whether a service is one of those that many servers offer beside their own.
func common(service string) bool {
	return slices.ContainsFunc([]string{"grpc.health.", "grpc.channelz.", "grpc.admin.", "grpc.reflection."}, func(p string) bool { return strings.HasPrefix(service, p) })
}

// reflection is one conversation.
type reflection struct {
	stream grpc.ClientStream
	files  map[string]*descriptorpb.FileDescriptorProto
}

func (r *reflection) ask(req *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
	if err := r.stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) { // io.EOF: RecvMsg knows why
		return nil, err
	}
	res := new(reflectionpb.ServerReflectionResponse)
	if err := r.stream.RecvMsg(res); err != nil {
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unimplemented, "the server ended the conversation")
		}
		return nil, err
	}
	if e := res.GetErrorResponse(); e != nil {
		return nil, fmt.Errorf("reflection: %s (%s)", e.GetErrorMessage(), codes.Code(e.GetErrorCode())) //nolint:gosec // a code of gRPC
	}
	return res, nil
}

// fetch asks for a file, and for those that it imports.
func (r *reflection) fetch(req *reflectionpb.ServerReflectionRequest) error {
	res, err := r.ask(req)
	if err != nil {
		return err
	}
	var need []string
	for _, raw := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(raw, f); err != nil {
			return fmt.Errorf("reflection: %w", err)
		}
		r.files[f.GetName()] = f
		need = append(need, f.GetDependency()...)
	}
	for _, name := range need {
		if r.files[name] != nil {
			continue
		}
		if known, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil && strings.HasPrefix(name, "google/protobuf/") {
			r.files[name] = protodesc.ToFileDescriptorProto(known)
			continue
		}
		if err := r.fetch(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: name}}); err != nil {
			return err
		}
	}
	return nil
}

// Find returns the method that a person means by text: "Ping", "Service/Ping", "pkg.v1.Service/Ping" or
// "pkg.v1.Service.Ping". The error is a [*problem.Error] with exit 5 and what is near; retry is the command line to paste,
// up to the method.
func (m *Methods) Find(callee, text, retry string) (protoreflect.MethodDescriptor, error) {
	service, method := split(text)
	var found []protoreflect.MethodDescriptor
	var names []string
	for _, d := range m.all(service != "") {
		parent := string(d.Parent().FullName())
		if string(d.Name()) == method && (service == "" || parent == service || strings.HasSuffix(parent, "."+service)) {
			found = append(found, d)
		}
		names = append(names, string(d.Name()))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		p := &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%d services of %s have a method %s", len(found), callee, method), Fix: retry + " " + Path(found[0])[1:]}
		var paths []string
		for _, d := range found {
			paths = append(paths, Path(d)[1:])
		}
		p.At = strings.Join(paths, ", ")
		return nil, p
	case len(names) == 0:
		return nil, &problem.Error{Exit: problem.NotFound, What: callee + " has no methods", At: "services: " + joined(m.Services), Fix: "newsvc ls " + callee}
	}
	p := &problem.Error{Exit: problem.NotFound, What: fmt.Sprintf("no method %s in %s; it has %s", text, callee, strings.Join(names, ", "))}
	if near := nearest.Word(method, names); near != "" {
		p.Fix = retry + " " + near
	} else {
		p.Fix = retry + " " + names[0]
	}
	return nil, p
}

func joined(names []protoreflect.FullName) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

// split takes the name of a service off; empty when there is none.
func split(text string) (service, method string) {
	text = strings.TrimPrefix(text, "/")
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		return text[:i], text[i+1:]
	}
	if i := strings.LastIndexByte(text, '.'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return "", text
}

// all are the methods of the callee's own services; with named also those of services that every callee has, like health.
func (m *Methods) all(named bool) []protoreflect.MethodDescriptor {
	var out []protoreflect.MethodDescriptor
	m.files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for n := range f.Services().Len() {
			s := f.Services().Get(n)
			if !slices.Contains(m.Services, s.FullName()) && !(named && common(string(s.FullName()))) {
				continue
			}
			for k := range s.Methods().Len() {
				out = append(out, s.Methods().Get(k))
			}
		}
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return out
}

// Names are the short names of all methods, for completion.
func (m *Methods) Names() []string {
	var out []string
	for _, d := range m.all(false) {
		out = append(out, string(d.Name()))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Path is a method's name on the wire.
func Path(d protoreflect.MethodDescriptor) string {
	return "/" + string(d.Parent().FullName()) + "/" + string(d.Name())
}

// Types finds the types of what is inside google.protobuf.Any.
func (m *Methods) Types() *dynamicpb.Types { return dynamicpb.NewTypes(m.files) }
