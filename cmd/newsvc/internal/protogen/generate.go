// Package protogen turns .proto files into Go inside this process: it compiles them with protocompile and runs the
// generators of messages and gRPC stubs as libraries. It needs no protoc, no buf, no plugin on PATH and no network.
//
// What it writes equals what buf generate writes with protoc-gen-go and protoc-gen-go-grpc of the versions linked into
// this binary (docs/decisions/0006-grpc-stubs-in-process.md). It is no build tool: it reads and writes no files, the
// caller hands them over and takes them back.
package protogen

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/pluginpb"
)

// Input is a tree of .proto files and where its Go code lives.
type Input struct {
	// Files maps paths below the proto root ("user/v1/service.proto") to their text. Imports are looked up here first,
	// then among the files linked into this binary: google/protobuf, google/api, google/rpc and buf/validate.
	Files map[string][]byte
	// GoRoot is the Go import path of the proto root, for example "example.com/blogger-user/proto". A file without
	// option go_package gets GoRoot, its own directory, and the package name made of the last two parts of its proto
	// package ("blogger_user.v1" gives bloggeruserv1). A go_package in the file wins.
	GoRoot string
}

// File is one generated file. Name is its path below the proto root.
type File struct {
	Name    string
	Content []byte
}

// Generate compiles all files of in and returns their Go code, sorted by name: X.pb.go for each, X_grpc.pb.go for
// each that declares a service. Mistakes in the files are reported as [*CompileError].
func Generate(ctx context.Context, in Input) ([]File, error) {
	req, err := Request(ctx, in)
	if err != nil {
		return nil, err
	}
	plugin, err := protogen.Options{}.New(req)
	if err != nil {
		return nil, fmt.Errorf("generate go from %s: %w", strings.Join(req.GetFileToGenerate(), ", "), err)
	}
	for _, f := range plugin.Files {
		if f.Generate {
			gengo.GenerateFile(plugin, f)
			generateStubs(plugin, f)
		}
	}
	res := plugin.Response()
	if res.Error != nil {
		return nil, fmt.Errorf("generate go from %s: %s", strings.Join(req.GetFileToGenerate(), ", "), res.GetError())
	}
	var files []File
	for _, f := range res.GetFile() {
		files = append(files, File{Name: f.GetName(), Content: []byte(f.GetContent())})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(files); i++ {
		if name := files[i].Name; name == files[i-1].Name { // only stubs can meet the messages of another file
			base := strings.TrimSuffix(name, "_grpc.pb.go")
			return nil, &CompileError{Problems: []string{fmt.Sprintf(
				"%s_grpc.proto:1:1: its Go code and the gRPC stubs of %s.proto would both be %s; rename one of them", base, base, name)}}
		}
	}
	return files, nil
}

// Request compiles all files of in to what a protoc plugin reads on its standard input.
func Request(ctx context.Context, in Input) (*pluginpb.CodeGeneratorRequest, error) {
	paths := slices.Sorted(maps.Keys(in.Files))
	if len(paths) == 0 {
		return nil, fmt.Errorf("no .proto files to generate from")
	}
	files, err := compile(ctx, in.Files, paths)
	if err != nil {
		return nil, err
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: paths, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, describe(fd, in))
	}
	for _, f := range files {
		add(f)
	}
	return asReadByPlugin(req)
}

// goPackage is the go_package of a file that names none.
func goPackage(goRoot, file, protoPackage string) string {
	parts := strings.Split(protoPackage, ".")
	name := strings.ReplaceAll(strings.Join(parts[max(0, len(parts)-2):], ""), "_", "")
	return path.Join(goRoot, path.Dir(file)) + ";" + name
}

// asReadByPlugin sends req through its wire form without knowing any extension. Options that this binary happens to
// know, such as buf.validate, then keep the bytes and the order in which a plugin sees them, and so the descriptor in
// the generated file is the same.
func asReadByPlugin(req *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorRequest, error) {
	wire, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode the generator request: %w", err)
	}
	out := &pluginpb.CodeGeneratorRequest{}
	none := &protoregistry.Types{}
	if err := (proto.UnmarshalOptions{AllowPartial: true, Resolver: none}).Unmarshal(wire, out); err != nil {
		return nil, fmt.Errorf("decode the generator request: %w", err)
	}
	return out, nil
}
