package observability_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// selector is one use of a metric in an expression.
type selector struct {
	metric   string
	matchers []matcher
}

type matcher struct{ label, op, value string }

// query is what an expression uses.
type query struct {
	selectors []selector
	// labels are those by which it groups, matches or joins.
	labels []string
}

// parseQuery reads as much of PromQL as it takes to find the names in it, and refuses what it does not understand: a name that it
// passed over would not be checked. Variables of Grafana may stand in strings and for durations.
func parseQuery(text string) (query, error) {
	tokens, err := tokenize(text)
	if err != nil {
		return query{}, fmt.Errorf("%w in %q", err, text)
	}
	p := &parser{tokens: tokens}
	if err := p.run(); err != nil {
		return query{}, fmt.Errorf("%w in %q", err, text)
	}
	return p.out, nil
}

// tokenize splits an expression into names, numbers, strings (with their quotes), ranges (with their brackets) and signs.
func tokenize(text string) (tokens []string, err error) {
	signs := []string{"==", "!=", ">=", "<=", "=~", "!~", "(", ")", "{", "}", ",", "=", "<", ">", "+", "-", "*", "/", "%", "^", "@"}
next:
	for text != "" {
		switch c := rune(text[0]); {
		case unicode.IsSpace(c):
			text = text[1:]
			continue
		case c == '"' || c == '\'' || c == '`':
			end := strings.IndexByte(text[1:], text[0])
			for end > 0 && c != '`' && text[end] == '\\' {
				more := strings.IndexByte(text[end+2:], text[0])
				if more < 0 {
					end = -1
					break
				}
				end += 1 + more
			}
			if end < 0 {
				return nil, fmt.Errorf("a string without an end")
			}
			tokens, text = append(tokens, text[:end+2]), text[end+2:]
			continue
		case c == '[':
			end := strings.IndexByte(text, ']')
			if end < 0 {
				return nil, fmt.Errorf("a range without an end")
			}
			tokens, text = append(tokens, text[:end+1]), text[end+1:]
			continue
		case isName(c) || unicode.IsDigit(c) || c == '.' || c == '$':
			end := strings.IndexFunc(text, func(c rune) bool { return !isName(c) && !unicode.IsDigit(c) && c != '.' && c != '$' })
			if end < 0 {
				end = len(text)
			}
			tokens, text = append(tokens, text[:end]), text[end:]
			continue
		}
		for _, s := range signs {
			if rest, ok := strings.CutPrefix(text, s); ok {
				tokens, text = append(tokens, s), rest
				continue next
			}
		}
		return nil, fmt.Errorf("unexpected %q", text[:1])
	}
	return tokens, nil
}

func isName(c rune) bool { return c == '_' || c == ':' || c < unicode.MaxASCII && unicode.IsLetter(c) }

type parser struct {
	tokens []string
	out    query
}

func (p *parser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *parser) take() string {
	t := p.peek()
	p.tokens = p.tokens[min(1, len(p.tokens)):]
	return t
}

func (p *parser) run() error {
	functions := []string{
		"sum", "max", "min", "avg", "count", "topk", "bottomk", "group", "rate", "increase", "irate", "delta", "deriv", "histogram_quantile",
		"time", "absent", "clamp_min", "clamp_max", "vector", "changes", "sort_desc", "abs", "max_over_time", "min_over_time", "avg_over_time",
	}
	depth := 0
	for len(p.tokens) > 0 {
		t := p.take()
		switch {
		case t == "(":
			depth++
		case t == ")":
			depth--
		case !isName(rune(t[0])):
			if t == "{" {
				return fmt.Errorf("a selector without the name of a metric")
			}
		case slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, t):
		case slices.Contains([]string{"by", "without", "on", "ignoring", "group_left", "group_right"}, t):
			if err := p.names(strings.HasPrefix(t, "group_")); err != nil {
				return err
			}
		case p.peek() == "(" || slices.Contains([]string{"by", "without"}, p.peek()):
			if !slices.Contains(functions, t) {
				return fmt.Errorf("unknown function %q", t)
			}
		default:
			s := selector{metric: t}
			if p.peek() == "{" {
				var err error
				if s.matchers, err = p.matchers(); err != nil {
					return err
				}
			}
			p.out.selectors = append(p.out.selectors, s)
		}
		if depth < 0 {
			return fmt.Errorf("a parenthesis too many")
		}
	}
	if depth != 0 {
		return fmt.Errorf("%d parentheses are open", depth)
	}
	return nil
}

