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
	// Callers counts the calls that are served by the service that makes them as well, by what it says of itself; at most 100
	// are told apart. Default false: each caller of a method is a series of its own, and it takes an allocation a call.
	Callers bool `config:"callers"`
	// Endpoint is the host:port of a collector that all metrics are pushed to by OTLP, for example "otel-collector:4317".
	// Default empty: nothing is pushed. The metrics are served to Prometheus in either case.
	Endpoint string `config:"endpoint"`
	// Protocol is "grpc" (default, usually port 4317) or "http" (usually port 4318).
	Protocol string `config:"protocol" enum:"grpc|http"`
	// Insecure pushes without TLS. Default false.
	Insecure bool `config:"insecure"`
	// CA is a PEM file with the authorities that may vouch for the collector. Default empty: those of the system.
	CA string `config:"ca"`
	// Headers are sent with every push, for example an API key. Default none.
	Headers map[string]string `config:"headers" secret:"true"`
	// Interval is the time between two pushes. Default 30 s; shorter shows sooner and sends more.
	Interval time.Duration `config:"interval"`
	// ExportTimeout bounds one push, retries included. Default 10 s.
	ExportTimeout time.Duration `config:"export_timeout"`
}

// TracesConfig configures spans and their export by OTLP.
type TracesConfig struct {
	// Endpoint is the collector's host:port, for example "otel-collector:4317". Default empty: no spans are built. A
	// trace context that a caller sends is passed on to callees in either case.
	Endpoint string `config:"endpoint"`
	// Protocol is "grpc" (default, usually port 4317) or "http" (usually port 4318).
	Protocol string `config:"protocol" enum:"grpc|http"`
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
		Metrics: MetricsConfig{Enabled: true, Protocol: ProtocolGRPC, Interval: 30 * time.Second, ExportTimeout: 10 * time.Second},
		Traces:  TracesConfig{Protocol: ProtocolGRPC, SampleRatio: 0.01, ExportTimeout: 10 * time.Second},
	}
}

// Validate reports the first setting that cannot be used.
func (c Config) Validate() error {
	for _, to := range []collector{c.Metrics.collector(), c.Traces.collector()} {
		if err := to.validate(); err != nil {
			return fmt.Errorf("%s.%w", to.key, err)
		}
	}
	if m := c.Metrics; m.Endpoint != "" && !m.Enabled {
		return fmt.Errorf("metrics.endpoint: %q is never used since metrics.enabled is false; change one of them", m.Endpoint)
	}
	if d := c.Metrics.Interval; d < time.Second {
		return fmt.Errorf(`metrics.interval: "%v" is less than a second; write for example "30s"`, d)
	}
	if err := checkRatio(c.Traces.SampleRatio); err != nil {
		return fmt.Errorf("traces.sample_ratio: %w", err)
	}
	return nil
}

func (c collector) validate() error {
	if c.endpoint != "" {
		if strings.Contains(c.endpoint, "://") {
			return fmt.Errorf("endpoint: %q is a URL; write only host:port, choose the protocol with %s.protocol and plain text with %s.insecure", c.endpoint, c.key, c.key)
		}
		if host, port, err := net.SplitHostPort(c.endpoint); err != nil || host == "" || port == "" {
			return fmt.Errorf(`endpoint: %q is no host:port; write for example "otel-collector:4317"`, c.endpoint)
		}
	}
	if c.protocol != ProtocolGRPC && c.protocol != ProtocolHTTP {
		return fmt.Errorf("protocol: %q is unknown; write %q or %q", c.protocol, ProtocolGRPC, ProtocolHTTP)
	}
	if c.insecure && c.ca != "" {
		return fmt.Errorf("ca: %q is never used since %s.insecure is true; remove one of them", c.ca, c.key)
	}
	if c.timeout <= 0 {
		return fmt.Errorf(`export_timeout: "%v" is not greater than zero; write for example "10s"`, c.timeout)
	}
	return nil
}

func checkRatio(ratio float64) error {
	if !(ratio >= 0 && ratio <= 1) { // also false for NaN
		return fmt.Errorf(`"%v" is no share; write a number from 0 (none) to 1 (every call)`, ratio)
	}
	return nil
}
