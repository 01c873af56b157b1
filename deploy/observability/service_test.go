package observability_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const serviceName = "user-service"

type impl struct {
	testpb.UnimplementedTestServiceServer
}

func (impl) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

// everything is a service that has all of its telemetry on, and calls itself. The collector does not answer.
const everything = `
app: {config_poll: 1s}
server: {listen: "127.0.0.1:0", drain: {min_window: 0s, max_window: 1s}}
admin: {listen: "127.0.0.1:0"}
http: {tls: {cert: CERT, key: KEY}}
telemetry:
  metrics: {callers: true, endpoint: "127.0.0.1:1", insecure: true, export_timeout: 100ms}
  traces: {endpoint: "127.0.0.1:1", insecure: true, sample_ratio: 1, export_timeout: 100ms}
`

// guarded is a service that admits only whom it knows. It is not started: what it exposes is there before.
const guarded = `
server: {listen: "127.0.0.1:0", tls: {cert: CERT, key: KEY, client_ca: CERT}}
admin: {enabled: false}
auth: {enabled: true, jwt: {jwks: KEYS, issuer: "https://login.example.com/"}}
`

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{serviceName}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// keysOfTokens is a file with a key that tokens could be verified with.
func keysOfTokens(t *testing.T) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "k1", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// build makes a service from a config.yaml.
func build(t *testing.T, yaml string, callees ...string) *stack.Stack {
	t.Helper()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() }) // the test is over
	cert, key := certificate(t)
	dir := t.TempDir()
	keys := keysOfTokens(t)
	yaml = strings.NewReplacer("CERT", cert, "KEYS", keys, "KEY", key).Replace(yaml)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	live, cfg, err := stack.OpenConfig(t.Context(), config.Sources{
		Service: serviceName, Dir: dir, Args: []string{"--set", "etcd.endpoints=" + strings.Join(etcd.Endpoints(), ",")},
	}, callees)
	if err != nil {
		t.Fatal(err)
	}
	s, err := stack.New(stack.Params{
		Service: serviceName, Version: "v1", Config: cfg, Live: live, Callees: callees, Serves: true, Log: zap.NewNop(), Process: stack.Process{Dev: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.Server(), impl{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = s.Close(ctx) // the collector takes nothing, which is told here
	})
	return s
}

// running is the service everything, after a call.
func running(t *testing.T) *stack.Stack {
	t.Helper()
	s := build(t, everything, serviceName)
	leads := lead(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitRegistered(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := s.Clients().Conn(serviceName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testpb.NewTestServiceClient(conn).EmptyCall(ctx, &testpb.Empty{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-leads:
	case <-ctx.Done():
		t.Fatal("nobody leads")
	}
	return s
}

// lead has a service lead something once it runs. The channel it returns is closed as soon as it does.
func lead(t *testing.T, s *stack.Stack) <-chan struct{} {
	t.Helper()
	leads := make(chan struct{})
	l, err := s.Leader("nightly", func(ctx context.Context, _ int64) error {
		close(leads)
		<-ctx.Done()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Work("nightly", l.Run)
	return leads
}

// series are the names of an exposed metric and for each the values of its labels.
type series map[string]map[string]map[string]bool

func (all series) add(t *testing.T, s *stack.Stack) {
	t.Helper()
	families, err := s.Telemetry().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			names := []string{f.GetName()}
			if f.GetType() == dto.MetricType_HISTOGRAM {
				names = []string{f.GetName() + "_bucket", f.GetName() + "_count", f.GetName() + "_sum"}
			}
			for i, name := range names {
				if all[name] == nil {
					all[name] = map[string]map[string]bool{}
				}
				labels := m.GetLabel()
				if len(names) == 3 && i == 0 {
					le := "le"
					labels = append(labels[:len(labels):len(labels)], &dto.LabelPair{Name: &le, Value: new(string)})
				}
				for _, l := range labels {
					if all[name][l.GetName()] == nil {
						all[name][l.GetName()] = map[string]bool{}
					}
					all[name][l.GetName()][l.GetValue()] = true
				}
			}
		}
	}
}

// TestExemplarsLeadFromBucketsToTraces asks as Prometheus does.
func TestExemplarsLeadFromBucketsToTraces(t *testing.T) {
	t.Parallel()
	s := running(t)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	answer := httptest.NewRecorder()
	s.Telemetry().MetricsHandler().ServeHTTP(answer, req)
	body := answer.Body.String()
	for _, name := range []string{"grpc_server_call_duration_seconds_bucket", "grpc_client_call_duration_seconds_bucket"} {
		found := false
		for line := range strings.Lines(body) {
			_, exemplar, has := strings.Cut(line, " # {")
			if strings.HasPrefix(line, name) && strings.Contains(line, "EmptyCall") && has {
				found = strings.Contains(exemplar, `trace_id="`) && strings.Contains(exemplar, `span_id="`)
			}
		}
		if !found {
			t.Errorf("no bucket of %s leads to a trace", name)
		}
	}
	if got := answer.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Errorf("Content-Type = %q", got)
	}
}
