package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/auth"
	authv1 "github.com/newsvc/newsvc/proto/newsvc/auth/v1"
)

func TestMain(m *testing.M) {
	if err := declareGates(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// The methods that are called in these tests. Those of Gates have options in their .proto file, those of Plain have none.
const (
	anyone   = "/authtest.v1.Gates/Anyone"
	scoped   = "/authtest.v1.Gates/Scoped"
	fallback = "/authtest.v1.Gates/Fallback"
	read     = "/authtest.v1.Plain/Read"
	write    = "/authtest.v1.Plain/Write"
	follow   = "/authtest.v1.Plain/Follow"
)

// declareGates puts the .proto file of Gates where generated code would put it.
func declareGates() error {
	method := func(name string, rule *authv1.Rule) *descriptorpb.MethodDescriptorProto {
		m := &descriptorpb.MethodDescriptorProto{Name: &name, InputType: proto.String(".google.protobuf.Empty"), OutputType: proto.String(".google.protobuf.StringValue")}
		if rule != nil {
			m.Options = &descriptorpb.MethodOptions{}
			proto.SetExtension(m.Options, authv1.E_Method, rule)
		}
		return m
	}
	service := &descriptorpb.ServiceDescriptorProto{
		Name: proto.String("Gates"), Options: &descriptorpb.ServiceOptions{},
		Method: []*descriptorpb.MethodDescriptorProto{
			method("Anyone", &authv1.Rule{AllowUnauthenticated: true}),
			method("Scoped", &authv1.Rule{Scopes: []string{"users.read"}}),
			method("Fallback", nil),
		},
	}
	proto.SetExtension(service.Options, authv1.E_Service, &authv1.Rule{Services: []string{"gateway"}})
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("authtest/v1/gates.proto"), Package: proto.String("authtest.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/empty.proto", "google/protobuf/wrappers.proto", "newsvc/auth/v1/auth.proto"},
		Service:    []*descriptorpb.ServiceDescriptorProto{service},
	}, protoregistry.GlobalFiles)
	if err != nil {
		return err
	}
	return protoregistry.GlobalFiles.RegisterFile(file)
}

func methods() []string {
	return []string{anyone, scoped, fallback, read, write, follow, "/grpc.health.v1.Health/Check"}
}

// issuer makes keys and tokens.
type issuer struct {
	t    testing.TB
	mu   sync.Mutex
	keys []jose.JSONWebKey // private
}

func newIssuer(t testing.TB, ids ...string) *issuer {
	t.Helper()
	i := &issuer{t: t}
	for _, id := range ids {
		i.add(id)
	}
	return i
}

func (i *issuer) add(id string) {
	i.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, jose.JSONWebKey{Key: k, KeyID: id, Algorithm: "ES256", Use: "sig"})
}

// drop forgets the oldest key.
func (i *issuer) drop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[1:]
}

// set is the public key set.
func (i *issuer) set() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	var s jose.JSONWebKeySet
	for _, k := range i.keys {
		s.Keys = append(s.Keys, k.Public())
	}
	data, err := json.Marshal(s)
	if err != nil {
		i.t.Error(err)
	}
	return data
}

func (i *issuer) file() string {
	name := filepath.Join(i.t.TempDir(), "keys.json")
	if err := os.WriteFile(name, i.set(), 0o600); err != nil {
		i.t.Fatal(err)
	}
	return name
}

func (i *issuer) newest() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

const issuerName = "https://login.example.com/"

// claims are those of a good token, changed as the test wants; nil removes one.
func claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuerName, "aud": "user-service", "sub": "ann", "scope": "users.read users.write",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	maps.Copy(c, change)
	for name, v := range c {
		if v == nil {
			delete(c, name)
		}
	}
	return c
}

// token is a token of the newest key.
func (i *issuer) token(change map[string]any) string {
	i.t.Helper()
	k := i.newest()
	return sign(i.t, jose.SigningKey{Algorithm: jose.ES256, Key: k}, claims(change))
}

func sign(t testing.TB, key jose.SigningKey, claims map[string]any, opts ...func(*jose.SignerOptions)) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	for _, opt := range opts {
		opt(o)
	}
	s, err := jose.NewSigner(key, o)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// config admits everybody who has a token to the methods of Plain.
func config(jwks string) auth.Config {
	c := auth.DefaultConfig()
	c.Enabled = true
	c.JWT.JWKS, c.JWT.Issuer = jwks, issuerName
	c.Rules = []auth.Rule{{Methods: []string{"authtest.v1.Plain/*"}, Authenticated: true}}
	return c
}

// bench is a server and a connection to it.
type bench struct {
	t    testing.TB
	auth *auth.Auth
	logs *observer.ObservedLogs
	conn *grpc.ClientConn
	dial func() (*grpc.ClientConn, error) // makes another one
	last atomic.Pointer[context.Context]  // of the last call that reached a handler
}

type option func(*auth.Params, *[]grpc.ServerOption, *[]grpc.DialOption)

