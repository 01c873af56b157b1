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

	"github.com/bufbuild/protocompile/options"
	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// Input is a tree of .proto files and where its Go code lives.
type Input struct {
	// Files maps paths below the proto root ("user/v1/service.proto") to their text. Imports are looked up here first,
	// then among the files linked into this binary (google/protobuf, google/api, google/rpc, buf/validate,
	// newsvc/auth), then in Imports.
	Files map[string][]byte
	// Imports are further files that may be imported; no code is generated from them.
	Imports map[string][]byte
	// Only limits for which of Files code is generated; empty means all.
	Only []string
	// GoRoot is the Go import path of the proto root, for example "example.com/blogger-user/proto". A file without
	// option go_package gets GoRoot, its own directory, and the package name made of the last two parts of its proto
	// package ("blogger_user.v1" gives bloggeruserv1). A go_package in the file wins.
	GoRoot string
	// Manage, when set, takes the place of GoRoot: it changes the options of any file, those of imports too, as buf's
	// managed mode would. A file that has no go_package then is a mistake.
	Manage func(file *descriptorpb.FileDescriptorProto)
}

// File is one generated file. Name is its path below the directory the plugin writes to.
type File struct {
	Name    string
	Content []byte
}

// Plugins that [RunLinked] knows, by the names of their programs.
const (
	Messages = "protoc-gen-go"
	Stubs    = "protoc-gen-go-grpc"
)

// Generate compiles all files of in and returns their Go code, sorted by name: X.pb.go for each, X_grpc.pb.go for
// each that declares a service. Mistakes in the files are reported as [*CompileError].
func Generate(ctx context.Context, in Input) ([]File, error) {
	req, err := Request(ctx, in)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, plugin := range []string{Messages, Stubs} {
		more, err := RunLinked(plugin, req)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return Merge(files)
}

// RunLinked answers req as the plugin would whose version is linked into this binary, see [LinkedVersion]. The
// parameter of req may hold paths= and module=.
func RunLinked(name string, req *pluginpb.CodeGeneratorRequest) ([]File, error) {
	what := strings.Join(req.GetFileToGenerate(), ", ")
	plugin, err := protogen.Options{}.New(req)
	if err != nil {
		return nil, fmt.Errorf("generate go from %s: %w", what, err)
	}
	if err := asInOwnProcess(plugin); err != nil {
		return nil, fmt.Errorf("generate go from %s: %w", what, err)
	}
	for _, f := range plugin.Files {
		switch {
		case !f.Generate:
		case name == Messages:
			gengo.GenerateFile(plugin, f)
		case name == Stubs:
			generateStubs(plugin, f)
		}
	}
	return Answer(what, plugin.Response())
}

// Answer returns the files of a plugin's answer; what names what it was asked for.
func Answer(what string, res *pluginpb.CodeGeneratorResponse) ([]File, error) {
	if res.Error != nil {
		return nil, fmt.Errorf("generate go from %s: %s", what, res.GetError())
	}
	var files []File
	for _, f := range res.GetFile() {
		if f.GetInsertionPoint() != "" {
			return nil, fmt.Errorf("generate go from %s: the plugin wants to insert into %s, which is not supported", what, f.GetName())
		}
		files = append(files, File{Name: f.GetName(), Content: []byte(f.GetContent())})
	}
	return files, nil
}

// LinkedVersion is the release of the plugin whose output [RunLinked] writes, such as "v1.6.2"; empty for a name that
// it does not know.
func LinkedVersion(name string) string {
	switch name {
	case Messages:
		return "v" + protogenVersion()
	case Stubs:
		return "v" + StubsVersion
	}
	return ""
}

// protogenVersion reads the version from the head of a generated file: it is an internal constant of the library.
func protogenVersion() string {
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{"v.proto"},
		ProtoFile: []*descriptorpb.FileDescriptorProto{{
			Name: proto.String("v.proto"), Syntax: proto.String("proto3"), Options: &descriptorpb.FileOptions{GoPackage: proto.String("v/v")},
		}},
	}
	files, err := RunLinked(Messages, req)
	if err != nil || len(files) != 1 {
		return "unknown"
	}
	_, version, _ := strings.Cut(string(files[0].Content), "protoc-gen-go v")
	version, _, _ = strings.Cut(version, "\n")
	return version
}

