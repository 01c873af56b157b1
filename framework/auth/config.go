package auth

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

// Config says how callers prove who they are and what they may call. All of it needs a restart but the contents of the
// files and of the key set.
type Config struct {
	// Enabled switches authentication and authorization on. From then on a method can be called only by those whom a rule
	// or the method's own option in its .proto file admits. Default: false, everybody may call everything.
	Enabled bool `config:"enabled"`
	// JWT says which bearer tokens are good. Default: none are.
	JWT JWTConfig `config:"jwt"`
	// MTLS says how the caller's certificate is read; server.tls.client_ca makes callers present one.
	MTLS MTLSConfig `config:"mtls"`
	// OpenHealth lets everybody ask the health service, as probes and the connections of callers do. Without it the rules
	// decide, and callers whose connections check health need one that admits them. Default: true.
	OpenHealth bool `config:"open_health"`
	// Rules say who may call what. A call is admitted when one of the rules for its method admits the caller, and the
	// method's own option, if it has one, does too. Methods that nobody speaks of can't be called. Default: none.
	Rules []Rule `config:"rules"`
}

// JWTConfig says which tokens are good.
type JWTConfig struct {
	// JWKS is where the issuer's public keys are: a file, or an https:// address (http:// on this machine only). Keys in a
	// file must be there at start; those at an address are waited for in the background. Default: empty, no tokens.
	JWKS string `config:"jwks"`
	// Issuer is what a token must have as its issuer ("iss"), exactly. Required with jwks.
	Issuer string `config:"issuer"`
	// Audiences are names of this service: a token must be meant for one of them ("aud"). Default: the service's name.
	Audiences []string `config:"audiences"`
	// Algorithms are those that a token may be signed with. Only asymmetric ones can be named: whoever can check another
	// one can also forge it. Default: RS256, PS256, ES256, ES384, EdDSA.
	Algorithms []string `config:"algorithms"`
	// Leeway is how far the clocks of issuer and server may be apart. More admits tokens longer after their end.
	// Default: 30s.
	Leeway time.Duration `config:"leeway"`
	// Refresh is how old the keys may become before they are read again, beside the calls. A key that the issuer has
	// withdrawn counts no longer than this. Default: 5m.
	Refresh time.Duration `config:"refresh"`
	// MinRefresh is the shortest time between two readings, whatever tokens come: a token with an unknown key has the keys
	// read again, and anybody can send such a token. Default: 10s.
	MinRefresh time.Duration `config:"min_refresh"`
	// Timeout bounds one reading of the keys. Calls that need a key that is not known wait for it. Default: 3s.
	Timeout time.Duration `config:"timeout"`
	// TLS is how the key set's server is checked. Default: by the authorities of the system.
	TLS certs.ClientConfig `config:"tls"`
	// Cache is how many verified tokens are remembered until they end; checking a signature costs more than the rest of a
	// call. About 1 KiB each. Default: 10000; 0 remembers none.
	Cache int `config:"cache"`
}

// MTLSConfig says how the certificate of a caller tells who he is. The first DNS name in it that has the form of a service
// name is the caller's name; where SPIFFE is set the ID alone says who is a service, and DNS names count for nothing.
type MTLSConfig struct {
	// SPIFFE says which SPIFFE IDs stand for services, for example "spiffe://example.org/ns/default/sa/{service}". Where
	// it is set DNS names stand for none. Default: empty; IDs can be named in rules only as they are.
	SPIFFE string `config:"spiffe"`
}

// Rule admits callers to methods. All that is set must hold; of the lists but scopes, one entry.
type Rule struct {
	// Methods are what the rule is about: "user.v1.UserService/GetUser", "user.v1.UserService/*" or "*". A name that the
	// server does not serve is an error at start. Required.
	Methods []string `config:"methods"`
	// Anyone admits everybody, whether he says who he is or not. Nothing else may be set then. Default: false.
	Anyone bool `config:"anyone"`
	// Authenticated admits everybody who has proved who he is, by a token or a certificate. Default: false.
	Authenticated bool `config:"authenticated"`
	// Services are callers by the name in their certificate, or by their SPIFFE ID. Default: any.
	Services []string `config:"services"`
	// Subjects are callers by the subject of their token ("sub"). Default: any.
	Subjects []string `config:"subjects"`
	// Scopes are what the token must have in "scope" or "scp", each of them. Default: none.
	Scopes []string `config:"scopes"`
	// Claims are further claims of the token, each with the values of which it must have one. Default: none.
	Claims map[string][]string `config:"claims"`
}

// DefaultConfig returns the defaults named at each field.
func DefaultConfig() Config {
	return Config{
		JWT: JWTConfig{
			Algorithms: []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"},
			Leeway:     30 * time.Second, Refresh: 5 * time.Minute, MinRefresh: 10 * time.Second, Timeout: 3 * time.Second,
			Cache: 10000,
		},
		OpenHealth: true,
	}
}

