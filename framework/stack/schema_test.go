package stack_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

// schema is the part of JSON schema that ours uses.
type schema struct {
	Schema      string            `json:"$schema"`
	Title       string            `json:"title"`
	Type        any               `json:"type"` // a name or several
	Description string            `json:"description"`
	Properties  map[string]schema `json:"properties"`
	More        json.RawMessage   `json:"additionalProperties"` // false or a schema
	Items       *schema           `json:"items"`
	Enum        []string          `json:"enum"`
	Pattern     string            `json:"pattern"`
	Minimum     *float64          `json:"minimum"`
	Default     any               `json:"default"`
	WriteOnly   bool              `json:"writeOnly"`
}

func (s schema) types() []string {
	if one, ok := s.Type.(string); ok {
		return []string{one}
	}
	var all []string
	for _, t := range s.Type.([]any) {
		all = append(all, t.(string))
	}
	return all
}

// group says whether keys lie below, and what entries of a map look like.
func (s schema) group() (is bool, entry *schema) {
	if len(s.More) == 0 {
		return false, nil
	}
	if string(s.More) == "false" {
		return true, nil
	}
	entry = &schema{}
	if err := json.Unmarshal(s.More, entry); err != nil {
		panic(err)
	}
	return true, entry
}

// own is a section as a service has it.
type own struct {
	Path  string        `config:"path" doc:"Where users are kept."`
	Wait  time.Duration `config:"wait" reload:"live" doc:"How long a write waits."`
	Token string        `config:"token" secret:"true"`
}

func wholeSchema(t *testing.T) schema {
	t.Helper()
	var out bytes.Buffer
	env := &stack.Environment{Introspect: "schema", Stdout: &out}
	env.Sources.NoFile, env.Sources.Args = true, []string{"--set", "nonsense=1"} // what is configured does not matter
	_, err := stack.NewBoot(t.Context(), service, env, []stack.Declaration{
		{Callee: "mail-service"}, {Section: &config.Section{Path: "user", Defaults: own{Path: "users.db", Wait: time.Minute, Token: "hush"}}},
	}, "")
	if !errors.Is(err, stack.ErrAnswered) {
		t.Fatal(err)
	}
	var s schema
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		t.Fatalf("the schema uses a word that this test does not know, or is no JSON: %v", err)
	}
	return s
}

func TestSchemaDescribesEveryKey(t *testing.T) {
	t.Parallel()
	root := wholeSchema(t)
	if root.Schema != "https://json-schema.org/draft/2020-12/schema" || root.Title != service {
		t.Errorf("schema %q of %q", root.Schema, root.Title)
	}
	n := 0
	var walk func(path string, s schema)
	walk = func(path string, s schema) {
		is, entry := s.group()
		if entry != nil {
			walk(path+".<name>", *entry)
		}
		for name, p := range s.Properties {
			key := strings.TrimPrefix(path+"."+name, ".")
			if isGroup, _ := p.group(); !isGroup {
				n++
				if p.Description == "" && !p.WriteOnly {
					t.Errorf("%s has no description; run make generate, or: go run -C tools/gen ./settingdocs -root ../..", key)
				}
			}
			walk(key, p)
		}
		if !is && len(s.Properties) > 0 {
			t.Errorf("%s is open to unknown keys", path)
		}
	}
	walk("", root)
	if n < 150 {
		t.Errorf("%d keys are described", n)
	}
	clients := root.Properties["clients"].Properties
	if len(clients) != 2 || clients["mail-service"].Properties["timeout"].Default != "5s" || clients["defaults"].Properties["balancer"].Default != "round_robin" {
		t.Errorf("clients are %v", clients)
	}
	if d := clients["mail-service"].Properties["timeout"].Description; !strings.Contains(d, "longest a unary call may take") || !strings.HasSuffix(d, "without a restart.") {
		t.Errorf("timeout is described as %q", d)
	}
	user := root.Properties["user"].Properties
	if user["wait"].Description != "How long a write waits. A change takes effect without a restart." || user["path"].Default != "users.db" {
		t.Errorf("user is %+v", user)
	}
	if tok := user["token"]; !tok.WriteOnly || tok.Default != nil {
		t.Errorf("the secret is %+v", tok)
	}
}

