package generate_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// disable keeps managed mode from options of other languages.
const disable = `    - {file_option: csharp_namespace}
    - {file_option: java_multiple_files}
    - {file_option: java_outer_classname}
    - {file_option: java_package}
    - {file_option: objc_class_prefix}
    - {file_option: php_metadata_namespace}
    - {file_option: php_namespace}
    - {file_option: ruby_package}
`

// manyProtos are two packages that import each other's files, with all kinds of methods, oneofs, rules and comments.
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
		"proto/plain/plain.proto": "syntax = \"proto3\";\n\npackage plain;\n\nmessage Plain {}\n",
	}
}

// TestSameAsBuf runs buf itself on the same files and the same buf.gen.yaml, and compares every file that either wrote.
// It builds buf, so it runs where whole projects are built.
func TestSameAsBuf(t *testing.T) {
	if os.Getenv("NEWSVC_TEST_CLI") == "" {
		t.Skip("NEWSVC_TEST_CLI is not set: make test-cli runs this")
	}
	t.Parallel()
	gen, err := filepath.Abs("../../../../tools/gen/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	buf, err := filepath.Abs("../../../../tools/buf/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	files := manyProtos()
	files["go.mod"] = "module example.com/shop\n\ngo 1.26\n"
	files["buf.yaml"] = "version: v2\nmodules:\n  - path: proto\n  - path: third_party\n"
	files["buf.gen.yaml"] = `version: v2
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
  - local: [go, tool, -modfile=` + gen + `, protoc-gen-go]
    out: proto
    opt: paths=source_relative
  - local: [go, tool, -modfile=` + gen + `, protoc-gen-go-grpc]
    out: proto
    opt: [paths=source_relative]
`
	ours, theirs := project(t, files), project(t, files)
	for _, dir := range []string{ours, theirs} {
		if _, err := generate.Export(generate.Options{Dir: dir}, "third_party"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := generate.Run(t.Context(), generate.Options{Dir: ours}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile="+buf, "buf", "generate")
	cmd.Dir = theirs
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("buf generate: %v\n%s", err, out)
	}
	written := 0
	for name, text := range tree(t, theirs) {
		if got := tree(t, ours)[name]; got != text {
			t.Errorf("%s differs; buf wrote\n%s\nnewsvc wrote\n%s", name, text, got)
		}
		if strings.HasSuffix(name, ".pb.go") {
			written++
		}
	}
	if a, b := len(tree(t, ours)), len(tree(t, theirs)); a != b || written != 5 {
		t.Errorf("newsvc has %d files, buf %d; %d are generated, want 5", a, b, written)
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

func TestManagedMode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, rules, file, want string }{
		{"prefix", "override: [{file_option: go_package_prefix, value: example.com/p}]", "shop/v1/service.pb.go", `"example.com/p/shop_items/v1"`},
		{"a version names the package", "override: [{file_option: go_package_prefix, value: example.com/p}]", "shop_items/v1beta1/old.pb.go", "\npackage shop_itemsv1beta1\n"},
		{"no version: the last directory does", "override: [{file_option: go_package_prefix, value: example.com/p}]", "plain/plain.pb.go", "\npackage plain\n"},
		{"the last matching rule wins", "override: [{file_option: go_package, path: shop_items, value: example.com/q;q}, {file_option: go_package_prefix, value: example.com/p}]", "shop_items/v1/item.pb.go", "\npackage shop_itemsv1\n"},
		{"a rule for a path", "override: [{file_option: go_package_prefix, value: example.com/p}, {file_option: go_package, path: shop_items/v1, value: example.com/q;q}]", "shop_items/v1/item.pb.go", "\npackage q\n"},
		{"not for a path that begins alike", "override: [{file_option: go_package_prefix, value: example.com/p}, {file_option: go_package, path: shop, value: example.com/q;q}]", "shop_items/v1/item.pb.go", "\npackage shop_itemsv1\n"},
		{"built-in files keep theirs", "disable: [{module: buf.build/bufbuild/protovalidate}, {module: buf.build/googleapis/googleapis}, XX]\n  override: [{file_option: go_package_prefix, value: example.com/p}]", "shop/v1/service.pb.go", `_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"`},
		{"disabled for a path", "disable: [{file_option: go_package, path: shop_items/v1beta1}, XX]\n  override: [{file_option: go_package_prefix, value: example.com/p}]", "shop_items/v1beta1/old.pb.go", "\npackage overwritten\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			rules := "disable:\n" + disable + "  " + tc.rules
			if strings.HasPrefix(tc.rules, "disable") {
				flow := strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(disable), "\n    - ", ", "), "- ", "")
				rules = strings.Replace(tc.rules, "XX", flow, 1)
			}
			files := manyProtos()
			files["go.mod"] = "module example.com/shop\n"
			files["buf.gen.yaml"] = "version: v2\nmanaged:\n  enabled: true\n  " + rules +
				"\nplugins:\n  - {local: [go, run, google.golang.org/protobuf/cmd/protoc-gen-go@" + linked + "], out: proto, opt: paths=source_relative}\n"
			dir := project(t, files)
			if _, err := generate.Run(t.Context(), generate.Options{Dir: dir}); err != nil {
				t.Fatal(err)
			}
			if text := read(t, dir, "proto", tc.file); !strings.Contains(text, tc.want) {
				t.Errorf("%s lacks %q", tc.file, tc.want)
			}
		})
	}
}

// TestExportsAreWhatIsLinked compiles the exported files as a project's own: what they declare is what the binary's
// descriptors declare, for else the extensions they define would clash.
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
	compared := 0
	for _, got := range c.Request.GetProtoFile() {
		if want := linkedFile(t, got.GetName()); want != nil {
			compared++
			if d := difference(got, want); d != "" {
				t.Errorf("%s differs from what is linked: %s", got.GetName(), d)
			}
		}
	}
	if compared < 7 {
		t.Errorf("%d files were compared, want 7 at least", compared)
	}
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

func TestCopiesKnowTheirSource(t *testing.T) {
	t.Parallel()
	for name, original := range map[string]string{"unix": "syntax = \"proto3\";\n", "windows": "syntax = \"proto3\";\r\n", "empty": ""} {
		text := generate.NewCopy("../post/a.proto", "newsvc add client post", []byte(original))
		c, ok := generate.ReadCopy(text)
		if !ok || c.Edited || c.Source != "../post/a.proto" || !strings.HasSuffix(string(text), original) {
			t.Errorf("%s: ReadCopy = %+v, %v", name, c, ok)
		}
		if c, ok := generate.ReadCopy(append(text, "// mine"...)); !ok || !c.Edited {
			t.Errorf("%s: an edited copy reads as %+v, %v", name, c, ok)
		}
	}
	if _, ok := generate.ReadCopy([]byte("// Copied by hand\nsyntax = \"proto3\";\n")); ok {
		t.Error("a file that was not copied is taken for a copy")
	}
}

func TestUnknownVersionsOfBufFiles(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"buf.yaml": "version: v1\n", "buf.gen.yaml": "version: v1\n"} {
		dir := project(t, map[string]string{"go.mod": "module example.com/x\n", "proto/x.proto": "syntax = \"proto3\";\n", name: text})
		if _, err := generate.Run(t.Context(), generate.Options{Dir: dir}); problem.Code(err) != problem.Conflict || !strings.Contains(err.Error(), "v1") {
			t.Errorf("%s: Run = %v, want exit 4 and the version", name, err)
		}
	}
}
