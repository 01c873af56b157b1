package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/newsvc/newsvc/framework/internal/nearest"
	authv1 "github.com/newsvc/newsvc/proto/newsvc/auth/v1"
)

// access is who may call one method: the rule of its .proto file, if it has one, must admit the caller, and so must one
// of the rules of the configuration, if any speaks of the method.
type access struct {
	declared *Rule
	rules    []*Rule
}

// policy is the access of all methods that are served, by "/package.Service/Method".
type policy map[string]*access

// newPolicy works out the access of each method. The error is about rules that speak of methods which are not there.
func newPolicy(cfg Config, methods []string) (policy, error) {
	p := make(policy, len(methods))
	var errs []error
	for _, m := range methods {
		declared, err := declaredRule(m)
		if err != nil {
			errs = append(errs, err)
		}
		p[m] = &access{declared: declared}
	}
	for i := range cfg.Rules {
		rule := &cfg.Rules[i]
		for _, pattern := range rule.Methods {
			if !p.add(pattern, rule) {
				errs = append(errs, fmt.Errorf("auth.rules: number %d: methods: %q is not served here%s", i+1, pattern, p.suggest(pattern)))
			}
		}
	}
	return p, errors.Join(errs...)
}

// add gives a rule to all methods that a pattern means, and tells whether there are any.
func (p policy) add(pattern string, rule *Rule) bool {
	wanted := "/" + strings.TrimPrefix(pattern, "/")
	service, all := strings.CutSuffix(wanted, "*")
	found := false
	for m, a := range p {
		switch {
		case pattern == "*" && isOwn(m): // everything means everything that the service is there for
			continue
		case pattern != "*" && m != wanted && !(all && strings.HasPrefix(m, service)):
			continue
		}
		found = true
		if !slices.Contains(a.rules, rule) {
			a.rules = append(a.rules, rule)
		}
	}
	return found || pattern == "*" || isOwn(wanted)
}

// isOwn tells the methods that every server has or may have for the sake of tools.
func isOwn(method string) bool {
	return isHealth(method) || strings.HasPrefix(method, "/grpc.reflection.")
}

func isHealth(method string) bool { return strings.HasPrefix(method, "/grpc.health.v1.Health/") }

// suggest says what may have been meant.
func (p policy) suggest(pattern string) string {
	var candidates []string
	for m := range p {
		name := strings.TrimPrefix(m, "/")
		service, _, _ := strings.Cut(name, "/")
		candidates = append(candidates, name, service+"/*")
	}
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	if near := nearest.Names(strings.TrimPrefix(pattern, "/"), candidates, 1); len(near) > 0 {
		return fmt.Sprintf("; did you mean %q?", near[0])
	}
	return fmt.Sprintf("; there are %s", strings.Join(slices.Sorted(func(yield func(string) bool) {
		for _, m := range slices.Sorted(maps.Keys(p)) {
			if !isOwn(m) && !yield(strings.TrimPrefix(m, "/")) {
				return
			}
		}
	}), ", "))
}

// closed lists the methods that nobody may call because nobody speaks of them.
func (p policy) closed() (out []string) {
	for _, m := range slices.Sorted(maps.Keys(p)) {
		if a := p[m]; a.declared == nil && len(a.rules) == 0 && !isOwn(m) {
			out = append(out, m)
		}
	}
	return out
}

// declaredRule reads the option of a method, or else of its service, in the .proto files that are linked in. Services
// whose descriptors are not have none.
func declaredRule(method string) (*Rule, error) {
	name := strings.Replace(strings.TrimPrefix(method, "/"), "/", ".", 1)
	d, _ := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name)) // the only error is that there is none
	m, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, nil
	}
	declared := extension(m.Options(), authv1.E_Method)
	if declared == nil {
		declared = extension(m.Parent().Options(), authv1.E_Service)
	}
	if declared == nil {
		return nil, nil
	}
	r := &Rule{
		Methods: []string{method}, Anyone: declared.GetAllowUnauthenticated(), Authenticated: declared.GetAllowAuthenticated(),
		Services: declared.GetServices(), Scopes: declared.GetScopes(),
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("the option newsvc.auth.v1 of %s in its .proto file: %w", strings.TrimPrefix(method, "/"), err)
	}
	return r, nil
}

func extension(options protoreflect.ProtoMessage, of protoreflect.ExtensionType) *authv1.Rule {
	if options == nil || !proto.HasExtension(options, of) {
		return nil
	}
	r, _ := proto.GetExtension(options, of).(*authv1.Rule)
	return r
}

// admit returns nil, or why the caller is refused.
func (a *access) admit(c *call, method string) *refusal {
	if a == nil || a.declared == nil && len(a.rules) == 0 {
		return &refusal{reason: reasonNobody, detail: "no rule of auth.rules and no option in a .proto file speaks of it"}
	}
	if a.declared != nil {
		if r := a.declared.admit(c); r != nil {
			r.detail = "the option in the .proto file: " + r.detail
			return r
		}
	}
	var first *refusal
	for _, rule := range a.rules {
		r := rule.admit(c)
		if r == nil {
			return nil
		}
		if first == nil {
			first = r
		}
	}
	if first != nil && len(a.rules) > 1 && first.reason != reasonMissing {
		return &refusal{reason: reasonForbidden, detail: fmt.Sprintf("none of %d rules for %s admits it", len(a.rules), method)}
	}
	return first
}

// admit returns nil, or what is missing. The caller is told what he can ask for, scopes, and not who else is admitted.
func (r *Rule) admit(c *call) *refusal {
	if r.Anyone {
		return nil
	}
	switch {
	case c != nil && c.nameless && c.token == nil:
		return &refusal{reason: reasonMissing, detail: "no token came with the call, and its certificate names no service; with auth.mtls.spiffe an ID must, and DNS names do not count"}
	case c == nil || c.token == nil && c.peer == nil:
		return &refusal{reason: reasonMissing, detail: "no token and no client certificate came with the call"}
	}
	if len(r.Services) > 0 && (c.peer == nil || !slices.Contains(r.Services, c.peer.service) && !slices.Contains(r.Services, c.peer.spiffe)) {
		return &refusal{reason: reasonForbidden, detail: fmt.Sprintf("it is not one of the services %q", r.Services)}
	}
	if len(r.Subjects)+len(r.Scopes)+len(r.Claims) == 0 {
		return nil
	}
	if c.token == nil {
		return &refusal{reason: reasonMissing, detail: "the rule wants a token, and none came with the call"}
	}
	id := &c.token.identity
	if len(r.Subjects) > 0 && !slices.Contains(r.Subjects, id.Subject) {
		return &refusal{reason: reasonForbidden, detail: "its subject is not one of those admitted"}
	}
	for _, scope := range r.Scopes {
		if !slices.Contains(id.Scopes, scope) {
			return &refusal{reason: reasonScope, detail: fmt.Sprintf("scope %q", scope), more: fmt.Sprintf(": %q", scope)}
		}
	}
	for name, values := range r.Claims {
		if !slices.ContainsFunc(id.claims[name], func(v string) bool { return slices.Contains(values, v) }) {
			return &refusal{reason: reasonForbidden, detail: fmt.Sprintf("claim %q is none of %q", name, values)}
		}
	}
	return nil
}
