package auth_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/auth"
)

// ruled is a configuration with these rules and the issuer's tokens.
func ruled(iss *issuer, rules ...auth.Rule) auth.Config {
	c := config(iss.file())
	c.Rules = rules
	return c
}

func on(methods ...string) []string { return methods }

func TestWhatNoRuleSpeaksOfIsClosed(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss))
	b.refused(read, iss.token(nil), codes.PermissionDenied, "NOBODY_ADMITTED", "nobody is admitted", "no rule of auth.rules")
	closed := b.logs.FilterMessageSnippet("nobody may call these methods").All()
	if len(closed) != 1 || !strings.Contains(b.log(), write) || strings.Contains(closed[0].Message, "health") {
		t.Errorf("at start the log says %s, want the methods that are closed", b.log())
	}
}

func TestBeforeBindEverythingIsClosed(t *testing.T) {
	t.Parallel()
	a, err := auth.New(auth.Params{Service: "user-service", Config: ruled(newIssuer(t, "k1"), auth.Rule{Methods: on("*"), Anyone: true})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	unary, _ := a.Authorize()
	if _, err := unary(t.Context(), nil, infoOf(read), nil); reasonOf(err) != "NOBODY_ADMITTED" {
		t.Errorf("a call before Bind: %v", err)
	}
}

func TestRulesAdmitWhomTheyName(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	ann, bob := iss.token(nil), iss.token(map[string]any{"sub": "bob", "scope": "users.read", "tenant": "acme", "level": 3})
	for name, tc := range map[string]struct {
		rule           auth.Rule
		ann, bob, none string // reasons, empty: admitted
	}{
		"anyone":           {auth.Rule{Anyone: true}, "", "", ""},
		"authenticated":    {auth.Rule{Authenticated: true}, "", "", "CREDENTIALS_MISSING"},
		"a subject":        {auth.Rule{Subjects: []string{"bob", "eve"}}, "CALLER_NOT_ADMITTED", "", "CREDENTIALS_MISSING"},
		"a scope":          {auth.Rule{Scopes: []string{"users.write"}}, "", "SCOPE_MISSING", "CREDENTIALS_MISSING"},
		"all scopes":       {auth.Rule{Scopes: []string{"users.read", "users.write"}}, "", "SCOPE_MISSING", "CREDENTIALS_MISSING"},
		"a claim":          {auth.Rule{Claims: map[string][]string{"tenant": {"emca", "acme"}}}, "CALLER_NOT_ADMITTED", "", "CREDENTIALS_MISSING"},
		"a number":         {auth.Rule{Claims: map[string][]string{"level": {"3"}}}, "CALLER_NOT_ADMITTED", "", "CREDENTIALS_MISSING"},
		"claim and scope":  {auth.Rule{Claims: map[string][]string{"tenant": {"acme"}}, Scopes: []string{"users.write"}}, "CALLER_NOT_ADMITTED", "SCOPE_MISSING", "CREDENTIALS_MISSING"},
		"a service":        {auth.Rule{Services: []string{"gateway"}}, "CALLER_NOT_ADMITTED", "CALLER_NOT_ADMITTED", "CREDENTIALS_MISSING"},
		"a token for more": {auth.Rule{Authenticated: true, Scopes: []string{"users.write"}}, "", "SCOPE_MISSING", "CREDENTIALS_MISSING"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.rule.Methods = on("authtest.v1.Plain/Read")
			b := newBench(t, ruled(iss, tc.rule))
			for token, want := range map[string]string{ann: tc.ann, bob: tc.bob, "": tc.none} {
				_, err := b.call(read, token)
				if got := reasonOf(err); got != want || (err == nil) != (want == "") {
					t.Errorf("%.20s...: %v with reason %q, want %q", token, err, got, want)
				}
			}
			b.refused(write, ann, codes.PermissionDenied, "NOBODY_ADMITTED", "", "")
		})
	}
}

func TestARefusedCallerHearsWhatHeLacksAndNotWhoIsAdmitted(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss, auth.Rule{Methods: on("authtest.v1.Plain/Read"), Services: []string{"billing-service"}},
		auth.Rule{Methods: on("authtest.v1.Plain/Write"), Scopes: []string{"users.admin"}}))
	b.refused(read, iss.token(nil), codes.PermissionDenied, "CALLER_NOT_ADMITTED", "not admitted", "billing-service")
	b.refused(write, iss.token(nil), codes.PermissionDenied, "SCOPE_MISSING", `"users.admin"`, "")
	if !strings.Contains(b.log(), "ann") {
		t.Errorf("the log does not say who was refused: %s", b.log())
	}
}

