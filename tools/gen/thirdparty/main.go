// Command thirdparty writes the .proto files of other projects that ours import.
//
// It prints them from the descriptors that their generated Go packages carry, so that the version buf reads is the
// version the binaries link, and no registry is asked. It is no general printer: the list of files is the table below.
//
// Usage, from tools/gen: go run ./thirdparty -root ../..
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	validatepb "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/desc" //nolint:staticcheck // deprecated for general use, but it is what the stable line of protoprint takes
	"github.com/jhump/protoreflect/desc/protoprint"
	"golang.org/x/mod/modfile"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// source is one file and the module whose version decides its text.
type source struct {
	module string
	file   protoreflect.FileDescriptor
}

func sources() []source {
	const (
		api      = "google.golang.org/genproto/googleapis/api"
		rpc      = "google.golang.org/genproto/googleapis/rpc"
		validate = "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go"
	)
	return []source{
		{api, annotations.File_google_api_annotations_proto},
		{api, annotations.File_google_api_http_proto},
		{api, httpbody.File_google_api_httpbody_proto},
		{rpc, errdetails.File_google_rpc_error_details_proto},
		{rpc, status.File_google_rpc_status_proto},
		{validate, validatepb.File_buf_validate_validate_proto},
	}
}

func main() {
	root := flag.String("root", "../..", "directory of the repository's go.mod; files are written to third_party in it")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "thirdparty:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	wanted, err := required(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	linked, err := linkedVersions()
	if err != nil {
		return err
	}
	for _, s := range sources() {
		if wanted[s.module] != linked[s.module] {
			return fmt.Errorf("go.mod of the repository requires %s %q, tools/gen/go.mod %q: in tools/gen run: go get %[1]s@%[2]s",
				s.module, wanted[s.module], linked[s.module])
		}
		text, err := printed(s, linked[s.module])
		if err != nil {
			return err
		}
		if err := write(filepath.Join(root, "third_party", filepath.FromSlash(s.file.Path())), text); err != nil {
			return err
		}
	}
	return nil
}

func printed(s source, version string) ([]byte, error) {
	fd, err := desc.WrapFile(s.file)
	if err != nil {
		return nil, fmt.Errorf("read the descriptor of %q: %w", s.file.Path(), err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "// Written by make generate from the descriptor in %s %s; do not edit.\n\n", s.module, version)
	// In the descriptor's order, so that it compiles to the same bytes.
	printer := protoprint.Printer{Compact: true}
	if err := printer.PrintProtoFile(fd, &out); err != nil {
		return nil, fmt.Errorf("print %q: %w", s.file.Path(), err)
	}
	return out.Bytes(), nil
}

func required(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	mod, err := modfile.Parse(path, data, nil)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, r := range mod.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	return versions, nil
}

func linkedVersions() (map[string]string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this binary carries no module versions: run it with go run")
	}
	versions := map[string]string{}
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
	}
	return versions, nil
}

// write leaves an unchanged file alone, so that nothing is rebuilt because of its time.
func write(path string, text []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
