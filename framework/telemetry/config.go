package telemetry

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// Protocols of [TracesConfig.Protocol].
const (
	ProtocolGRPC = "grpc"
	ProtocolHTTP = "http"
)

// Config is the section "telemetry".
type Config struct {
	// Metrics says what is counted and timed.
	Metrics MetricsConfig `config:"metrics"`
	// Traces says where spans go. Without an endpoint no span is ever built.
	Traces TracesConfig `config:"traces"`
}

// MetricsConfig configures the metrics of calls, of the Go runtime and of the process.
type MetricsConfig struct {
	// Enabled counts and times every call and serves the result. Default true; it costs about 0.3 µs a call and no
	// allocation.
	Enabled bool `config:"enabled"`
	// NativeHistograms adds Prometheus native histograms (finer, one series each) to the classic buckets. Default false:
	// they need a Prometheus that scrapes the protobuf format and cost a little more per call.
	NativeHistograms bool `config:"native_histograms"`
}

// TracesConfig configures spans and their export by OTLP.
type TracesConfig struct {
	// Endpoint is the collector's host:port, for example "otel-collector:4317". Default empty: no spans are built. A
	// trace context that a caller sends is passed on to callees in either case.
	Endpoint string `config:"endpoint"`
	// Protocol is "grpc" (default, usually port 4317) or "http" (usually port 4318).
	Protocol string `config:"protocol"`
	// Insecure sends spans without TLS. Default false.
	Insecure bool `config:"insecure"`
	// CA is a PEM file with the authorities that may vouch for the collector. Default empty: those of the system.
	CA string `config:"ca"`
	// Headers are sent with every export, for example an API key. Default none.
	Headers map[string]string `config:"headers" secret:"true"`
	// SampleRatio is the share, from 0 to 1, of calls that start a trace here. A call whose caller already decided
	// follows the caller. Default 0.01. More shows more and costs more: a sampled call about doubles its CPU.
	SampleRatio float64 `config:"sample_ratio" reload:"live"`
	// ExportTimeout bounds one attempt to hand over a batch, retries included. Default 10 s.
	ExportTimeout time.Duration `config:"export_timeout"`
}

// DefaultConfig returns metrics on and traces off.
func DefaultConfig() Config {
	return Config{
		Metrics: MetricsConfig{Enabled: true},
		Traces:  TracesConfig{Protocol: ProtocolGRPC, SampleRatio: 0.01, ExportTimeout: 10 * time.Second},
	}
}

// Validate reports the first setting that cannot be used.
func (c Config) Validate() error {
	t := c.Traces
	if t.Endpoint != "" {
		if strings.Contains(t.Endpoint, "://") {
			return fmt.Errorf("traces.endpoint: %q is a URL; write only host:port, choose the protocol with traces.protocol and plain text with traces.insecure", t.Endpoint)
		}
		if host, port, err := net.SplitHostPort(t.Endpoint); err != nil || host == "" || port == "" {
			return fmt.Errorf(`traces.endpoint: %q is no host:port; write for example "otel-collector:4317"`, t.Endpoint)
		}
	}
	if t.Protocol != ProtocolGRPC && t.Protocol != ProtocolHTTP {
		return fmt.Errorf("traces.protocol: %q is unknown; write %q or %q", t.Protocol, ProtocolGRPC, ProtocolHTTP)
	}
	if t.Insecure && t.CA != "" {
		return fmt.Errorf("traces.ca: %q is never used since traces.insecure is true; remove one of them", t.CA)
	}
	if err := checkRatio(t.SampleRatio); err != nil {
		return fmt.Errorf("traces.sample_ratio: %w", err)
	}
	if t.ExportTimeout <= 0 {
		return fmt.Errorf(`traces.export_timeout: "%v" is not greater than zero; write for example "10s"`, t.ExportTimeout)
	}
	return nil
}

func checkRatio(ratio float64) error {
	if !(ratio >= 0 && ratio <= 1) { // also false for NaN
		return fmt.Errorf(`"%v" is no share; write a number from 0 (none) to 1 (every call)`, ratio)
	}
	return nil
}
