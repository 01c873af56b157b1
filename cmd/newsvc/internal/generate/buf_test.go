package generate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
)

// wholeProjects skips a test that builds buf or downloads plugins.
func wholeProjects(t *testing.T) {
	t.Helper()
	if os.Getenv("NEWSVC_TEST_CLI") == "" {
		t.Skip("NEWSVC_TEST_CLI is not set: make test-cli runs this")
	}
}

// bufGen is a buf.gen.yaml for manyProtos, whose plugins are tools of go.mod or of another such file.
func bufGen(modfile string) string {
	if modfile != "" {
		modfile = "-modfile=" + modfile + ", "
	}
	return `version: v2
inputs:
  - directory: proto
managed:
  enabled: true
  disable:
    - path: buf/validate
    - path: google/api
    - path: google/rpc
    - path: newsvc/auth
` + disable + `  override:
    - {file_option: go_package_prefix, value: example.com/shop/proto}
    - {file_option: go_package, path: shop_items/v1, value: example.com/shop/proto/shop_items/v1;shopitemsv1}
plugins:
  - local: [go, tool, ` + modfile + `protoc-gen-go]
    out: proto
    opt: paths=source_relative
  - local: [go, tool, ` + modfile + `protoc-gen-go-grpc]
    out: proto
    opt: [paths=source_relative]
`
}