func TestOneOfSeveralRulesIsEnough(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss,
		auth.Rule{Methods: on("*"), Subjects: []string{"root"}},
		auth.Rule{Methods: on("/authtest.v1.Plain/*"), Subjects: []string{"ann"}}))
	b.admitted(read, iss.token(nil))
	b.admitted(write, iss.token(map[string]any{"sub": "root"}))
	b.refused(read, iss.token(map[string]any{"sub": "bob"}), codes.PermissionDenied, "CALLER_NOT_ADMITTED", "not admitted", "none of 2 rules")
}

func TestTheOptionOfTheProtoFileHolds(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss))
	b.admitted(anyone, "")
	b.admitted(scoped, iss.token(nil))
	b.refused(scoped, iss.token(map[string]any{"scope": ""}), codes.PermissionDenied, "SCOPE_MISSING", "users.read", "the option in the .proto file")
	b.refused(scoped, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
	// Fallback has no option of its own, so that of its service holds.
	b.refused(fallback, iss.token(nil), codes.PermissionDenied, "CALLER_NOT_ADMITTED", "", `"gateway"`)
}

func TestRulesNarrowTheOptionOfTheProtoFileAndDoNotWidenIt(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss, auth.Rule{Methods: on("authtest.v1.Gates/Scoped"), Anyone: true},
		auth.Rule{Methods: on("authtest.v1.Gates/Anyone"), Subjects: []string{"ann"}}))
	b.refused(scoped, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
	b.refused(anyone, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
	b.admitted(anyone, iss.token(nil))
}

func TestRulesForMethodsThatAreNotServedAreAMistake(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"authtest.v1.Plain/Raed":   `did you mean "authtest.v1.Plain/Read"?`,
		"authtest.v1.Plains/*":     `did you mean "authtest.v1.Plain/*"?`,
		"other.v1.OtherService/Do": "there are authtest.v1.Gates/Anyone, ",
	} {
		a, err := auth.New(auth.Params{Service: "user-service", Config: ruled(newIssuer(t, "k1"), auth.Rule{Methods: on(pattern), Anyone: true})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		err = a.Bind(methods())
		if err == nil || !strings.HasPrefix(err.Error(), "auth.rules: number 1: methods: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
}

func TestHealthIsOpenUnlessItIsNotToBe(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	const health = "/grpc.health.v1.Health/Check"
	b := newBench(t, ruled(iss))
	b.admitted(health, "")
	b.admitted(health, "x.y.z")
	cfg := ruled(iss)
	cfg.OpenHealth = false
	newBench(t, cfg).refused(health, "", codes.PermissionDenied, "NOBODY_ADMITTED", "", "")
	cfg.Rules = []auth.Rule{{Methods: on("*"), Anyone: true}}
	newBench(t, cfg).refused(health, "", codes.PermissionDenied, "NOBODY_ADMITTED", "", "") // "*" does not mean it
	cfg.Rules = []auth.Rule{{Methods: on("grpc.health.v1.Health/*"), Subjects: []string{"ann"}}}
	b = newBench(t, cfg)
	b.admitted(health, iss.token(nil))
	b.refused(health, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
}

func TestCallsAreCountedByCallerAndNeverBySubject(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss, auth.Rule{Methods: on("authtest.v1.Plain/Read"), Scopes: []string{"users.write"}}))
	b.admitted(read, iss.token(nil))
	b.refused(read, iss.token(map[string]any{"scope": ""}), codes.PermissionDenied, "SCOPE_MISSING", "", "")
	b.refused(read, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
	b.admitted(anyone, "")
	want := "(anonymous) admitted 1, (anonymous) denied 0, (anonymous) unauthenticated 1, (token) admitted 1, (token) denied 1, (token) unauthenticated 0"
	if got := counted(t, b); got != want {
		t.Errorf("counted are\n%s, want\n%s", got, want)
	}
}

// counted is what the metrics of a server say.
func counted(t *testing.T, b *bench) string {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(b.auth.Metrics()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "newsvc_auth_calls_total" {
		t.Fatalf("gathered %v, %v", families, err)
	}
	var lines []string
	for _, m := range families[0].GetMetric() {
		line := ""
		for _, l := range m.GetLabel() {
			line += l.GetValue() + " "
		}
		lines = append(lines, line+strconv.Itoa(int(m.GetCounter().GetValue())))
	}
	return strings.Join(lines, ", ")
}
