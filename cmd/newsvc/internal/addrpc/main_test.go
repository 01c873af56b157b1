package addrpc_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const service = `syntax = "proto3";

package user.v1;

// UserService knows users.
service UserService {
  // Ping answers.
  rpc Ping(PingRequest) returns (PingResponse);
}

message PingRequest {}

message PingResponse {}
`

const server = `package user

import userv1 "example.com/user/proto/user/v1"

// Server is the implementation.
type Server struct {
	userv1.UnimplementedUserServiceServer

	Config string
}

func (srv *Server) Ping() {}
`

// project writes a service into a new directory; files are added to it, or take the place of its own.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"go.mod": "module example.com/user\n\ngo 1.26\n", "newsvc.yaml": "kind: service\nname: user-service\n",
		"proto/user/v1/service.proto": service, "internal/user/server.go": server,
	}
	maps.Copy(all, files)
	for name, text := range all {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree is all files below dir, by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		all[filepath.ToSlash(rel)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// add runs add rpc and wants it to succeed.
func add(t *testing.T, o addrpc.Options) addrpc.Result {
	t.Helper()
	res, err := addrpc.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// without returns text without white space.
func without(text string) string { return strings.Join(strings.Fields(text), "") }
