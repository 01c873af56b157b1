package generate_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// linked is the release of protoc-gen-go that runs in this process.
var linked = protogen.LinkedVersion(protogen.Messages)

// TestExportsAreWhatIsLinked compiles the exported files as a project's own. Their descriptors have the bytes of those in
// the binary: options of fields, defaults, JSON names, reserved names and ranges of extensions included.
func TestExportsAreWhatIsLinked(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"go.mod": "module example.com/x\n", "proto/x.proto": "syntax = \"proto3\";\n"})
	if _, err := generate.Export(generate.Options{Dir: dir}, "proto"); err != nil {
		t.Fatal(err)
	}
	disown(t, filepath.Join(dir, "proto"))
	p, err := generate.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	compared := map[string]bool{}
	for _, got := range c.Request.GetProtoFile() {
		want := linkedFile(got.GetName())
		if strings.HasPrefix(got.GetName(), "google/protobuf/") || want == nil {
			continue
		}
		compared[got.GetName()] = true
		got.SourceCodeInfo = nil
		if g, w := deterministic(t, got), deterministic(t, want); !bytes.Equal(g, w) {
			t.Errorf("%s is not what is linked (-linked +exported):\n%s", got.GetName(), cmp.Diff(want, got, protocmp.Transform()))
		}
	}
	for _, name := range []string{
		"buf/validate/validate.proto", "google/api/annotations.proto", "google/api/http.proto", "google/api/httpbody.proto",
		"google/rpc/error_details.proto", "google/rpc/status.proto", "newsvc/auth/v1/auth.proto",
	} {
		if !compared[name] {
			t.Errorf("%s was not compared", name)
		}
	}
}

// TestLinkedRulesHaveOptionsOfTheirOwn keeps the test above from comparing nothing: what it compares has all that a
// printer could lose.
func TestLinkedRulesHaveOptionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	rules := linkedFile("buf/validate/validate.proto")
	options, ranges := 0, 0
	for _, m := range rules.GetMessageType() {
		ranges += len(m.GetExtensionRange())
		for _, f := range m.GetField() {
			f.GetOptions().ProtoReflect().Range(func(x protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
				if x.IsExtension() {
					options++
				}
				return true
			})
		}
	}
	if options < 100 || ranges < 10 {
		t.Errorf("%d fields have options of their own, %d messages ranges of extensions", options, ranges)
	}
}

func linkedFile(name string) *descriptorpb.FileDescriptorProto {
	fd, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err != nil {
		return nil
	}
	return protodesc.ToFileDescriptorProto(fd)
}

// deterministic is the wire form, with options read alike: those that the binary knows as what they are.
func deterministic(t *testing.T, f *descriptorpb.FileDescriptorProto) []byte {
	t.Helper()
	wire, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	again := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(wire, again); err != nil {
		t.Fatal(err)
	}
	if wire, err = (proto.MarshalOptions{Deterministic: true}).Marshal(again); err != nil {
		t.Fatal(err)
	}
	return wire
}

// disown takes the first line from exported files: with it they would not be compiled.
func disown(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if first, rest, _ := bytes.Cut(text, []byte("\n")); bytes.Contains(first, []byte("DO NOT EDIT")) {
			err = os.WriteFile(name, rest, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
