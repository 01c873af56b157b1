package call_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	t       *testing.T
	place   locate.Place
	caller  *call.Caller
	service *stack.Stack
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start is a service in an etcd of its own, and a caller of it.
func start(t *testing.T, o calltest.Service) *fixture {
	t.Helper()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := etcd.Close(); err != nil {
			t.Error(err)
		}
	})
	o.Name, o.Etcd = "blogger-user", etcd.Endpoints()
	s, err := calltest.Start(limit(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := calltest.Stop(s); err != nil {
			t.Error(err)
		}
	})
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = etcd.Endpoints()
	f := &fixture{t: t, service: s, place: locate.Place{Etcd: cfg, Prefix: discovery.DefaultPrefix, How: locate.HowFlag}}
	opt := call.Options{}
	if o.Mute {
		opt.Addr, _, _ = s.Addresses()
	}
	if f.caller, err = call.Open(limit(t), f.place, "blogger-user", opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.caller.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) learn() *call.Methods {
	f.t.Helper()
	m, err := f.caller.Learn(limit(f.t), "", f.t.TempDir())
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// do makes a call with documents and returns the lines of the reply.
func (f *fixture) do(m *call.Methods, method, data string, md metadata.MD) ([]string, call.Outcome, error) {
	f.t.Helper()
	d, err := m.Find("blogger-user", method, "newsvc call blogger-user")
	if err != nil {
		f.t.Fatal(err)
	}
	var lines []string
	req := call.Request{Method: d, Metadata: md, Reply: func(msg proto.Message) error {
		line, err := call.JSON(msg, m.Types(), false)
		lines = append(lines, string(line))
		return err
	}}
	if data != "" {
		if req.Documents, err = call.Data(data, strings.NewReader("\n {}\n{}"), m); err != nil {
			f.t.Fatal(err)
		}
	}
	out, err := call.Do(limit(f.t), f.caller.Conn, req)
	return lines, out, err
}

func TestAllKindsOfCallsAreMade(t *testing.T) {
	t.Parallel()
	f := start(t, calltest.Service{})
	m := f.learn()
	addr, _, _ := f.service.Addresses()
	for _, tc := range []struct{ method, data, want string }{
		{"EmptyCall", "", "{}"},
		{"UnaryCall", `{"payload":{"body":"aGk="}}`, `{"payload":{"body":"aGk="}}`},
		{"TestService/UnaryCall", `{"payload":{"body":"aGk="}}`, `{"payload":{"body":"aGk="}}`},
		{"grpc.testing.TestService/UnaryCall", `{}`, "{}"},
		{"grpc.testing.TestService.UnaryCall", `{}`, "{}"},
		{"StreamingOutputCall", `{"responseParameters":[{"size":1},{"size":2}]}`, `{"payload":{"body":"AA=="}} {"payload":{"body":"AAA="}}`},
		{"StreamingInputCall", `{"payload":{"body":"aGk="}} {"payload":{"body":"aGk="}}`, `{"aggregatedPayloadSize":4}`},
		{"StreamingInputCall", "", `{}`},
		{"FullDuplexCall", "{\"payload\":{\"body\":\"aGk=\"}}\n{\"payload\":{\"body\":\"eW8=\"}}", `{"payload":{"body":"aGk="}} {"payload":{"body":"eW8="}}`},
		{"FullDuplexCall", "@-", "{} {}"},
		{"grpc.health.v1.Health/Check", `{"service":""}`, `{"status":"SERVING"}`},
	} {
		lines, out, err := f.do(m, tc.method, tc.data, nil)
		if err != nil || out.Status.Code() != codes.OK || strings.Join(lines, " ") != tc.want || out.Peer != addr {
			t.Errorf("%s %s: %q by %s, %v, %v; want %s by %s", tc.method, tc.data, lines, out.Peer, out.Status, err, tc.want, addr)
		}
	}
}

func TestACallThatFailsTellsWhoAndWhat(t *testing.T) {
	t.Parallel()
	f := start(t, calltest.Service{})
	m := f.learn()
	addr, _, _ := f.service.Addresses()
	lines, out, err := f.do(m, "UnaryCall", `{"responseStatus":{"code":5,"message":"user 42 does not exist"}}`, nil)
	if err != nil || len(lines) != 0 || out.Status.Code() != codes.NotFound || out.Status.Message() != "user 42 does not exist" || out.Peer != addr || len(out.Trace) != 32 {
		t.Errorf("%q, %+v, %v", lines, out, err)
	}
	if call.Exit(out.Status.Code()) != 69 {
		t.Errorf("the exit code is %d", call.Exit(out.Status.Code()))
	}
	lines, out, err = f.do(m, "StreamingOutputCall", `{"responseParameters":[{"size":1}],"responseStatus":{"code":13,"message":"half-way"}}`, nil)
	if err != nil || len(lines) != 1 || out.Status.Code() != codes.Internal {
		t.Errorf("a stream that breaks: %q, %v, %v", lines, out.Status, err)
	}
}

func TestHeadersAreSent(t *testing.T) {
	t.Parallel()
	f := start(t, calltest.Service{})
	lines, _, err := f.do(f.learn(), "UnaryCall", "{}", metadata.Pairs("echo", "a", "echo", "b"))
	if err != nil || !slices.Equal(lines, []string{`{"username":"a,b"}`}) {
		t.Errorf("%q, %v", lines, err)
	}
}

func TestDocumentsThatAreNoMessagesArePointedAt(t *testing.T) {
	t.Parallel()
	f := start(t, calltest.Service{})
	m := f.learn()
	dir := t.TempDir()
	file := filepath.Join(dir, "in.json")
	if err := os.WriteFile(file, []byte("{}\n{\n  \"nope\": 1\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ method, data, what, at, fix string }{
		{"UnaryCall", `{"paylod":{}}`, `-d is not a SimpleRequest: unknown field "paylod" (has: `, "-d:1:2", `write "payload" in place of "paylod"`},
		{"UnaryCall", `{"payload":{"bdy":""}}`, `-d is not a SimpleRequest: unknown field "bdy" (has: body, type)`, "-d:1:13", `write "body" in place of "bdy"`},
		{"UnaryCall", "{\"responseSize\":\n \"x\"}", `-d is not a SimpleRequest: invalid value for int32 field responseSize: "x"`, "-d:2:2", ""},
		{"UnaryCall", `{"payload":`, `-d is not a SimpleRequest: `, "", "-d '{"},
		{"UnaryCall", "@" + broken, broken + " is not a SimpleRequest: ", "", "-d '{"},
		{"UnaryCall", `{} {}`, "UnaryCall takes one SimpleRequest, and -d has more", "", "one call for each"},
		{"FullDuplexCall", "@" + file, file + ` is not a StreamingOutputCallRequest: unknown field "nope"`, file + ":3:3", ""},
		{"FullDuplexCall", `{} {"nope":1}`, `-d is not a StreamingOutputCallRequest: unknown field "nope"`, "-d:1:5", ""},
	} {
		_, _, err := f.do(m, tc.method, tc.data, nil)
		if problem.Code(err) != problem.Usage {
			t.Errorf("%s %s: %v", tc.method, tc.data, err)
			continue
		}
		text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
		if !strings.HasPrefix(text, tc.what) || tc.at != "" && !strings.Contains(text, "\n   at: "+tc.at) || tc.fix != "" && !strings.Contains(text, "\n  fix: "+tc.fix) {
			t.Errorf("%s %s:\n%s", tc.method, tc.data, text)
		}
	}
	if _, err := call.Data("@"+filepath.Join(dir, "gone"), nil, m); problem.Code(err) != problem.Usage {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestMethodsThatAreNotThere(t *testing.T) {
	t.Parallel()
	m := start(t, calltest.Service{}).learn()
	_, err := m.Find("blogger-user", "UnryCall", "newsvc call blogger-user")
	if problem.Code(err) != problem.NotFound || !strings.HasPrefix(err.Error(), "no method UnryCall in blogger-user; it has CacheableUnaryCall, EmptyCall, ") || !strings.HasSuffix(err.Error(), "\n  fix: newsvc call blogger-user UnaryCall") {
		t.Errorf("%v", err)
	}
	if slices.Contains(m.Names(), "Check") || !slices.Contains(m.Names(), "HalfDuplexCall") {
		t.Errorf("names for completion: %q", m.Names())
	}
}

func TestWithoutReflectionProtosAreTakenFromFiles(t *testing.T) {
	t.Parallel()
	f := start(t, calltest.Service{Mute: true})
	_, err := f.caller.Learn(limit(t), "", t.TempDir())
	if problem.Code(err) != problem.Environment || err.Error() != "blogger-user does not offer reflection and no local proto matches\n  fix: --proto DIR, or server.reflection: true in its config.yaml" {
		t.Errorf("%v", err)
	}
	const text = "syntax = \"proto3\";\npackage grpc.testing;\nmessage Empty {}\nservice TestService { rpc EmptyCall(Empty) returns (Empty); }\n"
	files := t.TempDir()
	if err := os.MkdirAll(filepath.Join(files, "test"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "test", "test.proto"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := f.caller.Learn(limit(t), files, "")
	if err != nil {
		t.Fatal(err)
	}
	if lines, out, err := f.do(m, "EmptyCall", "", nil); err != nil || len(lines) != 1 || out.Status.Code() != codes.OK {
		t.Errorf("%q, %v, %v", lines, out.Status, err)
	}
	if _, err := f.caller.Learn(limit(t), t.TempDir(), ""); problem.Code(err) != problem.Usage {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestTheProjectAroundHasProtos(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                              "module example.com/blogger-user\n",
		"newsvc.yaml":                         "kind: service\nname: blogger-user\n",
		"proto/blogger_user/v1/service.proto": "syntax = \"proto3\";\npackage blogger_user.v1;\nmessage PingRequest {}\nmessage PingResponse {}\nservice BloggerUserService { rpc Ping(PingRequest) returns (PingResponse); }\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if m := call.Nearby(t.Context(), "blogger-user", filepath.Join(root, "proto")); m == nil || !slices.Equal(m.Names(), []string{"Ping"}) {
		t.Errorf("methods nearby: %+v", m)
	}
	if m := call.Nearby(t.Context(), "blogger-post", root); m != nil {
		t.Errorf("methods of another service: %+v", m)
	}
}

func TestNobodyReachableIsSaidWithEachAddress(t *testing.T) {
	t.Parallel()
	c, err := call.Open(limit(t), locate.Place{}, "blogger-user", call.Options{Addr: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = c.Learn(ctx, "", t.TempDir())
	want := "blogger-user has 1 instance and it is not reachable\n   at: 127.0.0.1:1 connection refused\n  fix: newsvc why blogger-user"
	if problem.Code(err) != 78 || err.Error() != want {
		t.Errorf("exit %d: %v", problem.Code(err), err)
	}
}

// As a process that is stopped, or one that is no gRPC server: the kernel takes the connection, and nobody says a word.
func TestWhoTakesConnectionsAndAnswersNothingIsSaidTo(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := call.Open(limit(t), locate.Place{}, "blogger-user", call.Options{Addr: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // gRPC waits 5 s for the first word
	defer cancel()
	_, err = c.Learn(ctx, "", t.TempDir())
	want := "blogger-user has 1 instance and it is not reachable\n   at: " + l.Addr().String() + " takes connections and answers nothing\n  fix: newsvc why blogger-user"
	if problem.Code(err) != 78 || err.Error() != want {
		t.Errorf("exit %d: %v", problem.Code(err), err)
	}
}
