package client

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/grpcresolver"
)

const (
	schemeDiscovery = grpcresolver.Scheme
	schemeDNS       = "dns"
	schemeStatic    = "static"
)

var (
	serviceName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	// foreignName is what a callee with a target of its own may be called: anything that can stand in :authority.
	foreignName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
)

// checkName reports whether a callee or caller may have this name. A callee that is not looked up by its name
// (overridden) may also be called as hosts are.
func checkName(name string, overridden bool) error {
	switch {
	case overridden && len(name) <= 253 && foreignName.MatchString(name):
		return nil
	case overridden:
		return fmt.Errorf("%q is no name for a callee; write letters, digits, dots and dashes, for example \"user-service\"", name)
	case len(name) > 50 || !serviceName.MatchString(name):
		return fmt.Errorf("%q is no service name; write lower-case words joined by dashes, 50 characters at most, for example \"user-service\"", name)
	}
	return nil
}

// validateTarget checks Policy.Target.
func validateTarget(target string) error {
	if target == "" {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != schemeDNS && u.Scheme != schemeStatic) || !strings.Contains(target, ":///") && u.Scheme == schemeStatic {
		return fmt.Errorf("target: %q is not understood; write for example \"dns:///host:9000\" or \"static:///10.0.0.1:9000,10.0.0.2:9000\"", target)
	}
	endpoint := resolver.Target{URL: *u}.Endpoint()
	if u.Scheme == schemeStatic {
		if _, err := staticEndpoints(endpoint); err != nil {
			return fmt.Errorf("target: %q: %w", target, err)
		}
		return nil
	}
	if endpoint == "" {
		return fmt.Errorf("target: %q names no host; write for example \"dns:///host:9000\"", target)
	}
	return nil
}

// staticEndpoints reads the list of a static target. An address may be followed by "=" and a weight, of which those without
// one have 100.
func staticEndpoints(list string) ([]resolver.Endpoint, error) {
	if list == "" {
		return nil, errors.New("the list is empty; write for example \"static:///10.0.0.1:9000,10.0.0.2:9000\"")
	}
	seen := map[string]bool{}
	var eps []resolver.Endpoint
	for entry := range strings.SplitSeq(list, ",") {
		addr, share, weighted := strings.Cut(entry, "=")
		host, port, err := net.SplitHostPort(addr)
		n, perr := strconv.Atoi(port)
		if err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%q is no host:port; write for example \"10.0.0.1:9000\" or \"[::1]:9000\"", addr)
		}
		if !seen[addr] {
			seen[addr] = true
			e := resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}}
			if weighted {
				w, err := strconv.ParseUint(share, 10, 32)
				if err != nil || w == 0 {
					return nil, fmt.Errorf("%q has no weight after its \"=\"; write a whole number above 0, for example \"10.0.0.1:9000=50\" for half the share of others", entry)
				}
				e = weight.Set(e, weight.EndpointInfo{Weight: uint32(w)})
			}
			eps = append(eps, e)
		}
	}
	return eps, nil
}

// staticBuilder resolves static:///a:1,b:2 to exactly that list.
type staticBuilder struct{}

func (staticBuilder) Scheme() string { return schemeStatic }

func (staticBuilder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	eps, err := staticEndpoints(target.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", target.String(), err)
	}
	// The list never changes, so there is nobody to tell when gRPC does not like it; it shows in the calls' errors.
	_ = cc.UpdateState(resolver.State{Endpoints: eps, Addresses: flatten(eps)})
	return staticResolver{}, nil
}

func flatten(eps []resolver.Endpoint) []resolver.Address {
	addrs := make([]resolver.Address, 0, len(eps))
	for _, e := range eps {
		addrs = append(addrs, e.Addresses...)
	}
	return addrs
}

type staticResolver struct{}

func (staticResolver) ResolveNow(resolver.ResolveNowOptions) {}
func (staticResolver) Close()                                {}
