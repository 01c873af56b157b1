package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

const hidden = "***"

// Value is the effective value of one key.
type Value struct {
	// Key is the whole key, segments joined by dots.
	Key string `json:"key"`
	// Value is fit for JSON: string, bool, a number, []any or map[string]any. Durations are text ("5s"); secrets are
	// "***", or "" when nothing is set.
	Value any `json:"value"`
	// Source says where the value was set: "default", "config.yaml:12", "env USER_SERVICE__SERVER__LISTEN", "--set",
	// "clients.defaults (config.yaml:9)".
	Source string `json:"source"`
	// Reload says what it takes for a later change to apply: "live", "pushed", "redial" or "restart".
	Reload string `json:"reload"`
}

// Text returns the value as one line: text as it is, all else as JSON.
func (v Value) Text() string {
	if s, ok := v.Value.(string); ok {
		return s
	}
	return jsonText(v.Value)
}

// Values returns every known key with its redacted value and its source, sorted by key. A map has one Value for each
// entry, or one for itself when it is empty. The slice is the caller's own.
func (c *Config) Values() []Value { return slices.Clone(c.values) }

// Sources names the layers that were read, in rising precedence; a configuration file that is absent is named as such.
func (c *Config) Sources() []string { return slices.Clone(c.sources) }

// Origin says where the value of a key was set, in the words of [Value.Source]. It is "" for a key that is not known.
func (c *Config) Origin(key string) string {
	if o, ok := c.origins[key]; ok {
		return o.String()
	}
	for _, v := range c.values {
		if v.Key == key {
			return v.Source
		}
	}
	return ""
}

// Handler serves the sources and the redacted values as JSON.
func (c *Config) Handler() http.Handler { return handler(func() any { return c.page() }) }

// page is what a handler shows of a configuration.
func (c *Config) page() map[string]any {
	return map[string]any{"service": c.service, "sources": c.sources, "values": c.values}
}

// handler serves a page as JSON.
func handler(page func() any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, fmt.Sprintf("method %q is not allowed; use GET", r.Method), http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(page()) // the peer is gone: nothing to do
	})
}

// collect makes the list of values once; a Config never changes.
func (c *Config) collect() []Value {
	out := []Value{}
	for _, s := range c.sections {
		c.walk(c.nodeOf(s), s.value, s.path, func(v Value, _ reflect.Value) { out = append(out, v) })
	}
	slices.SortFunc(out, func(a, b Value) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// walk yields the values at and below a node, whose own value is v.
func (c *Config) walk(n *node, v reflect.Value, path []string, yield func(Value, reflect.Value)) {
	switch n.kind {
	case kindLeaf:
		yield(c.value(n, v, path), v)
	case kindMap:
		if v.Len() == 0 {
			yield(c.value(n, v, path), v)
		}
		for it := v.MapRange(); it.Next(); {
			c.walk(n.elem, it.Value(), append(slices.Clone(path), it.Key().String()), yield)
		}
	case kindGroup:
		fields, _ := fieldsOf(v.Type()) // checked when the section was registered
		for _, f := range fields {
			c.walk(n.children[f.name], v.FieldByIndex(f.index), append(slices.Clone(path), f.name), yield)
		}
	}
}

func (c *Config) value(n *node, v reflect.Value, path []string) Value {
	key := strings.Join(path, ".")
	source, reload := "default", n.reload
	if o, ok := c.origins[key]; ok {
		source = o.String()
	}
	if reload == "" {
		reload = "restart"
	}
	return Value{Key: key, Value: show(v, n.secret), Source: source, Reload: reload}
}

// show returns a value in a form for JSON and for people, secrets hidden.
func show(v reflect.Value, secret bool) any {
	if secret {
		if v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 {
			return ""
		}
		return hidden
	}
	switch {
	case isScalar(v.Type()):
		return showScalar(v)
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = show(v.Index(i), false)
		}
		return list
	case v.Kind() == reflect.Map:
		group := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			group[it.Key().String()] = show(it.Value(), false)
		}
		return group
	}
	group := map[string]any{}
	fields, _ := fieldsOf(v.Type()) // checked when the section was registered
	for _, f := range fields {
		group[f.name] = show(v.FieldByIndex(f.index), f.secret)
	}
	return group
}

func showScalar(v reflect.Value) any {
	if isDuration(v.Type()) {
		return durationText(time.Duration(v.Int()))
	}
	if isText(v.Type()) {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		if m, ok := p.Interface().(encoding.TextMarshaler); ok {
			if text, err := m.MarshalText(); err == nil {
				return string(text)
			}
		}
		return fmt.Sprint(p.Elem().Interface())
	}
	return scalarPlain(v, "")
}

// durationText writes a duration without the parts that are zero at its end: "1h", not "1h0m0s".
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// jsonText is compact JSON that leaves <, > and & alone.
func jsonText(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
