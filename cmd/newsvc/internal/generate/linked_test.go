package generate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// linked is the release of protoc-gen-go that runs in this process.
var linked = protogen.LinkedVersion(protogen.Messages)

func linkedFile(t *testing.T, name string) *descriptorpb.FileDescriptorProto {
	t.Helper()
	fd, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err != nil {
		return nil
	}
	return protodesc.ToFileDescriptorProto(fd)
}

// difference compares what two files declare, in whatever order they do it.
func difference(got, want *descriptorpb.FileDescriptorProto) string {
	g, w := declarations(got), declarations(want)
	for _, line := range w {
		if !slices.Contains(g, line) {
			return "it lacks " + line
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			return "it has " + line
		}
	}
	return ""
}

func declarations(f *descriptorpb.FileDescriptorProto) []string {
	out := []string{"package " + f.GetPackage()}
	for _, x := range f.GetExtension() {
		out = append(out, field("extend "+x.GetExtendee(), x))
	}
	for _, e := range f.GetEnumType() {
		out = append(out, enum("", e)...)
	}
	for _, m := range f.GetMessageType() {
		out = append(out, message("", m)...)
	}
	return out
}

func message(scope string, m *descriptorpb.DescriptorProto) []string {
	scope += "." + m.GetName()
	out := []string{"message " + scope}
	for i, o := range m.GetOneofDecl() {
		if !strings.HasPrefix(o.GetName(), "_") { // those stand for "optional"
			out = append(out, fmt.Sprintf("%s oneof %s %d", scope, o.GetName(), i))
		}
	}
	for _, x := range m.GetField() {
		out = append(out, field(scope, x))
	}
	for _, r := range m.GetExtensionRange() {
		out = append(out, fmt.Sprintf("%s extensions %d %d", scope, r.GetStart(), r.GetEnd()))
	}
	for _, n := range m.GetNestedType() {
		out = append(out, message(scope, n)...)
	}
	for _, e := range m.GetEnumType() {
		out = append(out, enum(scope, e)...)
	}
	return out
}

func field(scope string, x *descriptorpb.FieldDescriptorProto) string {
	return fmt.Sprintf("%s %v %v %s %s = %d optional=%v", scope, x.GetLabel(), x.GetType(), x.GetTypeName(), x.GetName(), x.GetNumber(), x.GetProto3Optional())
}

func enum(scope string, e *descriptorpb.EnumDescriptorProto) []string {
	var out []string
	for _, v := range e.GetValue() {
		out = append(out, fmt.Sprintf("enum %s.%s %s = %d", scope, e.GetName(), v.GetName(), v.GetNumber()))
	}
	return out
}
