// Package configfile checks that the config.yaml of an example tells the truth: that it loads, that it names every key
// the service knows, and that what it shows as a default is the default. A line whose "#" is followed by a key at once is
// a default; a line whose "#" is followed by a space is prose. It knows nothing of how a service is asked for its
// configuration: tests of the examples pass that in.
package configfile

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Ask answers a question of NEWSVC_INTROSPECT for a service that reads the config.yaml in dir, and nothing else.
type Ask func(t *testing.T, dir, question string) []byte

// value is one of the values that a service tells of.
type value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"`
}

// Check runs the checks on the config.yaml of the working directory.
func Check(t *testing.T, ask Ask) {
	t.Helper()
	text, err := os.ReadFile("config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defaults := schemaDefaults(t, ask(t, ".", "schema"))
	set := keysSet(t, ask, ".")
	whole := Uncomment(string(text))

	t.Run("sets only what differs from the default", func(t *testing.T) {
		t.Parallel()
		if len(set) == 0 {
			t.Error("config.yaml sets nothing: either the keys are not read or the file is not needed")
		}
		for key, v := range set {
			if d, ok := defaults[key]; ok && reflect.DeepEqual(d, v) {
				t.Errorf("%s: %v is the default; comment the line out", key, v)
			}
		}
	})
	t.Run("names every key", func(t *testing.T) {
		t.Parallel()
		if missing := Missing(defaults, keysIn(t, whole)); len(missing) > 0 {
			t.Errorf("config.yaml does not show %q; add each with its meaning and default", missing)
		}
	})
	t.Run("shows the defaults", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		for key, v := range keysSet(t, ask, dir) {
			secret := defaults[key] == nil && v == "" // no answer ever shows more of one
			if _, ours := set[key]; !ours && !secret && !reflect.DeepEqual(defaults[key], v) {
				t.Errorf("%s: the file shows %v, the default is %v", key, v, defaults[key])
			}
		}
	})
}

// commented is a default that is shown: the "#" stands right before the key.
var commented = regexp.MustCompile(`(?m)^( *)#([a-z_]+:)`)

// Uncomment returns the text with every default set.
func Uncomment(text string) string { return commented.ReplaceAllString(text, "$1$2") }

// Missing returns the known keys that a file does not name. A callee's entry need not repeat the keys of the defaults
// that lie under it.
func Missing(known map[string]any, named []string) []string {
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(known)) {
		shown := key
		if rest, ok := strings.CutPrefix(key, "clients."); ok {
			_, field, _ := strings.Cut(rest, ".")
			shown = "clients.defaults." + field
		}
		if !slices.Contains(named, shown) {
			missing = append(missing, key)
		}
	}
	return missing
}

// keysSet returns what the file in dir sets, by key.
func keysSet(t *testing.T, ask Ask, dir string) map[string]any {
	t.Helper()
	var config struct {
		Values []value `json:"values"`
	}
	decode(t, ask(t, dir, "config"), &config)
	set := map[string]any{}
	for _, v := range config.Values {
		if strings.HasPrefix(v.Source, "config.yaml:") {
			set[v.Key] = v.Value
		}
	}
	return set
}

// schema is the part of a JSON schema that a configuration's has.
type schema struct {
	Properties map[string]schema `json:"properties"`
	Default    any               `json:"default"`
}

// schemaDefaults returns the default of every key that a service knows; secrets have nil.
func schemaDefaults(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var root schema
	decode(t, raw, &root)
	out := map[string]any{}
	var walk func(prefix string, s schema)
	walk = func(prefix string, s schema) {
		for name, sub := range s.Properties {
			if len(sub.Properties) == 0 {
				out[prefix+name] = sub.Default
				continue
			}
			walk(prefix+name+".", sub)
		}
	}
	walk("", root)
	if len(out) == 0 {
		t.Fatal("the service's schema has no keys")
	}
	return out
}

// keysIn returns the keys of a YAML text that have a value.
func keysIn(t *testing.T, text string) []string {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("config.yaml with every default set: %v", err)
	}
	var keys []string
	var walk func(prefix string, group map[string]any)
	walk = func(prefix string, group map[string]any) {
		for name, v := range group {
			if sub, ok := v.(map[string]any); ok && len(sub) > 0 {
				walk(prefix+name+".", sub)
			} else if v != nil {
				keys = append(keys, prefix+name)
			}
		}
	}
	walk("", doc)
	return keys
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(fmt.Errorf("the service's answer is not understood: %w: %s", err, raw))
	}
}
