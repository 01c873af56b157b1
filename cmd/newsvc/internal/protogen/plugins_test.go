package protogen_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// TestSameAsPlugins hands one request to the plugins that tools/gen pins and to Generate, and compares every byte.
// The files have all kinds of methods, comments in every place, deprecated things, packages named like gRPC's own,
// proto2, proto3 and editions.
func TestSameAsPlugins(t *testing.T) {
	t.Parallel()
	in := protogen.Input{Files: tree(t, "testdata/protos"), GoRoot: "example.com/x/proto"}
	req, err := protogen.Request(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	files, err := protogen.Generate(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got[f.Name] = string(f.Content)
	}
	want := map[string]string{}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		for _, f := range runPlugin(t, plugin, req).GetFile() {
			want[f.GetName()] = f.GetContent()
		}
	}
	if len(want) != 15 {
		t.Errorf("the plugins wrote %d files, want 15", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Generate differs from the plugins (-plugin +ours):\n%s", diff)
	}
}

// TestStubsVersion fails when tools/gen moves to another release, which may write other text.
func TestStubsVersion(t *testing.T) {
	t.Parallel()
	out, err := goTool(t, "protoc-gen-go-grpc", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "protoc-gen-go-grpc " + protogen.StubsVersion; strings.TrimSpace(string(out)) != want {
		t.Errorf("the pinned plugin is %q, the stubs say %q", strings.TrimSpace(string(out)), want)
	}
	out, err = goTool(t, "protoc-gen-go", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "protoc-gen-go " + protogen.LinkedVersion(protogen.Messages); strings.TrimSpace(string(out)) != want {
		t.Errorf("the pinned plugin is %q, linked is %q", strings.TrimSpace(string(out)), want)
	}
}

func goTool(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	modfile, err := filepath.Abs("../../../../tools/gen/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=" + modfile}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

func runPlugin(t *testing.T, name string, req *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	wire, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	cmd := goTool(t, name)
	cmd.Stdin = bytes.NewReader(wire)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var res pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		t.Fatal(err)
	}
	if res.Error != nil {
		t.Fatalf("%s: %s", name, res.GetError())
	}
	return &res
}

func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		files[filepath.ToSlash(rel)] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