// Validate looks at the values only; files and addresses are read later. The error starts with the key at fault.
func (c Config) Validate() error {
	if err := c.JWT.validate(); err != nil {
		return fmt.Errorf("jwt.%w", err)
	}
	if err := c.MTLS.validate(); err != nil {
		return fmt.Errorf("mtls.%w", err)
	}
	for i, r := range c.Rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("rules: number %d: %w", i+1, err)
		}
	}
	if len(c.Rules) > 0 && !c.Enabled {
		return errors.New("enabled: false, but there are rules, which nobody would keep; set auth.enabled: true or remove them")
	}
	return nil
}

func (c JWTConfig) validate() error {
	if c.JWKS == "" {
		if c.Issuer != "" {
			return fmt.Errorf("jwks: not set, but issuer is %q; name the file or address of the issuer's keys", c.Issuer)
		}
		return nil
	}
	if err := checkJWKS(c.JWKS); err != nil {
		return fmt.Errorf("jwks: %w", err)
	}
	if c.Issuer == "" {
		return errors.New(`issuer: not set; write what the issuer puts into "iss", for example "https://login.example.com/"`)
	}
	if len(c.Algorithms) == 0 {
		return errors.New(`algorithms: none given; write for example ["RS256", "ES256"]`)
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(algorithms(), a) {
			return fmt.Errorf("algorithms: %q is not accepted: whoever can check such a signature can forge it, or it is none; the choice is %s", a, strings.Join(algorithms(), ", "))
		}
	}
	for _, f := range []struct {
		key      string
		d        time.Duration
		min, max time.Duration
	}{
		{"leeway", c.Leeway, 0, 10 * time.Minute},
		{"refresh", c.Refresh, time.Second, 24 * time.Hour},
		{"min_refresh", c.MinRefresh, time.Second, c.Refresh},
		{"timeout", c.Timeout, 10 * time.Millisecond, time.Minute},
	} {
		if f.d < f.min || f.d > f.max {
			return fmt.Errorf("%s: %q is out of bounds; use %v to %v", f.key, f.d, f.min, f.max)
		}
	}
	if c.Cache < 0 {
		return fmt.Errorf("cache: %d is negative; use 0 to remember no tokens", c.Cache)
	}
	if err := c.TLS.Validate(); err != nil {
		return fmt.Errorf("tls.%w", err)
	}
	if c.TLS.Active() && !strings.HasPrefix(c.JWKS, "https://") {
		return fmt.Errorf("tls: set, but %q is not read over TLS; write https:// or remove it", c.JWKS)
	}
	return nil
}

// checkJWKS refuses addresses over which somebody else's keys could be slipped in, and such that hold a password: they
// appear in logs.
func checkJWKS(at string) error {
	if !strings.Contains(at, "://") {
		return nil
	}
	u, err := url.Parse(at)
	switch {
	case err != nil:
		return errors.New(`it is no address; write for example "https://login.example.com/keys.json", or the name of a file`)
	case u.User != nil:
		return fmt.Errorf("the address at %q holds a user or password; public keys need none, remove it", u.Host)
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf(`%q is no address; write for example "https://login.example.com/keys.json", or the name of a file`, at)
	case u.Scheme == "http" && !onThisMachine(u.Hostname()):
		return fmt.Errorf("%q is read without TLS: anybody on the way could put his own key there; write https://", at)
	}
	return nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// serviceInTemplate is what stands for the name in mtls.spiffe.
const serviceInTemplate = "{service}"

func (c MTLSConfig) validate() error {
	if c.SPIFFE == "" {
		return nil
	}
	rest, ok := strings.CutPrefix(c.SPIFFE, "spiffe://")
	domain, path, _ := strings.Cut(rest, "/")
	if !ok || domain == "" || strings.Contains(domain, "{") || strings.Count(path, serviceInTemplate) != 1 {
		return fmt.Errorf(`spiffe: %q does not say where the service's name is; write for example "spiffe://example.org/ns/default/sa/{service}"`, c.SPIFFE)
	}
	return nil
}

var methodPattern = regexp.MustCompile(`^/?[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/([A-Za-z_][A-Za-z0-9_]*|\*)$`)

func (r Rule) validate() error {
	if len(r.Methods) == 0 {
		return errors.New(`methods: none given; write for example ["user.v1.UserService/GetUser"]`)
	}
	for _, m := range r.Methods {
		if m != "*" && !methodPattern.MatchString(m) {
			return fmt.Errorf(`methods: %q is no method; write "package.Service/Method", "package.Service/*" or "*"`, m)
		}
	}
	conditions := len(r.Services) + len(r.Subjects) + len(r.Scopes) + len(r.Claims)
	switch {
	case r.Anyone && (r.Authenticated || conditions > 0):
		return errors.New("anyone: true, but the rule has conditions too, which would not count; remove one or the other")
	case !r.Anyone && !r.Authenticated && conditions == 0:
		return errors.New("it says of nobody that he may call; set services, subjects, scopes or claims, or authenticated: true for all who say who they are, or anyone: true")
	}
	for name, values := range r.Claims {
		if len(values) == 0 {
			return fmt.Errorf("claims: %q has no values, so that nobody could meet it; list those that are good", name)
		}
	}
	for _, list := range [][]string{r.Services, r.Subjects, r.Scopes} {
		if slices.Contains(list, "") {
			return errors.New("a list has an empty entry; remove it")
		}
	}
	return nil
}
