package protogen_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/descriptorpb"

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

func TestNearMissesOfMistakes(t *testing.T) {
	t.Parallel()
	const other = "syntax = \"proto3\";\npackage other.v1;\nmessage Address { message Street {} enum Kind { KIND_UNSPECIFIED = 0; } }\n"
	for _, tc := range []struct{ name, text, want string }{
		{"type of this package", "message UserId {}\nmessage A { UserIdd b = 1; }", "a.proto:4:13: field a.v1.A.b: unknown type UserIdd; did you mean UserId?"},
		{"nested type", "message Box { message Lid {} }\nmessage A { Box.Lit b = 1; }", "did you mean Box.Lid?"},
		{"type of another package", "import \"other.proto\";\nmessage A { other.v1.Adrss b = 1; }", "did you mean other.v1.Address?"},
		{"enum of another package", "import \"other.proto\";\nmessage A { other.v1.Address.Kid b = 1; }", "did you mean other.v1.Address.Kind?"},
		{"well-known type", "import \"google/protobuf/timestamp.proto\";\nmessage A { google.protobuf.Timestmp b = 1; }", "did you mean google.protobuf.Timestamp?"},
		{"request", "message GetRequest {}\nservice S { rpc Get(GetReqest) returns (GetRequest); }", "unknown request type GetReqest; did you mean GetRequest?"},
		{"import", "import \"othr.proto\";", "a.proto:3:8: there is no file \"othr.proto\" to import; did you mean other.proto?"},
		{"linked import", "import \"buf/validate/valdate.proto\";", "did you mean buf/validate/validate.proto?"},
		{"option", "import \"buf/validate/validate.proto\";\nmessage A { string b = 1 [(buf.validate.field).string.max_lenn = 3]; }", "did you mean max_len?"},
		{"nothing near", "message A { Zebra b = 1; }", "unknown type Zebra"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := protogen.Generate(t.Context(), protogen.Input{GoRoot: "example.com/a", Files: map[string][]byte{
				"a.proto": []byte("syntax = \"proto3\";\npackage a.v1;\n" + tc.text + "\n"), "other.proto": []byte(other),
			}})
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) {
				t.Errorf("Generate = %v\nwant an end of %q", err, tc.want)
			}
		})
	}
}

func TestManagedFileWithoutGoPackageIsAMistake(t *testing.T) {
	t.Parallel()
	in := protogen.Input{
		Files:  map[string][]byte{"a.proto": []byte("syntax = \"proto3\";\n")},
		Manage: func(*descriptorpb.FileDescriptorProto) {},
	}
	if _, err := protogen.Generate(t.Context(), in); err == nil || err.Error() != "a.proto:1:1: it has no go_package, and nothing gives it one" {
		t.Errorf("Generate = %v", err)
	}
}

func TestOnlySomeFiles(t *testing.T) {
	t.Parallel()
	files, err := protogen.Generate(t.Context(), protogen.Input{
		GoRoot: "example.com/a", Only: []string{"b.proto"},
		Files: map[string][]byte{
			"a.proto": []byte("syntax = \"proto3\";\nmessage A {}\n"),
			"b.proto": []byte("syntax = \"proto3\";\nimport \"a.proto\";\nimport \"c.proto\";\nmessage B { A a = 1; C c = 2; }\n"),
		},
		Imports: map[string][]byte{"c.proto": []byte("syntax = \"proto3\";\noption go_package = \"example.com/c\";\nmessage C {}\n")},
	})
	if err != nil || len(files) != 1 || files[0].Name != "b.pb.go" {
		t.Fatalf("Generate = %v, %v; want b.pb.go alone", files, err)
	}
	if !strings.Contains(string(files[0].Content), `"example.com/c"`) {
		t.Error("b.pb.go does not import c")
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
