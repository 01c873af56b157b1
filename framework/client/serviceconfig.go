package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
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

// serviceConfigJSON renders the pushed part of a policy. idempotent lists the methods that may be retried.
func serviceConfigJSON(p Policy, idempotent []methodName) (string, error) {
	balancer := map[string]any{p.Balancer: struct{}{}}
	if p.Balancer == PickFirst {
		// Lists are sorted: without the shuffle all callers would take the same instance.
		balancer[p.Balancer] = map[string]bool{"shuffleAddressList": true}
	}
	all := methodConfig{
		Names: []methodName{{}}, WaitForReady: p.WaitForReady, MaxRequest: p.MaxSendBytes, MaxResponse: p.MaxRecvBytes,
	}
	sc := serviceConfig{LoadBalancing: []map[string]any{balancer}, Methods: []methodConfig{all}}
	if p.HealthCheck {
		sc.HealthCheck = &healthCheck{} // the empty name asks about the whole server
	}
	if r := p.Retry; r.MaxAttempts > 1 && len(idempotent) > 0 {
		retried := all
		retried.Names = idempotent
		retried.Retry = &retryConfig{
			MaxAttempts: r.MaxAttempts, InitialBackoff: seconds(r.InitialBackoff), MaxBackoff: seconds(r.MaxBackoff),
			Multiplier: r.Multiplier, Codes: []string{"UNAVAILABLE"},
		}
		sc.Methods = append(sc.Methods, retried)
		sc.Throttling = &throttling{MaxTokens: r.BudgetTokens, TokenRatio: r.BudgetRatio}
	}
	b, err := json.Marshal(sc)
	if err != nil {
		return "", fmt.Errorf("rendering the service config of a policy: %w", err)
	}
	return string(b), nil
}

// seconds writes a duration as protobuf's JSON does.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 9, 64) + "s" }

// idempotentMethods lists, sorted, the methods of all protos linked into this process that say so by their
// idempotency_level. Which of them a callee serves is not known here and does not matter: names are fully qualified.
func idempotentMethods() []methodName {
	var names []methodName
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		services := file.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				if m := methods.Get(j); isIdempotent(m) {
					names = append(names, methodName{Service: string(services.Get(i).FullName()), Method: string(m.Name())})
				}
			}
		}
		return true
	})
	slices.SortFunc(names, func(a, b methodName) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Method, b.Method))
	})
	return names
}

func isIdempotent(m protoreflect.MethodDescriptor) bool {
	o, ok := m.Options().(*descriptorpb.MethodOptions)
	return ok && o.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}
