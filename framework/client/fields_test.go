package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/client"
)

// effects names for each key of a policy the test that shows what it does to real calls, of this package or of another
// one beside it.
var effects = map[string]string{
	"timeout":        "TestTheTimeoutSaysThatItFiredAndWhereItWasSet",
	"open_timeout":   "TestAStreamThatFindsNobodyFailsAfterOpenTimeoutAndSaysWhy",
	"wait_for_ready": "TestWaitForReadyDecidesWhetherACallWaits",
	"balancer":       "TestTheRuleChangesUnderLoadWithoutALostCallOrANewConnection",
	"slow_start":     "TestAJoinerHasItsFirstCallAtOnceAndThenASmallShare",
	"health_check":   "TestHealthIsFollowedWhenAsked",
	"max_recv_bytes": "../interop TestMessagesAboveALimitAreRefused",
	"max_send_bytes": "../interop TestMessagesAboveALimitAreRefused",
	"compression":    "../interop TestCompressionOfThePolicyShrinksWhatGoesOverTheWire",
	"target":         "TestTargetsBypassDiscoveryAndKeepTheName",
	"min_instances":  "../stack TestMinInstancesHoldsTheStartUntilCallsCanBeMade",
	"start_timeout":  "../stack TestStartTimeoutBoundsTheWaitForInstances",

	"zone.prefer":        "TestCallsStayInTheCallersZone",
	"zone.name":          "TestTheZoneOfThePolicyWins",
	"zone.min_share":     "TestAZoneThatLosesInstancesSpillsOver",
	"zone.min_instances": "TestAZoneWithTooFewInstancesKeepsSoManyPartsOfTheCalls",
	"ring_hash.header":   "TestCallsOfOneKeyGoToOneInstanceFromAllCallers",
	"ring_hash.max_load": "TestMaxLoadSendsTheCallsOfAHotKeyElsewhere",

	"ejection.enabled":     "TestEjectionEnabled",
	"ejection.consecutive": "TestEjectionConsecutive",
	"ejection.error_share": "TestEjectionErrorShare",
	"ejection.min_calls":   "TestEjectionMinCalls",
	"ejection.slow_factor": "TestEjectionOfWhoIsSlow",
	"ejection.slow_margin": "TestEjectionOfWhoIsSlow",
	"ejection.slow_after":  "TestEjectionOfWhoIsSlow",
	"ejection.base_time":   "TestEjectionBaseTime",
	"ejection.max_time":    "TestEjectionMaxTime",
	"ejection.max_share":   "TestEjectionMaxShare",
	"ejection.slow_start":  "TestEjectionSlowStart",

	"breaker.enabled":       "TestBreakerEnabled",
	"breaker.ratio":         "TestBreakerRatioMinCallsAndWindow",
	"breaker.min_calls":     "TestBreakerRatioMinCallsAndWindow",
	"breaker.window":        "TestBreakerRatioMinCallsAndWindow",
	"breaker.max_in_flight": "TestBreakerMaxInFlight",

	"retry.max_attempts":    "TestMaxAttemptsBoundsRetries",
	"retry.initial_backoff": "TestBackoffSpacesRetriesOut",
	"retry.max_backoff":     "TestBackoffSpacesRetriesOut",
	"retry.multiplier":      "TestBackoffSpacesRetriesOut",
	"retry.budget_tokens":   "TestRetriesStopWhenTheirBudgetIsHalfEmpty",
	"retry.budget_ratio":    "TestSuccessesEarnRetries",

	"not_processed.max_attempts":  "TestRepeatsAreBoundedByTheirPolicy",
	"not_processed.budget_tokens": "TestRepeatsAreBoundedByTheirPolicy",
	"not_processed.budget_ratio":  "TestRepeatsAreBoundedByTheirPolicy",

	"hedging.delay":        "TestASlowInstanceIsCutFromTheTail",
	"hedging.max_attempts": "TestHedgesGoToOneMoreInstanceEach",
	"hedging.budget_ratio": "TestHedgesAreAShareOfTheCalls",

	"keepalive.time":                  "TestKeepAlivePingsAQuietConnectionWhenAsked",
	"keepalive.timeout":               "TestKeepAliveGivesUpAConnectionThatDoesNotAnswer",
	"keepalive.permit_without_stream": "TestKeepAlivePingsAQuietConnectionWhenAsked",

	"token_file":        "TestATokenIsSentFromItsFileAndReadAgain",
	"token_without_tls": "TestATokenIsSentWithoutTLSOnlyWhenAllowed",

	"tls.enabled":     "TestTLSThatIsEnabledAloneTrustsTheSystem",
	"tls.ca":          "TestTLSVerifiesTheCalleesName",
	"tls.server_name": "TestTLSVerifiesTheCalleesName",
	"tls.spiffe_id":   "../interop TestACalleeIsKnownByItsSPIFFEIDWhenAsked",
	"tls.cert":        "../interop TestACallerShowsItsCertificate",
	"tls.key":         "../interop TestACallerShowsItsCertificate",
}

// keysOf lists the keys of a section with the names of their fields.
func keysOf(section reflect.Type, under string) map[string]string {
	keys := map[string]string{}
	for field := range section.Fields() {
		key := under + field.Tag.Get("config")
		if field.Type.Kind() == reflect.Struct {
			maps.Copy(keys, keysOf(field.Type, key+"."))
			continue
		}
		keys[key] = field.Name
	}
	return keys
}

// sourced are the tests of a package, with their text.
type sourced struct {
	names map[string]bool
	text  string
}

func testsIn(t *testing.T, dir string) sourced {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no tests: %v", dir, err)
	}
	s := sourced{names: map[string]bool{}}
	for _, file := range files {
		if filepath.Base(file) == "fields_test.go" || filepath.Base(file) == "policy_test.go" {
			continue // which look at the struct alone
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				s.names[f.Name.Name] = true
			}
		}
		s.text += string(b)
	}
	return s
}

// A setting that nobody has seen to work does not work.
func TestEachKeyOfAPolicyHasATestThatShowsItsEffect(t *testing.T) {
	t.Parallel()
	keys := keysOf(reflect.TypeFor[client.Policy](), "")
	packages := map[string]sourced{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		dir, name, elsewhere := strings.Cut(effects[key], " ")
		if !elsewhere {
			dir, name = ".", dir
		}
		if name == "" {
			t.Errorf("%q: no test shows its effect; write one that makes real calls, and name it in effects", key)
			continue
		}
		if _, read := packages[dir]; !read {
			packages[dir] = testsIn(t, dir)
		}
		p := packages[dir]
		if !p.names[name] {
			t.Errorf("%q: there is no %s in %s", key, name, dir)
		}
		if !regexp.MustCompile(`[.{\s]` + keys[key] + `\b`).MatchString(p.text) {
			t.Errorf("%q: no test in %s sets %s", key, dir, keys[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(effects)) {
		if _, there := keys[key]; !there {
			t.Errorf("%q is no key of a policy", key)
		}
	}
}
