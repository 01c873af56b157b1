package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// maxAnswer is how many bytes of an HTTP answer are looked at.
const maxAnswer = 64 << 10

// signal is one of the things that OTLP, https://opentelemetry.io/docs/specs/otlp/, exports.
type signal struct {
	key    string // in the section "telemetry"
	method string
	path   string
	unit   string // what a collector may reject
}

func traceSignal() signal {
	return signal{"traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "/v1/traces", "spans"}
}

func metricSignal() signal {
	return signal{"metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "/v1/metrics", "data points"}
}

// collector is where a signal goes.
type collector struct {
	signal
	endpoint, protocol string
	insecure           bool
	ca                 string
	headers            map[string]string
	timeout            time.Duration
}

func (c TracesConfig) collector() collector {
	return collector{traceSignal(), c.Endpoint, c.Protocol, c.Insecure, c.CA, c.Headers, c.ExportTimeout}
}

func (c MetricsConfig) collector() collector {
	return collector{metricSignal(), c.Endpoint, c.Protocol, c.Insecure, c.CA, c.Headers, c.ExportTimeout}
}

// uploader sends spans or metrics to a collector. We do not use the exporters of OpenTelemetry, which register a gzip compressor
// by import: every client of the process would then offer it in a header of every call, which costs the server four
// allocations.
type uploader struct {
	to collector
	// send makes one attempt; the answer is an ExportTraceServiceResponse, or that of another signal, encoded.
	send func(ctx context.Context, data proto.Message) (answer []byte, err error)
	stop func() error
}

// transientError marks a failure after which the same request may succeed.
type transientError struct{ error }

// Unwrap returns the failure itself.
func (e transientError) Unwrap() error { return e.error }

// rejectedError tells that the collector took only a part.
type rejectedError struct {
	count int64
	unit  string
	why   string
}

// Error says how much was refused and why.
func (e *rejectedError) Error() string {
	return fmt.Sprintf("the collector rejected %d %s: %s", e.count, e.unit, e.why)
}

func newUploader(to collector) (*uploader, error) {
	tlsConfig, err := tlsFor(to)
	if err != nil {
		return nil, err
	}
	u := &uploader{to: to}
	if to.protocol == ProtocolHTTP {
		u.overHTTP(tlsConfig)
		return u, nil
	}
	return u, u.overGRPC(tlsConfig)
}

// overGRPC connects with the first export.
func (u *uploader) overGRPC(tlsConfig *tls.Config) error {
	creds := insecure.NewCredentials()
	if tlsConfig != nil {
		creds = credentials.NewTLS(tlsConfig)
	}
	conn, err := grpc.NewClient("dns:///"+u.to.endpoint, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	headers := metadata.New(u.to.headers)
	u.stop = conn.Close
	u.send = func(ctx context.Context, data proto.Message) ([]byte, error) {
		ctx = metadata.NewOutgoingContext(ctx, headers)
		// TracesData has the encoding of ExportTraceServiceRequest, as MetricsData has that of its request; the packages of
		// the latter bring grpc-gateway along.
		var answer emptypb.Empty
		err := conn.Invoke(ctx, u.to.method, data, &answer, grpc.WaitForReady(true))
		switch status.Code(err) {
		case codes.Unavailable, codes.Aborted, codes.OutOfRange, codes.DataLoss:
			return nil, transientError{err}
		}
		return answer.ProtoReflect().GetUnknown(), err
	}
	return nil
}

func (u *uploader) overHTTP(tlsConfig *tls.Config) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
	}
	client := &http.Client{Transport: transport}
	url := "https://" + u.to.endpoint + u.to.path
	if tlsConfig == nil {
		url = "http://" + u.to.endpoint + u.to.path
	}
	u.stop = func() error { transport.CloseIdleConnections(); return nil }
	u.send = func(ctx context.Context, data proto.Message) ([]byte, error) {
		body, err := proto.Marshal(data)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		for k, v := range u.to.headers {
			req.Header.Set(k, v)
		}
		req.Header.Set("Content-Type", "application/x-protobuf")
		return post(client, req, u.to.key)
	}
}

func post(client *http.Client, req *http.Request, key string) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, transientError{err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, transientError{err}
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return answer, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, transientError{fmt.Errorf("the collector answered %q", resp.Status)}
	}
	return nil, fmt.Errorf("the collector answered %q; is the port of %s.endpoint the one for OTLP over HTTP?", resp.Status, key)
}

// Start does nothing: the first export connects.
func (u *uploader) Start(context.Context) error { return nil }

// Stop closes connections. The exporter before it has ended all exports.
func (u *uploader) Stop(context.Context) error { return u.stop() }

// UploadTraces sends spans.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	return u.upload(ctx, &tracepb.TracesData{ResourceSpans: spans})
}

// uploadMetrics sends metrics.
func (u *uploader) uploadMetrics(ctx context.Context, metrics *metricpb.ResourceMetrics) error {
	return u.upload(ctx, &metricpb.MetricsData{ResourceMetrics: []*metricpb.ResourceMetrics{metrics}})
}

// upload sends data, again and again while that may help and there is time.
func (u *uploader) upload(ctx context.Context, data proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, u.to.timeout)
	defer cancel()
	wait := backoff.New(time.Second, u.to.timeout)
	for {
		answer, err := u.send(ctx, data)
		if err == nil {
			return rejected(answer, u.to.unit)
		}
		if again := (transientError{}); !errors.As(err, &again) {
			return err
		}
		if cause := wait.Wait(ctx); cause != nil {
			return fmt.Errorf("%w; last: %w", cause, err)
		}
	}
}

// rejected reads what an answer says about what was not taken: partial_success = 1 {rejected_spans or
// rejected_data_points = 1, error_message = 2}.
func rejected(answer []byte, unit string) error {
	partial := field(answer, 1)
	e := &rejectedError{unit: unit, why: string(field(partial, 2))}
	if n, size := protowire.ConsumeVarint(field(partial, 1)); size > 0 {
		e.count = int64(n)
	}
	if e.count == 0 {
		return nil // a message alone is a warning to developers of exporters
	}
	return e
}

// field returns the value of a field of an encoded message: the content of bytes, the encoding of all else.
func field(msg []byte, want protowire.Number) []byte {
	for len(msg) > 0 {
		num, typ, tag := protowire.ConsumeTag(msg)
		if tag < 0 {
			return nil
		}
		size := protowire.ConsumeFieldValue(num, typ, msg[tag:])
		if size < 0 {
			return nil
		}
		if value := msg[tag : tag+size]; num == want {
			if content, n := protowire.ConsumeBytes(value); typ == protowire.BytesType && n > 0 {
				return content
			}
			return value
		}
		msg = msg[tag+size:]
	}
	return nil
}

func tlsFor(to collector) (*tls.Config, error) {
	if to.insecure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if to.ca == "" {
		return c, nil
	}
	pem, err := os.ReadFile(to.ca)
	if err != nil {
		return nil, fmt.Errorf("%s.ca: %w", to.key, err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s.ca: %q holds no PEM certificate", to.key, to.ca)
	}
	return c, nil
}
