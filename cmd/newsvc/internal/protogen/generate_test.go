package protogen_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

func TestGoPackageFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	files, err := protogen.Generate(t.Context(), protogen.Input{
		GoRoot: "example.com/blogger-user/proto",
		Files: map[string][]byte{
			"blogger_user/v1/service.proto": []byte(`syntax = "proto3";
package blogger_user.v1;
import "blogger_user/v1/types/types.proto";
service BloggerUserService {
  rpc Get(types.Ref) returns (types.Ref);
}
`),
			"blogger_user/v1/types/types.proto": []byte("syntax = \"proto3\";\npackage blogger_user.v1.types;\nmessage Ref {}\n"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	want := []string{"blogger_user/v1/service.pb.go", "blogger_user/v1/service_grpc.pb.go", "blogger_user/v1/types/types.pb.go"}
	if !slices.Equal(names, want) {
		t.Fatalf("generated %q, want %q", names, want)
	}
	stubs := string(files[1].Content)
	for _, line := range []string{"\npackage bloggeruserv1\n", `"example.com/blogger-user/proto/blogger_user/v1/types"`} {
		if !strings.Contains(stubs, line) {
			t.Errorf("the stubs lack %q:\n%s", line, stubs)
		}
	}
}

func TestMistakesHavePositions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, text, want string }{
		{"syntax", "syntax = \"proto3\";\nmessage A {\n  string = 1;\n}\n", "a.proto:3:10: "},
		{"unknown type", "syntax = \"proto3\";\nmessage A {\n  B b = 1;\n}\n", "a.proto:3:3: "},
		{"unknown import", "syntax = \"proto3\";\nimport \"nowhere/b.proto\";\n", "a.proto:2:8: "},
		{"unknown option", "syntax = \"proto3\";\nimport \"buf/validate/validate.proto\";\nmessage A {\n  string b = 1 [(buf.validate.field).string.max_length = 3];\n}\n", "a.proto:4:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := protogen.Generate(t.Context(), protogen.Input{Files: map[string][]byte{"a.proto": []byte(tc.text)}, GoRoot: "example.com/a"})
			var mistakes *protogen.CompileError
			if !errors.As(err, &mistakes) || len(mistakes.Problems) == 0 {
				t.Fatalf("Generate = %v, want *CompileError", err)
			}
			if !strings.HasPrefix(mistakes.Problems[0], tc.want) {
				t.Errorf("the problem is %q, want it to begin with %q", mistakes.Problems[0], tc.want)
			}
		})
	}
}

func TestNothingToGenerate(t *testing.T) {
	t.Parallel()
	if _, err := protogen.Generate(t.Context(), protogen.Input{}); err == nil {
		t.Error("Generate without files returned no error")
	}
}

func TestCancelledIsNoMistakeInTheFiles(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := protogen.Generate(ctx, protogen.Input{Files: tree(t, "testdata/protos"), GoRoot: "example.com/x"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Generate = %v, want context.Canceled", err)
	}
}

func TestSameBytesEachTime(t *testing.T) {
	t.Parallel()
	in := protogen.Input{Files: tree(t, "testdata/protos"), GoRoot: "example.com/x/proto"}
	first, err := protogen.Generate(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := protogen.Generate(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for i := range first {
			if first[i].Name != again[i].Name || string(first[i].Content) != string(again[i].Content) {
				t.Fatalf("%s differs between two runs", first[i].Name)
			}
		}
	}
}