// check says what is wrong with a value, as an editor would.
func (s schema) check(path string, v any) (wrong []string) {
	is, entry := s.group()
	if group, ok := v.(map[string]any); ok && is {
		for name, sub := range group {
			p, known := s.Properties[name]
			switch {
			case known:
				wrong = append(wrong, p.check(path+"."+name, sub)...)
			case entry != nil:
				wrong = append(wrong, entry.check(path+"."+name, sub)...)
			default:
				wrong = append(wrong, path+"."+name+" is unknown")
			}
		}
		return wrong
	}
	kind := map[bool]string{true: "null"}[v == nil]
	switch v := v.(type) {
	case string:
		kind = "string"
		if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) || s.Enum != nil && !slices.Contains(s.Enum, v) {
			return []string{path + " may not be " + v}
		}
	case bool:
		kind = "boolean"
	case int:
		kind = "integer"
		if s.Minimum != nil && float64(v) < *s.Minimum {
			return []string{path + " is too small"}
		}
		if slices.Contains(s.types(), "number") {
			kind = "number"
		}
	case float64:
		kind = "number"
	case []any:
		kind = "array"
		for i, e := range v {
			wrong = append(wrong, s.Items.check(fmt.Sprintf("%s[%d]", path, i), e)...)
		}
	case map[string]any:
		kind = "object"
	}
	if !slices.Contains(s.types(), kind) {
		wrong = append(wrong, fmt.Sprintf("%s is a %s, not %v", path, kind, s.Type))
	}
	return wrong
}

func TestSchemaAndLoaderAgree(t *testing.T) {
	t.Parallel()
	root := wholeSchema(t)
	for text, want := range map[string]string{
		"server:\nlog: {level: debug, levels: {discovery.etcd: warn}}\nclients: {mail-service: {timeout: 1m30s, retry: {multiplier: 2}}}": "",
		"etcd: {endpoints: [\"a:1\", \"b:2\"]}\ntelemetry: {traces: {sample_ratio: 1}}\nuser: {token: x}":                                 "",
		"server: {lisen: x}":                       ".server.lisen is unknown",
		"clients: {other-service: {}}":             ".clients.other-service is unknown",
		"clients: {mail-service: {timeout: 5}}":    ".clients.mail-service.timeout is a integer, not string",
		"clients: {mail-service: {timeout: soon}}": ".clients.mail-service.timeout may not be soon",
		"log: {level: loud}":                       ".log.level may not be loud",
		"log: {levels: {discovery: loud}}":         ".log.levels.discovery may not be loud",
		"app: {sighup: ignore}":                    ".app.sighup may not be ignore",
		"etcd: {endpoints: \"a:1\"}":               ".etcd.endpoints is a string, not array",
		"discovery: {subset: many}":                ".discovery.subset is a string, not integer",
	} {
		var doc any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(root.check("", doc), "; "); got != want {
			t.Errorf("%s\nthe schema says %q, want %q", text, got, want)
		}
		dir := t.TempDir()
		writeFile(t, dir, "config.yaml", text)
		_, _, err := stack.LoadConfig(config.Sources{Dir: dir}, []string{"mail-service"}, config.Section{Path: "user", Defaults: own{}})
		if (err == nil) != (want == "") {
			t.Errorf("%s\nthe loader says %v", text, err)
		}
	}
}

func TestEnumsAreWhatValidateLetsPass(t *testing.T) {
	t.Parallel()
	n := 0
	var walk func(path string, s schema)
	walk = func(path string, s schema) {
		for name, p := range s.Properties {
			walk(strings.TrimPrefix(path+"."+name, "."), p)
		}
		if s.Enum == nil {
			return
		}
		n++
		for _, value := range append(slices.Clone(s.Enum), "no-such-value") {
			_, _, err := stack.LoadConfig(config.Sources{NoFile: true, Args: []string{"--set", path + "=" + value}}, []string{"mail-service"})
			if refused := err != nil && strings.Contains(err.Error(), fmt.Sprintf("%s: %q", path, value)); refused != (value == "no-such-value") {
				t.Errorf("%s: %s: %v", path, value, err)
			}
		}
	}
	walk("", wholeSchema(t))
	if n < 6 {
		t.Errorf("%d keys have an enum", n)
	}
}
