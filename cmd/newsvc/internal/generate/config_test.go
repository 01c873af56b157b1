package generate_test

import (
	"slices"
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

// TestAnchorsAreFollowed has a buf.gen.yaml with every value behind an anchor, with comments, and with the line ends of
// Windows.
func TestAnchorsAreFollowed(t *testing.T) {
	t.Parallel()
	text := `version: &v v2 # the only one
managed:
  enabled: true
  disable:
` + disable + `  override: &rules
    - &rule {file_option: go_package_prefix, value: example.com/p}
    - *rule
x: &opts [&opt paths=source_relative]
`
	text = strings.Replace(text, "x: &opts [&opt paths=source_relative]\n", `plugins:
  - local: &run [&go go, run, "google.golang.org/protobuf/cmd/protoc-gen-go@`+linked+`"]
    out: &out proto
    opt: [&opt paths=source_relative]
  - &second
    local: [*go, run, "google.golang.org/protobuf/cmd/protoc-gen-go@`+linked+`"]
    out: second
    opt: [*opt]
`, 1)
	dir := project(t, map[string]string{"go.mod": "module example.com/x\n", "proto/user/v1/service.proto": userProto, "buf.gen.yaml": strings.ReplaceAll(text, "\n", "\r\n")})
	res, err := generate.Run(t.Context(), generate.Options{Dir: dir})
	if want := []string{"proto/user/v1/service.pb.go", "second/user/v1/service.pb.go"}; err != nil || !slices.Equal(res.Updated, want) {
		t.Errorf("Run = %+v, %v; want %q", res, err, want)
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