// asInOwnProcess reads the options of all files again with the extensions that the request declares, as the library does
// for a plugin to which they are new. In this process some are linked, so it sees nothing new in them, and would leave
// them among the unknown fields: the descriptor in the generated file would have the same options in another order.
func asInOwnProcess(plugin *protogen.Plugin) error {
	local, novel := &protoregistry.Types{}, false
	for _, f := range plugin.Files {
		for i := range f.Desc.Extensions().Len() {
			x := dynamicpb.NewExtensionType(f.Desc.Extensions().Get(i))
			if !strings.HasPrefix(f.Desc.Path(), "google/protobuf/") {
				novel = true
			} else if linked, err := protoregistry.GlobalTypes.FindExtensionByName(x.TypeDescriptor().FullName()); err == nil {
				x = linked // into every plugin
			}
			if err := local.RegisterExtension(x); err != nil {
				return err
			}
		}
	}
	if !novel {
		return nil
	}
	for _, f := range plugin.Files {
		wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(f.Proto)
		if err != nil {
			return err
		}
		if err := (proto.UnmarshalOptions{AllowPartial: true, Resolver: local}).Unmarshal(wire, f.Proto); err != nil {
			return err
		}
	}
	return nil
}

// Merge sorts files by name and refuses two of one name.
func Merge(files []File) ([]File, error) {
	slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(files); i++ {
		name := files[i].Name
		base, stubs := strings.CutSuffix(name, "_grpc.pb.go")
		switch {
		case name != files[i-1].Name:
		case stubs: // the stubs of a file and the messages of another one
			return nil, &CompileError{Problems: []string{fmt.Sprintf(
				"%s_grpc.proto:1:1: its Go code and the gRPC stubs of %s.proto would both be %s; rename one of them", base, base, name)}}
		default:
			return nil, fmt.Errorf("%s would be written twice; give the plugins another out", name)
		}
	}
	return files, nil
}

// Request compiles all files of in to what a protoc plugin reads on its standard input. Its parameter asks for output
// beside the source.
func Request(ctx context.Context, in Input) (*pluginpb.CodeGeneratorRequest, error) {
	paths := slices.Sorted(maps.Keys(in.Files))
	if len(paths) == 0 {
		return nil, fmt.Errorf("no .proto files to generate from")
	}
	files, err := compile(ctx, in, paths)
	if err != nil {
		return nil, err
	}
	if len(in.Only) > 0 {
		paths = in.Only
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: paths, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	var homeless []string
	var add func(protoreflect.FileDescriptor) error
	add = func(fd protoreflect.FileDescriptor) error {
		if seen[fd.Path()] {
			return nil
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			if err := add(fd.Imports().Get(i).FileDescriptor); err != nil {
				return err
			}
		}
		d := describe(fd, in)
		if d.GetOptions().GetGoPackage() == "" {
			homeless = append(homeless, fmt.Sprintf("%s:1:1: it has no go_package, and nothing gives it one", fd.Path()))
		}
		return addFile(req, d)
	}
	for _, f := range files {
		if slices.Contains(paths, f.Path()) {
			if err := add(f); err != nil {
				return nil, err
			}
		}
	}
	if len(homeless) > 0 {
		return nil, &CompileError{Problems: homeless}
	}
	return asReadByPlugin(req)
}

// addFile gives a plugin one file. Of those that it generates from it gets two forms, as from protoc and buf: without the
// options that are retained in the source only, and as it is.
func addFile(req *pluginpb.CodeGeneratorRequest, d *descriptorpb.FileDescriptorProto) error {
	if slices.Contains(req.GetFileToGenerate(), d.GetName()) {
		req.SourceFileDescriptors = append(req.SourceFileDescriptors, d)
		stripped, err := options.StripSourceRetentionOptionsFromFile(d)
		if err != nil {
			return fmt.Errorf("read the options of %s: %w", d.GetName(), err)
		}
		d = stripped
	}
	req.ProtoFile = append(req.ProtoFile, d)
	return nil
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