// sameAsBuf runs buf itself and newsvc on the same files and the same buf.gen.yaml, and compares every file that either
// wrote. It returns the directory that newsvc wrote to.
func sameAsBuf(t *testing.T, files map[string]string, prepare func(dir string)) string {
	t.Helper()
	buf, err := filepath.Abs("../../../../tools/buf/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := project(t, files), project(t, files)
	for _, dir := range []string{ours, theirs} {
		if _, err := generate.Export(generate.Options{Dir: dir}, "third_party"); err != nil {
			t.Fatal(err)
		}
		prepare(dir)
	}
	if _, err := generate.Run(t.Context(), generate.Options{Dir: ours}); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(t.TempDir(), "buf")
	run(t, ".", "go", "build", "-modfile="+buf, "-o", tool, "github.com/bufbuild/buf/cmd/buf")
	cmd := exec.CommandContext(t.Context(), tool, "generate")
	cmd.Dir = theirs
	cmd.Env = append(os.Environ(), "PWD="+theirs, "BUF_CACHE_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("buf generate: %v\n%s", err, out)
	}
	written, got := 0, tree(t, ours)
	for name, text := range tree(t, theirs) {
		if got[name] != text {
			t.Errorf("%s differs (-buf +newsvc):\n%s", name, cmp.Diff(text, got[name]))
		}
		if strings.HasSuffix(name, ".pb.go") {
			written++
		}
	}
	if a, b := len(got), len(tree(t, theirs)); a != b || written != 9 {
		t.Errorf("newsvc has %d files, buf %d; %d are generated, want 9", a, b, written)
	}
	return ours
}

// TestSameAsBuf compares the plugins that are linked into this binary with buf, which runs them as programs.
func TestSameAsBuf(t *testing.T) {
	wholeProjects(t)
	t.Parallel()
	gen, err := filepath.Abs("../../../../tools/gen/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	files := manyProtos()
	files["go.mod"] = "module example.com/shop\n\ngo 1.26\n"
	files["buf.yaml"] = "version: v2\nmodules:\n  - path: proto\n  - path: third_party\n"
	files["buf.gen.yaml"] = bufGen(gen)
	sameAsBuf(t, files, func(string) {})
}

// manyProtos are two packages, one importing the other, with all kinds of methods, oneofs, rules and comments; and what else
// ends up in descriptors: editions, optional, deprecated, nested and aliased enums, JSON names, options of their own,
// extensions, groups, public imports, names that Go has to change.
func manyProtos() map[string]string {
	return map[string]string{
		"proto/shop/v1/service.proto": `// A licence, perhaps.

// About the syntax.
syntax = "proto3";

// About the package.
package shop.v1;

import "buf/validate/validate.proto";
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";
import "shop_items/v1/item.proto";

// ShopService sells.
service ShopService {
  // Get is unary.
  rpc Get(GetRequest) returns (GetResponse) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/v1/items/{id}"};
  }
  rpc Watch(GetRequest) returns (stream GetResponse); // trailing
  rpc Put(stream GetRequest) returns (GetResponse);
  // Deprecated on purpose.
  rpc Talk(stream GetRequest) returns (stream GetResponse) {
    option deprecated = true;
  }
}

message GetRequest {
  string id = 1 [(buf.validate.field).string = {min_len: 1, max_len: 36}];
  // What to look at.
  oneof by {
    option (buf.validate.oneof).required = true;
    int64 number = 2;
    google.protobuf.Timestamp since = 3; // a time
  }
}

message GetResponse {
  repeated shop_items.v1.Item items = 1;
  map<string, shop_items.v1.Kind> kinds = 2;
  optional bool more = 3;
}
`,
		"proto/shop_items/v1/item.proto": `edition = "2023";

package shop_items.v1;

import "google/protobuf/any.proto";

// Kind is what it is.
enum Kind {
  KIND_UNSPECIFIED = 0;
  KIND_BOOK = 1; // has pages
}

message Item {
  message Part {
    string name = 1;
  }
  repeated Part parts = 1;
  google.protobuf.Any more = 2 [deprecated = true];
}
`,
		"proto/shop_items/v1beta1/old.proto": `syntax = "proto2";

package shop_items.v1beta1;

option go_package = "example.com/overwritten";

message Old {
  required string name = 1;
  optional int32 n = 2 [default = 7];
  extensions 100 to 200;
}
`,
		"proto/shop_items/v1/all.proto": `edition = "2023";

/* A block
 * of comment. */

package shop_items.v1; // behind the package

import "google/protobuf/descriptor.proto";
import public "shop_items/v1/item.proto";

option deprecated = true;
option features.field_presence = IMPLICIT;

extend google.protobuf.FieldOptions {
  // Unit of a number.
  Unit unit = 50001;
  repeated string tags = 50002;
  string only_in_source = 50003 [retention = RETENTION_SOURCE, targets = TARGET_TYPE_FIELD];
}

message Unit {
  string name = 1 [json_name = "unitName"];
}

// Dé ñ 服务: letters of other alphabets.
enum Level {
  option allow_alias = true;
  option deprecated = true;
  LEVEL_UNSPECIFIED = 0;
  LEVEL_LOW = 1 [deprecated = true];
  LEVEL_MIN = 1;
  reserved 5 to 9, 100 to max;
  reserved LEVEL_OLD;
}

message Everything {
  option deprecated = true;
  reserved 2, 10 to 12;
  reserved old;

  // Nested, and nested again.
  message Inner {
    enum Mode {
      MODE_UNSPECIFIED = 0;
      MODE_FAST = 2; // quick
      MODE_SLOW = -1;
    }
    enum Kind {
      option features.enum_type = CLOSED;
      KIND_A = 1;
    }
    Mode mode = 1;
    Kind kind = 2 [features.field_presence = EXPLICIT, default = KIND_A];
    message Inner {
      Inner inner = 1;
    }
    Inner inner = 3;
  }
  enum Kind {
    KIND_UNSPECIFIED = 0;
  }

  // detached

  double weight = 1 [json_name = "w", (unit) = {name: "kg"}, (tags) = "a", (tags) = "b\n\"c\""];
  string name = 3 [features.field_presence = LEGACY_REQUIRED];
  int64 count = 4 [features.field_presence = EXPLICIT, default = -7, jstype = JS_STRING];
  bytes raw = 5 [features.field_presence = EXPLICIT, default = "\001\xffq"];
  repeated int32 loose = 6 [features.repeated_field_encoding = EXPANDED];
  Inner delimited = 7 [features.message_encoding = DELIMITED];
  map<int64, Inner.Mode> modes = 8;
  oneof a_b {
    Level level = 9;
    string get_level = 13 [deprecated = true];
  }
  oneof one {
    Inner.Inner only = 14;
  }
  string string = 15;
  bool proto_reflect = 16;
  string Reset = 17;
  string _2nd = 18;
  fixed64 nan = 19 [lazy = false];
  float inf = 20 [features.field_presence = EXPLICIT, default = -inf];
  string secret = 21 [debug_redact = true, (only_in_source) = "gone", (unit).name = "kept"]; // told
}

message Everything_Kind {}
message lower_case {}

// Old is going.
service Old {
  option deprecated = true;
  // Nothing to see.
}

service lower_service {
  rpc get_it(Everything) returns (.shop_items.v1.Everything.Inner);
}
`,
		"proto/shop_items/v1/optional.proto": "syntax = \"proto3\";\r\npackage shop_items.v1;\r\nimport \"shop_items/v1/all.proto\"; // brings item.proto too\r\n" +
			"// Line ends of Windows.\r\nmessage Optional {\r\n  optional string name = 1 [json_name = \"NAME\"]; // one\r\n  optional Kind kind = 2;\r\n" +
			"  oneof c { int32 d = 3; }\r\n  optional Item item = 4;\r\n  optional bytes more = 5 [deprecated = true, (unit).name = \"b\"];\r\n}\r\n",
		"proto/shop_items/v1beta1/groups.proto": `syntax = "proto2";

package shop_items.v1beta1;

import "shop_items/v1beta1/old.proto";

option go_package = "example.com/overwritten";

extend Old {
  optional string nick = 100;
  repeated group Part = 101 {
    optional int32 n = 1 [default = 3];
  }
}

message Groups {
  extend Old {
    optional Groups groups = 102;
  }
  enum E {
    A = 3;
    B = 1;
  }
  optional group Res = 1 {
    required E e = 1 [default = B];
  }
  repeated int32 packed = 2 [packed = true];
  optional string text = 3 [default = "a\tb\"c"];
  optional Old set = 4;
  message Set {
    option message_set_wire_format = false;
    extensions 4 to max [verification = UNVERIFIED];
  }
}
`,
		"proto/plain/plain.proto": "syntax = \"proto3\";\n\npackage plain;\n\nmessage Plain {}\n",
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, name)
			all[filepath.ToSlash(rel)] = read(t, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