// names reads a list of labels in parentheses; an optional one may be missing.
func (p *parser) names(optional bool) error {
	if p.peek() != "(" {
		if optional {
			return nil
		}
		return fmt.Errorf("no list of labels")
	}
	p.take()
	for p.peek() != ")" {
		switch t := p.take(); {
		case t == "":
			return fmt.Errorf("a list of labels without an end")
		case t == ",":
		case isName(rune(t[0])):
			p.out.labels = append(p.out.labels, t)
		default:
			return fmt.Errorf("%q in a list of labels", t)
		}
	}
	p.take()
	return nil
}

func (p *parser) matchers() (all []matcher, err error) {
	p.take()
	for p.peek() != "}" {
		if p.peek() == "," {
			p.take()
			continue
		}
		m := matcher{label: p.take(), op: p.take(), value: p.take()}
		if m.value == "" || !isName(rune(m.label[0])) || !slices.Contains([]string{"=", "!=", "=~", "!~"}, m.op) || !strings.ContainsAny(m.value[:1], "\"'`") {
			return nil, fmt.Errorf("%q is no matcher", m.label+m.op+m.value)
		}
		m.value = m.value[1 : len(m.value)-1]
		all = append(all, m)
	}
	p.take()
	return all, nil
}

func TestNamesAreFoundInQueries(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]query{
		`up`:                       {selectors: []selector{{metric: "up"}}},
		`up == 0 and on (job) b>1`: {selectors: []selector{{metric: "up"}, {metric: "b"}}, labels: []string{"job"}},
		`sum by (callee, le) (rate(a_bucket{x=~"5.*", y!='}'}[5m])) / sum(b) by (z)`: {
			selectors: []selector{{"a_bucket", []matcher{{"x", "=~", "5.*"}, {"y", "!=", "}"}}}, {metric: "b"}}, labels: []string{"callee", "le", "z"},
		},
		`histogram_quantile(0.99, rate(a{x="$x"}[$__rate_interval])) > 1e3`: {selectors: []selector{{"a", []matcher{{"x", "=", "$x"}}}}},
		`a - time() < 7 * 86400 or b offset 5m`:                             {selectors: []selector{{metric: "a"}, {metric: "b"}}},
		`a * on (x) group_left (y) b * on (x) group_right c`:                {selectors: []selector{{metric: "a"}, {metric: "b"}, {metric: "c"}}, labels: []string{"x", "y", "x"}},
		`a{x="q\"}b{",}`: {selectors: []selector{{"a", []matcher{{"x", "=", `q\"}b{`}}}}},
	} {
		got, err := parseQuery(text)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(query{}, selector{}, matcher{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	for text, want := range map[string]string{
		`sum(a`: "1 parentheses are open", `sum(a))`: "a parenthesis too many", `fun(a)`: `unknown function "fun"`, `a{x`: "is no matcher",
		`a{x=5}`: "is no matcher", `a{x="`: "a string without an end", `a[5m`: "a range without an end", `{x="y"}`: "without the name",
		`sum by a (b)`: "no list of labels", `sum by (a`: "without an end", `sum by (5) (a)`: `"5" in a list of labels`, `a ; b`: `unexpected ";"`,
	} {
		if _, err := parseQuery(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %s", text, err, want)
		}
	}
}
