package addrpc_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
)

func unwritten(t *testing.T, dir string) []addrpc.Unwritten {
	t.Helper()
	found, err := addrpc.FindUnwritten(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestARenamedMethodIsMissed(t *testing.T) {
	t.Parallel()
	dir := project(t, nil)
	add(t, addrpc.Options{Dir: dir, Name: "WatchUsers", Stream: "server"})
	if found := unwritten(t, dir); len(found) != 0 {
		t.Errorf("all is written, and missed is %v", found)
	}
	name := filepath.Join(dir, "proto", "user", "v1", "service.proto")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(text), "rpc WatchUsers", "rpc ObserveUsers", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	found := unwritten(t, dir)
	if len(found) != 1 {
		t.Fatalf("missed is %v, want ObserveUsers", found)
	}
	got := found[0]
	want := addrpc.Unwritten{
		Service: "user.v1.UserService", Method: "ObserveUsers", Type: "Server", At: "proto/user/v1/service.proto:10:3",
		Add: "newsvc add rpc ObserveUsers --stream server", Idle: []string{"WatchUsers in internal/user/watch_users_rpc.go"},
	}
	if got.String() != want.String() || got.Service != want.Service || got.Add != want.Add || !slices.Equal(got.Idle, want.Idle) {
		t.Errorf("missed is %+v\nwant %+v", got, want)
	}
	add(t, addrpc.Options{Dir: dir, Name: "ObserveUsers", Stream: "server"}) // as Add says
	if found := unwritten(t, dir); len(found) != 0 {
		t.Errorf("after the remedy missed is %v", found)
	}
}

func TestWhatCannotBeToldIsNoMissedMethod(t *testing.T) {
	t.Parallel()
	const more = "  rpc Get(PingRequest) returns (PingResponse);\n}\n\nmessage PingRequest"
	proto := strings.Replace(service, "}\n\nmessage PingRequest", more, 1)
	embeds := strings.Replace(server, "\tConfig string", "\tgetter", 1) + "\ntype getter struct{}\n\nfunc (getter) Get() {}\n"
	for name, code := range map[string]string{
		"it may come from what else the type embeds": embeds,
		"nobody implements the service":              "package user\n",
		"two do":                                     server + "\ntype Other struct{ userv1.UnimplementedUserServiceServer }\n",
		"it is written by hand":                      server + "\nfunc (*Server) Get() {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if found := unwritten(t, project(t, map[string]string{"proto/user/v1/service.proto": proto, "internal/user/server.go": code})); len(found) != 0 {
				t.Errorf("missed is %v", found)
			}
		})
	}
	if found := unwritten(t, project(t, map[string]string{"proto/user/v1/service.proto": proto})); len(found) != 1 {
		t.Errorf("missed is %v, want Get: the cases above test nothing", found)
	}
}
