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

// What OTLP, https://opentelemetry.io/docs/specs/otlp/, calls the export of traces.
const (
	exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	exportPath   = "/v1/traces"
	maxAnswer    = 64 << 10 // bytes of an HTTP answer that are looked at
)

// uploader sends spans to a collector. We do not use the exporters of OpenTelemetry, which register a gzip compressor
// by import: every client of the process would then offer it in a header of every call, which costs the server four
// allocations.
type uploader struct {
	timeout time.Duration
	// send makes one attempt; the answer is an ExportTraceServiceResponse, encoded.
	send func(ctx context.Context, data *tracepb.TracesData) (answer []byte, err error)
	stop func() error
}

// transientError marks a failure after which the same request may succeed.
type transientError struct{ error }

// Unwrap returns the failure itself.
func (e transientError) Unwrap() error { return e.error }

// rejectedError tells that the collector took only a part.
type rejectedError struct {
	spans int64
	why   string
}

// Error says how much was refused and why.
func (e *rejectedError) Error() string {
	return fmt.Sprintf("the collector rejected %d spans: %s", e.spans, e.why)
}

func newUploader(cfg TracesConfig) (*uploader, error) {
	tlsConfig, err := tlsFor(cfg)
	if err != nil {
		return nil, err
	}
	u := &uploader{timeout: cfg.ExportTimeout}
	if cfg.Protocol == ProtocolHTTP {
		u.overHTTP(cfg, tlsConfig)
		return u, nil
	}
	return u, u.overGRPC(cfg, tlsConfig)
}

// overGRPC connects with the first export.
func (u *uploader) overGRPC(cfg TracesConfig, tlsConfig *tls.Config) error {
	creds := insecure.NewCredentials()
	if tlsConfig != nil {
		creds = credentials.NewTLS(tlsConfig)
	}
	conn, err := grpc.NewClient("dns:///"+cfg.Endpoint, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	headers := metadata.New(cfg.Headers)
	u.stop = conn.Close
	u.send = func(ctx context.Context, data *tracepb.TracesData) ([]byte, error) {
		ctx = metadata.NewOutgoingContext(ctx, headers)
		// TracesData has the encoding of ExportTraceServiceRequest; the package of the latter brings grpc-gateway along.
		var answer emptypb.Empty
		err := conn.Invoke(ctx, exportMethod, data, &answer, grpc.WaitForReady(true))
		switch status.Code(err) {
		case codes.Unavailable, codes.Aborted, codes.OutOfRange, codes.DataLoss:
			return nil, transientError{err}
		}
		return answer.ProtoReflect().GetUnknown(), err
	}
	return nil
}

func (u *uploader) overHTTP(cfg TracesConfig, tlsConfig *tls.Config) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
	}
	client := &http.Client{Transport: transport}
	url := "https://" + cfg.Endpoint + exportPath
	if tlsConfig == nil {
		url = "http://" + cfg.Endpoint + exportPath
	}
	u.stop = func() error { transport.CloseIdleConnections(); return nil }
	u.send = func(ctx context.Context, data *tracepb.TracesData) ([]byte, error) {
		body, err := proto.Marshal(data)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		for k, v := range cfg.Headers {
			req.Header.Set(k, v)
		}
		req.Header.Set("Content-Type", "application/x-protobuf")
		return post(client, req)
	}
}

func post(client *http.Client, req *http.Request) ([]byte, error) {
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
	return nil, fmt.Errorf("the collector answered %q; is the port of traces.endpoint the one for OTLP over HTTP?", resp.Status)
}

// Start does nothing: the first export connects.
func (u *uploader) Start(context.Context) error { return nil }

// Stop closes connections. The exporter before it has ended all exports.
func (u *uploader) Stop(context.Context) error { return u.stop() }

// UploadTraces sends spans, again and again while that may help and there is time.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	wait := backoff.New(time.Second, u.timeout)
	for {
		answer, err := u.send(ctx, &tracepb.TracesData{ResourceSpans: spans})
		if err == nil {
			return rejected(answer)
		}
		if again := (transientError{}); !errors.As(err, &again) {
			return err
		}
		if cause := wait.Wait(ctx); cause != nil {
			return fmt.Errorf("%w; last: %w", cause, err)
		}
	}
}

// rejected reads what an answer says about spans that were not taken: partial_success = 1 {rejected_spans = 1,
// error_message = 2}.
func rejected(answer []byte) error {
	partial := field(answer, 1)
	e := &rejectedError{why: string(field(partial, 2))}
	if n, size := protowire.ConsumeVarint(field(partial, 1)); size > 0 {
		e.spans = int64(n)
	}
	if e.spans == 0 {
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

func tlsFor(cfg TracesConfig) (*tls.Config, error) {
	if cfg.Insecure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("traces.ca: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("traces.ca: %q holds no PEM certificate", cfg.CA)
	}
	return c, nil
}
