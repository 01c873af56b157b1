package client

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// maxCallAttempts is gRPC's own cap on attempts, set on every connection so that Validate can promise it.
const maxCallAttempts = 5

// The service config as gRPC reads it, https://github.com/grpc/grpc/blob/master/doc/service_config.md.
type (
	serviceConfig struct {
		LoadBalancing []map[string]any `json:"loadBalancingConfig"`
		HealthCheck   *healthCheck     `json:"healthCheckConfig,omitempty"`
		Methods       []methodConfig   `json:"methodConfig"`
		Throttling    *throttling      `json:"retryThrottling,omitempty"`
	}
	healthCheck struct {
		Service string `json:"serviceName"`
	}
	methodConfig struct {
		Names        []methodName `json:"name"`
		WaitForReady bool         `json:"waitForReady"`
		Timeout      string       `json:"timeout,omitempty"`
		MaxRequest   int          `json:"maxRequestMessageBytes,omitempty"`
		MaxResponse  int          `json:"maxResponseMessageBytes,omitempty"`
		Retry        *retryConfig `json:"retryPolicy,omitempty"`
	}
	methodName struct {
		Service string `json:"service,omitempty"`
		Method  string `json:"method,omitempty"`
	}
	retryConfig struct {
		MaxAttempts    int      `json:"maxAttempts"`
		InitialBackoff string   `json:"initialBackoff"`
		MaxBackoff     string   `json:"maxBackoff"`
		Multiplier     float64  `json:"backoffMultiplier"`
		Codes          []string `json:"retryableStatusCodes"`
	}
	throttling struct {
		MaxTokens  int     `json:"maxTokens"`
		TokenRatio float64 `json:"tokenRatio"`
	}
)

// serviceConfigJSON renders the pushed part of a policy, for a caller in that zone.
//
// The timeout is set for the unary methods by name, since for all methods it would end streams too. gRPC then derives
// one context for a call where a limit set around it would make two, which is a third of what a call through this
// package costs; see [Conn.invoke] for the calls that it does not bound.
func serviceConfigJSON(p Policy, zone string, linked methods) (string, error) {
	all := methodConfig{
		Names: []methodName{{}}, WaitForReady: p.WaitForReady, MaxRequest: p.MaxSendBytes, MaxResponse: p.MaxRecvBytes,
	}
	sc := serviceConfig{LoadBalancing: []map[string]any{p.balancing(zone)}, Methods: []methodConfig{all}}
	if p.HealthCheck {
		sc.HealthCheck = &healthCheck{} // the empty name asks about the whole server
	}
	if p.Retry.MaxAttempts > 1 {
		sc.Throttling = &throttling{MaxTokens: p.Retry.BudgetTokens, TokenRatio: p.Retry.BudgetRatio}
	}
	for _, kind := range []methodKind{{unary: true}, {idempotent: true}, {unary: true, idempotent: true}} {
		if names := linked.byKind[kind]; len(names) > 0 {
			sc.Methods = append(sc.Methods, all.of(kind, names, p))
		}
	}
	b, err := json.Marshal(sc)
	if err != nil {
		return "", fmt.Errorf("rendering the service config of a policy: %w", err)
	}
	return string(b), nil
}

// of returns a copy of c for the named methods, which are of one kind.
func (c methodConfig) of(kind methodKind, names []methodName, p Policy) methodConfig {
	c.Names = names
	if kind.unary && p.Timeout > 0 {
		c.Timeout = seconds(p.Timeout)
	}
	if r := p.Retry; kind.idempotent && r.MaxAttempts > 1 {
		c.Retry = &retryConfig{
			MaxAttempts: r.MaxAttempts, InitialBackoff: seconds(r.InitialBackoff), MaxBackoff: seconds(r.MaxBackoff),
			Multiplier: r.Multiplier, Codes: []string{"UNAVAILABLE"},
		}
	}
	return c
}

// seconds writes a duration as protobuf's JSON does.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 9, 64) + "s" }
