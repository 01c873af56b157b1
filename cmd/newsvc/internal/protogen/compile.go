package protogen

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	// Linked for their descriptors: what a .proto file may import.
	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/api/httpbody"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/apipb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/sourcecontextpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/typepb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"

	// Linked like those above: it says who may call a method.
	_ "github.com/newsvc/newsvc/proto/newsvc/auth/v1"
)

// CompileError lists what is wrong with .proto files.
type CompileError struct {
	// Problems are "file:line:column: message", sorted by that; never empty.
	Problems []string
}

// Error returns all problems, one a line.
func (e *CompileError) Error() string { return strings.Join(e.Problems, "\n") }

func compile(ctx context.Context, in Input, paths []string) (linker.Files, error) {
	var found []reporter.ErrorWithPos
	c := protocompile.Compiler{
		Resolver: protocompile.CompositeResolver{
			texts(in.Files), protocompile.ResolverFunc(linked), texts(in.Imports),
		},
		SourceInfoMode: protocompile.SourceInfoStandard,
		MaxParallelism: 1, // problems are collected without a lock and come in the order of the files
		Reporter: reporter.NewReporter(func(err reporter.ErrorWithPos) error {
			found = append(found, err)
			return nil
		}, nil),
	}
	files, err := c.Compile(ctx, paths...)
	switch {
	case len(found) > 0:
		return nil, &CompileError{Problems: in.withNearMisses(inOrder(found))}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, err
	case err != nil:
		return nil, &CompileError{Problems: in.withNearMisses([]string{err.Error()})}
	}
	return files, nil
}

// inOrder is the order in which a reader meets the mistakes.
func inOrder(found []reporter.ErrorWithPos) []string {
	slices.SortStableFunc(found, func(a, b reporter.ErrorWithPos) int {
		x, y := a.GetPosition(), b.GetPosition()
		return cmp.Or(strings.Compare(x.Filename, y.Filename), cmp.Compare(x.Line, y.Line), cmp.Compare(x.Col, y.Col))
	})
	var out []string
	for _, f := range found {
		out = append(out, f.Error())
	}
	return out
}

func texts(files map[string][]byte) protocompile.Resolver {
	return &protocompile.SourceResolver{Accessor: func(p string) (io.ReadCloser, error) {
		text, ok := files[p]
		if !ok {
			return nil, protoregistry.NotFound
		}
		return io.NopCloser(bytes.NewReader(text)), nil
	}}
}

func linked(p string) (protocompile.SearchResult, error) {
	fd, err := protoregistry.GlobalFiles.FindFileByPath(p)
	if err != nil {
		return protocompile.SearchResult{}, err
	}
	return protocompile.SearchResult{Desc: fd}, nil
}

// describe returns the descriptor of fd as a plugin gets it: with comments and, for the files of in, a go_package.
func describe(fd protoreflect.FileDescriptor, in Input) *descriptorpb.FileDescriptorProto {
	d := protoutil.ProtoFromFileDescriptor(fd)
	if in.Manage != nil {
		d = proto.CloneOf(d)
		in.Manage(d)
		return d
	}
	if _, ours := in.Files[fd.Path()]; !ours || d.GetOptions().GetGoPackage() != "" {
		return d
	}
	d = proto.CloneOf(d)
	if d.Options == nil {
		d.Options = &descriptorpb.FileOptions{}
	}
	d.Options.GoPackage = proto.String(goPackage(in.GoRoot, fd.Path(), string(fd.Package())))
	return d
}
