package doctor_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pasted are the functions that make findings, how many kinds each makes, and the tests that paste their remedies. A new one fails
// TestEveryFindingIsPasted until it is listed, with its test.
func pasted() map[string]string {
	const script = "doctor.txtar "
	return map[string]string{
		"toolchain":        "3 TestRemedyGoThatIsNotInPath TestRemedyGoTooOldToFetch " + script,
		"goBin":            "2 TestRemedyNoHome " + script,
		"project":          "1 TestRemedyFilesThatDoNotParse " + script,
		"versions":         "2 TestRemedyFilesThatDoNotParse TestDoctorInstallsTheNewsvcThatFits",
		"frameworkVersion": "1 TestDoctorInstallsTheNewsvcThatFits",
		"sameCheckout":     "1 TestDoctorInstallsTheNewsvcThatFits",
		"replaced":         "1 " + script,
		"plugins":          "2 " + script,
		"generated":        "1 " + script, // and what asFinding makes of errors of generate
		"copies":           "1 doctor_sources.txtar",
		"rpcs":             "1 doctor_sources.txtar",
		"asFinding":        "1 " + script,
		"settings":         "1 TestRemedyConfigOfTheEnvironment " + script,
		"advertised":       "1 " + script,
		"ports":            "1 " + script,
		"deployed":         "2 " + script,
		"registry":         "1 " + script,
		"members":          "2 TestRemedyEtcdOfTheConfigIsAway TestRemedyOneOfSeveralEtcdsIsAway TestRemedyNewsvcDevThatIsFrozen " + script,
		"clock":            "1 TestRemedyClock",
		"leases":           "1 TestALeaseWithoutAKey TestRemediesOfDoctorByTheRealEtcdctl",
		"unregistered":     "1 TestWhatNewsvcDevRunsIsComparedWithTheRegistry",
		"onLoopback":       "1 TestRemedyLoopbackInTheRegistry",
		"unreachable":      "1 TestAnInstanceThatDoesNotAnswer TestRemediesOfDoctorByTheRealEtcdctl",
	}
}

// tests are the texts of the tests that paste remedies, and the names of all scripts.
func tests(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"*_test.go", "../../clitest/doctor_test.go", "../../../../tools/deploy/etcdctl_test.go", "../../testdata/script/*.txtar"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %q, %v", pattern, names, err)
		}
		for _, name := range names {
			all.WriteString(filepath.ToSlash(name) + "\n")
			if strings.HasSuffix(name, ".go") {
				text, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(text)
			}
		}
	}
	return all.String()
}

func TestEveryFindingIsPasted(t *testing.T) {
	t.Parallel()
	made := map[string]int{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				kv, ok := n.(*ast.KeyValueExpr)
				if !ok {
					return true
				}
				key, _ := kv.Key.(*ast.Ident)
				value, _ := kv.Value.(*ast.Ident)
				if key != nil && value != nil && key.Name == "Level" && (value.Name == "Warn" || value.Name == "Fail") {
					made[f.Name.Name]++
				}
				return true
			})
		}
	}
	want := pasted()
	for _, name := range slices.Sorted(maps.Keys(made)) {
		number, _, _ := strings.Cut(want[name], " ")
		if number != string(rune('0'+made[name])) {
			t.Errorf("%s makes %d kinds of findings, and the tests that are listed here paste the remedies of %q", name, made[name], number)
		}
	}
	there := tests(t)
	for name, list := range want {
		if made[name] == 0 {
			t.Errorf("%s makes no finding", name)
		}
		for _, test := range strings.Fields(list)[1:] {
			if !strings.Contains(there, "func "+test+"(") && !strings.Contains(there, "/"+test+"\n") {
				t.Errorf("%s: there is no %s", name, test)
			}
		}
	}
}