// newBench serves Gates and Plain behind a chain that authenticates and authorizes.
func newBench(t testing.TB, cfg auth.Config, opts ...option) *bench {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	b := &bench{t: t, logs: logs}
	p := auth.Params{Service: "user-service", Config: cfg, Log: zap.New(core)}
	var serverOpts []grpc.ServerOption
	dialOpts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	for _, o := range opts {
		o(&p, &serverOpts, &dialOpts)
	}
	a, err := auth.New(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	b.auth = a
	if err := a.Bind(methods()); err != nil {
		t.Fatal(err)
	}
	u0, s0 := a.Around()
	u1, s1 := a.Authenticate()
	u2, s2 := a.Authorize()
	server := grpc.NewServer(append(serverOpts, grpc.ChainUnaryInterceptor(u0, u1, u2), grpc.ChainStreamInterceptor(s0, s1, s2))...)
	b.register(server)
	lis := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(lis) }()
	t.Cleanup(server.Stop)
	b.dial = func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///user-service", append(dialOpts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return lis.DialContext(ctx)
		}))...)
	}
	conn, err := b.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b.conn = conn
	return b
}

// seen is the context of the last call that reached a handler.
func (b *bench) seen() context.Context { return *b.last.Load() }

func (b *bench) register(s *grpc.Server) {
	unary := func(full string) grpc.MethodDesc {
		_, name, _ := strings.Cut(full[1:], "/")
		return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
			in := new(emptypb.Empty)
			if err := dec(in); err != nil {
				return nil, err
			}
			return ic(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: full}, func(ctx context.Context, _ any) (any, error) {
				b.last.Store(&ctx)
				subject, _ := auth.Subject(ctx)
				return wrapperspb.String(subject), nil
			})
		}}
	}
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "authtest.v1.Gates", Methods: []grpc.MethodDesc{unary(anyone), unary(scoped), unary(fallback)}}, nil)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "authtest.v1.Plain", Methods: []grpc.MethodDesc{unary(read), unary(write)},
		Streams: []grpc.StreamDesc{{StreamName: "Follow", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			ctx := ss.Context()
			b.last.Store(&ctx)
			subject, _ := auth.Subject(ss.Context())
			return ss.SendMsg(wrapperspb.String(subject))
		}}},
	}, nil)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "grpc.health.v1.Health", Methods: []grpc.MethodDesc{unary("/grpc.health.v1.Health/Check")}}, nil)
}

// call calls a method with a token, or without for "", and returns who the handler thought it was.
func (b *bench) call(method, token string) (string, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	out := new(wrapperspb.StringValue)
	err := b.conn.Invoke(ctx, method, new(emptypb.Empty), out)
	return out.GetValue(), err
}

// admitted fails the test unless the call went through, and returns the subject.
func (b *bench) admitted(method, token string) string {
	b.t.Helper()
	who, err := b.call(method, token)
	if err != nil {
		b.t.Errorf("%s: %v, want it admitted", method, err)
	}
	return who
}

// refused fails the test unless the call is refused with that code, reason and text for the caller; detail must stand in
// the log and not in the error.
func (b *bench) refused(method, token string, code codes.Code, reason, text, detail string) {
	b.t.Helper()
	_, err := b.call(method, token)
	st := status.Convert(err)
	if st.Code() != code || reasonOf(err) != reason || !strings.Contains(st.Message(), text) {
		b.t.Errorf("%s: %v with reason %q, want %v with reason %q and %q", method, err, reasonOf(err), code, reason, text)
	}
	if detail == "" {
		return
	}
	if strings.Contains(st.Message(), detail) {
		b.t.Errorf("the caller is told %q", detail)
	}
	if log := b.log(); !strings.Contains(log, detail) {
		b.t.Errorf("the log says %s, want %q", log, detail)
	}
	if token != "" && strings.Contains(b.log(), token) {
		b.t.Error("the log holds the token")
	}
}

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// log is all that was logged.
func (b *bench) log() string {
	text := ""
	for _, e := range b.logs.All() {
		text += fmt.Sprintln(e.Level, e.Message, e.ContextMap())
	}
	return text
}

// keyServer is a transport that answers with a key set, or fails.
type keyServer struct {
	mu    sync.Mutex
	body  func() []byte
	fail  error
	asked int
	hold  chan struct{} // nil, or answers wait for it
}

func (k *keyServer) RoundTrip(r *http.Request) (*http.Response, error) {
	k.mu.Lock()
	k.asked++
	body, fail, hold := k.body, k.fail, k.hold
	k.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if fail != nil {
		return nil, fail
	}
	rec := httptest.NewRecorder()
	_, _ = rec.Write(body())
	return rec.Result(), nil
}

func (k *keyServer) times() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

func (k *keyServer) breaks(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

var errAway = errors.New("the key server is away")

// from has keys fetched from k.
func from(k *keyServer) option {
	return func(p *auth.Params, _ *[]grpc.ServerOption, _ *[]grpc.DialOption) { p.Transport = k }
}

const keysAddress = "https://login.example.com/keys.json"

func pass(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
}
