//go:build unix

package why_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// What differs from run to run is replaced by a word: addresses, instances, processes, times and how many calls there were.
var placeholders = []struct {
	like *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDR"},
	{regexp.MustCompile(`^ADDR \w{4} `), "ADDR INSTANCE "},
	{regexp.MustCompile(`\bpid \d+`), "pid PID"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`\bin [0-9.]+m?s\b`), "in DURATION"},
	{regexp.MustCompile(`\b\d+ calls in a row`), "N calls in a row"},
}

func anonymous(line string) string {
	line = strings.Join(strings.Fields(line), " ") // columns are as wide as what stands in them
	for _, p := range placeholders {
		line = p.like.ReplaceAllString(line, p.word)
	}
	return line
}

// causeIn is the line that names the cause, found in the same way whatever that is: etcd that does not answer comes first, then
// an instance that can't be used, and the verdict if nothing of the two is there.
func causeIn(report string) string {
	for _, like := range []string{`^etcd does not answer`, `^  \S.* NOT USABLE `, `^ERROR `} {
		for line := range strings.Lines(report) {
			if regexp.MustCompile(like).MatchString(line) {
				return anonymous(line)
			}
		}
	}
	return "no line names a cause"
}

func TestEachOfTheSixCausesHasALineOfItsOwn(t *testing.T) {
	t.Parallel()
	causes := map[string]struct {
		inject func(*testing.T) scene
		exit   int
		want   string
	}{
		"wrong prefix": {
			wrongPrefix, problem.NotFound,
			"ERROR wrong prefix: blogger-user is registered below /newsvc/eu, and looked for below /newsvc/default",
		},
		"typo": {
			typo, problem.NotFound,
			"ERROR no instance of bloger-user is registered; did you mean blogger-user?",
		},
		"etcd frozen": {
			etcdFrozen, 0,
			`etcd does not answer: no answer from etcd at ADDR (--etcd): listing the services below "/newsvc/default": etcd at ADDR does not answer: context deadline exceeded; what callers know may be old`,
		},
		"server stopped": {
			serverStopped, problem.Conflict,
			"ADDR INSTANCE up NOT USABLE READY takes connections and answers nothing: its process is stopped (SIGSTOP, a debugger) or overloaded; pid PID",
		},
		"ejected": {
			ejected, 0,
			"ADDR INSTANCE up NOT USABLE READY takes no calls: ejected until TIME (in DURATION): N calls in a row failed, the last with Unavailable",
		},
		"loopback advertised": {
			loopbackAdvertised, problem.Conflict,
			"ADDR INSTANCE up NOT USABLE TRANSIENT_FAILURE it advertises a loopback address, which leads every caller to its own machine; here nobody listens there: connection refused; last error: dial tcp ADDR: connect: connection refused",
		},
	}
	found := make(chan [2]string, len(causes))
	t.Run("causes", func(t *testing.T) { // which returns when all of them are done
		for name, cause := range causes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := cause.inject(t)
				line, exit := "", -1
				defer func() {
					if t.Failed() {
						t.Logf("the last answer had exit %d and the line\n%s, want\n%s", exit, line, cause.want)
					}
				}()
				eventually(t, fmt.Sprintf("exit %d and the line of %s", cause.exit, name), func() bool {
					var report string
					report, exit = s.ask(s.asked)
					line = causeIn(report)
					return exit == cause.exit && line == cause.want
				})
				found <- [2]string{name, line}
			})
		}
	})
	close(found)
	by := map[string]string{} // line -> the cause that it names
	for f := range found {
		name, line := f[0], f[1]
		if other, taken := by[line]; taken {
			t.Errorf("%s and %s have one line, %q", name, other, line)
		}
		by[line] = name
	}
	if len(by) != 6 {
		t.Errorf("%d different lines, want 6: %q", len(by), slices.Collect(maps.Keys(by)))
	}
}
