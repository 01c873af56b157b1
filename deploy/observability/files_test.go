// Package observability_test compares the alerts and the dashboard with what a running service exposes, so that a metric that is
// renamed does not leave an alert behind that can never fire.
package observability_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"
)

// check reports what is wrong with the names of an expression. shown are labels that a text beside it uses.
func (all series) check(expr string, shown []string) (problems []string) {
	q, err := parseQuery(expr)
	if err != nil {
		return []string{err.Error()}
	}
	known := map[string]bool{"job": true, "instance": true} // of whoever scrapes
	for _, s := range q.selectors {
		labels, ok := all[s.metric]
		if !ok {
			problems = append(problems, fmt.Sprintf("nobody exposes %s", s.metric))
			continue
		}
		for label := range labels {
			known[label] = true
		}
		for _, m := range s.matchers {
			if m.label == "job" || m.label == "instance" {
				continue
			}
			if labels[m.label] == nil {
				problems = append(problems, fmt.Sprintf("%s has no label %s", s.metric, m.label))
				continue
			}
			problems = append(problems, impossible(s.metric, m, labels[m.label])...)
		}
	}
	for _, label := range q.labels {
		if !known[label] {
			problems = append(problems, fmt.Sprintf("no metric in it has the label %s", label))
		}
	}
	grouped := len(q.labels) > 0
	for _, label := range shown {
		if !known[label] || grouped && !slices.Contains(q.labels, label) {
			problems = append(problems, fmt.Sprintf("the text shows the label %s, which the result has not", label))
		}
	}
	return problems
}

// impossible tells of a value, or a part of a pattern, that the label never has.
func impossible(metric string, m matcher, exposed map[string]bool) (problems []string) {
	possible := map[string]bool{}
	for v := range exposed {
		possible[v] = true
	}
	for _, v := range fixed(m.label) {
		possible[v] = true
	}
	parts := []string{m.value}
	if strings.HasSuffix(m.op, "~") {
		parts = strings.Split(m.value, "|")
	}
	for _, part := range parts {
		if strings.HasPrefix(part, "$") || m.label == "grpc_method" {
			continue // chosen by who looks; methods differ between services
		}
		re, err := regexp.Compile("^(?:" + part + ")$")
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		matches := false
		for v := range possible {
			matches = matches || re.MatchString(v)
		}
		if !matches {
			problems = append(problems, fmt.Sprintf("%s of %s is never %q", m.label, metric, part))
		}
	}
	return problems
}

// fixed are the values that a label can have although the service in the test had no cause for them.
func fixed(label string) (values []string) {
	switch label {
	case "grpc_status":
		for c := codes.OK; c <= codes.Unauthenticated; c++ {
			name := c.String() // "DeadlineExceeded"
			name = regexp.MustCompile("([a-z])([A-Z])").ReplaceAllString(name, "${1}_$2")
			values = append(values, strings.ToUpper(name))
		}
	case "connectivity":
		values = []string{"IDLE", "CONNECTING", "READY", "TRANSIENT_FAILURE"}
	}
	return values
}

// exposed is what two services expose, one of which is running.
func exposed(t *testing.T) series {
	t.Helper()
	all := series{}
	all.add(t, running(t))
	all.add(t, build(t, guarded))
	return all
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

var shownInAlert = regexp.MustCompile(`\$labels\.(\w+)`)

func TestAlertsFitTheMetrics(t *testing.T) {
	t.Parallel()
	file, err := os.Open("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var rules struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	dec := yaml.NewDecoder(file)
	dec.KnownFields(true)
	if err := dec.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	all, seen := exposed(t), map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] || g.Name == "" {
				t.Errorf("%q of group %q: the name is missing or stands twice", r.Alert, g.Name)
			}
			seen[r.Alert] = true
			var shown []string
			for _, text := range r.Annotations {
				for _, m := range shownInAlert.FindAllStringSubmatch(text, -1) {
					shown = append(shown, m[1])
				}
			}
			for _, problem := range all.check(r.Expr, shown) {
				t.Errorf("%s: %s", r.Alert, problem)
			}
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: for: %v", r.Alert, err)
				}
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s says neither what is wrong nor what to do", r.Alert)
			}
		}
	}
	for _, name := range []string{
		"CalleeHasNoInstances", "GuardHoldsInstances", "InstanceIsNotRegistered", "ServerErrorsAreMany", "CallsAreSlow", "CallsAreShed",
		"InstancesAreEjected", "DiscoveryIsStale", "CertificateExpires",
	} {
		if !seen[name] {
			t.Errorf("there is no alert %s", name)
		}
	}
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat string }
}

var (
	shownInLegend = regexp.MustCompile(`\{\{(\w+)\}\}`)
	labelValues   = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
)

func TestTheDashboardFitsTheMetrics(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels     []panel
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := exposed(t)
	variables := []string{"__rate_interval"}
	for _, v := range dashboard.Templating.List {
		variables = append(variables, v.Name)
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Errorf("variable %s: %q is not understood", v.Name, v.Definition)
			continue
		}
		for _, problem := range all.check(m[1], []string{m[2]}) {
			t.Errorf("variable %s: %s", v.Name, problem)
		}
	}
	variable, ids, expressions := regexp.MustCompile(`\$(\w+)`), map[int]bool{}, 0
	for i, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id %d stands twice, there is no title, or it does not fit", p.Title, p.ID)
		}
		ids[p.ID] = true
		for _, o := range dashboard.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panel %q lies over %q", p.Title, o.Title)
			}
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q shows nothing, or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			expressions++
			var shown []string
			for _, m := range shownInLegend.FindAllStringSubmatch(target.LegendFormat, -1) {
				shown = append(shown, m[1])
			}
			for _, problem := range all.check(target.Expr, shown) {
				t.Errorf("panel %q: %s", p.Title, problem)
			}
			for _, m := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, m[1]) {
					t.Errorf("panel %q: there is no variable %s", p.Title, m[1])
				}
			}
		}
	}
	if expressions < 20 {
		t.Errorf("only %d expressions were found; has the form of the file changed?", expressions)
	}
}

// TestWrongNamesAreFound shows that the check above can fail.
func TestWrongNamesAreFound(t *testing.T) {
	t.Parallel()
	set := func(values ...string) map[string]bool {
		m := map[string]bool{}
		for _, v := range values {
			m[v] = true
		}
		return m
	}
	all := series{"a_total": {"state": set("up", "down"), "grpc_status": set("OK")}}
	for expr, want := range map[string]string{
		`b`:                                  "nobody exposes b",
		`a_total{stat="up"}`:                 "a_total has no label stat",
		`a_total{state="gone"}`:              `state of a_total is never "gone"`,
		`a_total{state=~"up|gone"}`:          `state of a_total is never "gone"`,
		`a_total{grpc_status="NOTFOUND"}`:    `grpc_status of a_total is never "NOTFOUND"`,
		`sum by (callee) (a_total)`:          "no metric in it has the label callee",
		`sum by (state) (a_total)`:           "the text shows the label grpc_status",
		`a_total{grpc_status="NOT_FOUND"}`:   "",
		`sum by (grpc_status, job)(a_total)`: "",
	} {
		got := strings.Join(all.check(expr, []string{"grpc_status"}), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
