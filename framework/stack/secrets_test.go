package stack_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

// domainConfig is a section of a service's own, with secrets in every place where one can be.
type domainConfig struct {
	Database string            `config:"database" secret:"true"`
	FromFile string            `config:"from_file" secret:"true"`
	Keys     map[string]string `config:"keys" secret:"true"`
	Plain    string            `config:"plain"`
}

// A service is given secrets in all ways there are, is made to fail in many, and everything it then says to anybody is
// searched for them.
func TestNothingThatAServiceSaysHoldsASecret(t *testing.T) {
	t.Parallel()
	srv := protected(t, "user-service")
	dir := t.TempDir()
	putFile(t, filepath.Join(dir, "token"), []byte("hush-from-a-file\n"))
	putFile(t, filepath.Join(dir, "config.yaml"), fmt.Appendf(nil, `
etcd: {endpoints: [%q], username: user-service, password: hush-of-etcd}
domain: {database: "postgres://u:hush-of-database@db", from_file: "${file:token}", keys: {a: hush-of-map}, plain: shown}
`, srv.Addr()))
	src := config.Sources{Service: service, Dir: dir, Environ: []string{"USER_SERVICE__DOMAIN__KEYS__B=hush-of-environment"}, Args: []string{"--set", "domain.keys.c=hush-of-flag"}}
	settings, cfg, err := stack.LoadConfig(src, []string{"order-service"}, config.Section{Path: "domain", Defaults: domainConfig{}})
	if err != nil {
		t.Fatal(err)
	}
	p, _, logs := params(t)
	token := guarded(t, &p)
	guard := p.Config.Auth
	listen := p.Config
	p.Config, p.Settings, p.Callees, p.Replace = cfg, settings, []string{"order-service"}, stack.Replace{}
	p.Config.Auth, p.Config.Server.Listen, p.Config.Admin.Listen = guard, listen.Server.Listen, listen.Admin.Listen
	p.Config.Server.AccessLog.Errors = true
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	addr, _, admin := s.Addresses()
	c := testpb.NewTestServiceClient(reach(t, addr))
	good, expired := token(nil), token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
	tampered := good[:len(good)-8] + "AAAAAAAA"
	for _, raw := range []string{good, expired, tampered, "hush-of-a-caller"} {
		_, err := c.EmptyCall(bearing(t, raw), &testpb.Empty{})
		said["an error for a caller: "+raw[:5]] += fmt.Sprint(err)
		_, err = c.UnaryCall(bearing(t, raw), &testpb.SimpleRequest{})
		said["another one: "+raw[:5]] += fmt.Sprint(err)
	}
	_, err = c.EmptyCall(metadata.AppendToOutgoingContext(limit(t), "authorization", "Basic hush-basic"), &testpb.Empty{})
	said["an error for basic authentication"] = fmt.Sprint(err)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	conn, err := s.Clients().Conn("order-service")
	if err != nil {
		t.Fatal(err)
	}
	_, err = testpb.NewTestServiceClient(conn).EmptyCall(short, &testpb.Empty{}) // etcd refuses the password
	said["an error of a call"] = fmt.Sprint(err)
	eventually(t, "the log to say that etcd refuses the password", func() bool { return strings.Contains(told(logs.All()), "authentication failed") })
	for _, page := range []string{"/", "/readyz", "/metrics", "/debug/config", "/debug/discovery", "/debug/discovery?format=text", "/log/level"} {
		said[page] = get(t, "http://"+admin+page)
	}
	for _, ask := range []string{"config", "schema", "callees"} {
		answer, err := stack.Question{Ask: ask, Service: service, Settings: settings, Callees: p.Callees, Serves: true}.Answer()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		said["introspection of "+ask] = string(text)
	}
	putFile(t, filepath.Join(dir, "config.yaml"), []byte("etcd: {password: [hush-in-a-list], username: 5}\ndomain: {database: {hush-in-a-group: 1}, plain: 7, unknown: x}\n"))
	_, _, err = stack.LoadConfig(src, nil, config.Section{Path: "domain", Defaults: domainConfig{}})
	said["an error of the configuration"] = fmt.Sprint(err)
	said["the log"] = told(logs.All())
	if !strings.Contains(said["/debug/config"], "shown") || !strings.Contains(said["the log"], "started") {
		t.Fatal("what is to be searched is not there")
	}
	for where, text := range said {
		for _, secret := range []string{"hush", good, expired, tampered, strings.Split(good, ".")[2], strings.Split(good, ".")[1]} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the secret %q:\n%s", where, secret, text)
			}
		}
	}
}

func TestAdminAndReflectionAreNotOnThePublicListenerByDefault(t *testing.T) {
	t.Parallel()
	cfg := stack.DefaultConfig()
	if host, _, err := net.SplitHostPort(cfg.Admin.Listen); err != nil || host != "127.0.0.1" {
		t.Errorf("the admin server listens on %q by default, want this machine only", cfg.Admin.Listen)
	}
	if cfg.Server.Reflection {
		t.Error("reflection is on by default")
	}
	p, _, _ := params(t)
	p.Process.Dev = false
	p.Config.Registration.Enabled = false
	s := build(t, p)
	if err := s.Handle("here", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, public, _ := s.Addresses()
	if err := reflect(t, reach(t, addr)); status.Code(err) != codes.Unimplemented {
		t.Errorf("reflection: %v, want it not to be there", err)
	}
	for _, page := range []string{"/debug/config", "/debug/pprof/", "/metrics", "/log/level"} {
		if text := get(t, "http://"+public+page); !strings.Contains(text, "404") {
			t.Errorf("%s is served on the public listener: %s", page, text)
		}
	}
}

// The key of a pair that does not match is a normal sight in the middle of a rotation, and a reason to log.
func TestAKeyThatDoesNotMatchIsNotLogged(t *testing.T) {
	t.Parallel()
	f := newFiles(t, newCertAuthority(t, "first"), service, "gateway")
	p, _, logs := params(t)
	p.Config.Server.TLS.Cert, p.Config.Server.TLS.Key = f.callee.cert, f.callee.key
	s := build(t, p)
	up(t, s)
	key, err := os.ReadFile(f.caller.key)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, f.callee.key, key)
	addr, _, _ := s.Addresses()
	eventually(t, "the refused files to be told of", func() bool {
		_, _ = testpb.NewTestServiceClient(reach(t, addr)).EmptyCall(limit(t), &testpb.Empty{}) // no TLS, so it fails
		tryTLS(t, addr)
		return logs.FilterMessageSnippet("refused").Len() > 0
	})
	text := told(logs.All())
	for line := range strings.Lines(string(key)) {
		if strings.Contains(text, strings.TrimSpace(line)) && !strings.HasPrefix(line, "-----") {
			t.Errorf("the log holds a line of the private key:\n%s", text)
		}
	}
}

// tryTLS makes a handshake, whatever comes of it.
func tryTLS(t *testing.T, addr string) {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}}} // only to have the files looked at
	if conn, err := d.DialContext(limit(t), "tcp", addr); err == nil {
		_ = conn.Close()
	}
}

// told is all that was logged.
func told(lines []observer.LoggedEntry) string {
	var b strings.Builder
	for _, e := range lines {
		fmt.Fprintln(&b, e.Level, e.LoggerName, e.Message, e.ContextMap())
	}
	return b.String()
}
