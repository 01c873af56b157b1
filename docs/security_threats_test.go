package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// threats are what the model in security.md must speak of, by words of its lines.
func threats() []string {
	return []string{
		"expired token", "wrong audience", "wrong issuer", "alg: none", "HS256 with the public key", "unknown key id", "JWKS away",
		"wrong CA", "name mismatch", "expired certificate", "oversize message", "slow-loris", "unauthenticated admin", "secret in a dump",
		"foreign service on a reused address", "reflection", "rotation", "announces another one", "SPIFFE",
	}
}

var (
	threatRow  = regexp.MustCompile("(?m)^\\| ([^|]+) \\| ([^|]+) \\| ((?:`Test\\w+`(?:, )?)+) \\|$")
	namedTest  = regexp.MustCompile("`(Test\\w+)`")
	testIsHere = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
)

// unshown returns what is wrong with a threat model: lines without a test, tests that do not exist, threats that are not
// spoken of.
func unshown(page string, tests []string, threats []string) (wrong []string) {
	_, model, ok := strings.Cut(page, "\n## Threat model\n")
	if !ok {
		return []string{"there is no section \"Threat model\""}
	}
	for line := range strings.Lines(model) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| threat |") || strings.HasPrefix(line, "| ---") {
			continue
		}
		row := threatRow.FindStringSubmatch(line)
		if row == nil {
			wrong = append(wrong, "this line does not end with the names of tests: "+line)
			continue
		}
		for _, name := range namedTest.FindAllStringSubmatch(row[3], -1) {
			if !slices.Contains(tests, name[1]) {
				wrong = append(wrong, name[1]+" does not exist; it is to show: "+row[1])
			}
		}
	}
	for _, threat := range threats {
		if !strings.Contains(strings.ReplaceAll(model, "`", ""), threat) {
			wrong = append(wrong, "no line is about: "+threat)
		}
	}
	return wrong
}

func TestEveryThreatIsShownByATest(t *testing.T) {
	t.Parallel()
	var tests []string
	walk(t, func(file string) {
		if strings.HasSuffix(file, "_test.go") {
			for _, m := range testIsHere.FindAllStringSubmatch(read(t, file), -1) {
				tests = append(tests, m[1])
			}
		}
	})
	for _, w := range unshown(read(t, "docs/security.md"), tests, threats()) {
		t.Error(w)
	}
}

func TestAThreatThatNothingShowsIsNoticed(t *testing.T) {
	t.Parallel()
	const head = "# x\n\n## Threat model\n\n| threat | what happens | test |\n| --- | --- | --- |\n"
	tests := []string{"TestA", "TestB"}
	for rows, want := range map[string]string{
		"| a | refused | `TestA` |\n":          "",
		"| a | refused | `TestA`, `TestB` |\n": "",
		"| a | refused | `TestA`, `TestC` |\n": "TestC does not exist",
		"| a | refused | |\n":                  "does not end with the names of tests",
		"| a | refused | somebody looked |\n":  "does not end with the names of tests",
		"| b | refused | `TestA` |\n":          "no line is about: | a |",
		"| `a` | refused | `TestB` |\n":        "",
	} {
		wrong := strings.Join(unshown(head+rows, tests, []string{"| a |"}), "; ")
		if (wrong == "") != (want == "") || !strings.Contains(wrong, want) {
			t.Errorf("%q: %q, want %q", rows, wrong, want)
		}
	}
	if wrong := unshown("# x\n", nil, nil); len(wrong) != 1 {
		t.Errorf("a page without a model: %q", wrong)
	}
}
