package config

import (
	"reflect"
	"slices"
)

// Schema returns a JSON schema (draft 2020-12) of config.yaml: all sections with types and defaults, closed to unknown
// keys. Secrets have no default in it. It is fit for encoding/json and the caller's own.
func (c *Config) Schema() map[string]any { return rootSchema(c.service, c.root, nil) }

// Schema is [Config.Schema] before anything is loaded, with a description of each key: docs returns what the comment of a field
// says, by the struct and the field's name; it may be nil. Its errors are mistakes in the program.
func Schema(service string, docs func(owner reflect.Type, field string) string, sections ...Section) (map[string]any, error) {
	root, _, err := newTree(sections)
	if err != nil {
		return nil, err
	}
	return rootSchema(service, root, docs), nil
}

func rootSchema(service string, root *node, docs func(reflect.Type, string) string) map[string]any {
	sc := schema{docs: docs}
	s := sc.group(root, nil)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	if service != "" {
		s["title"] = service
	}
	return s
}

// schema makes the schema of one tree.
type schema struct {
	docs func(owner reflect.Type, field string) string
}

// group describes the keys of a group; an empty section ("server:" and nothing below) is allowed.
func (sc schema) group(n *node, path []string) map[string]any {
	props := map[string]any{}
	for name, child := range n.children {
		props[name] = sc.node(child, append(slices.Clone(path), name))
	}
	return map[string]any{"type": []string{"object", "null"}, "properties": props, "additionalProperties": false}
}

func (sc schema) node(n *node, path []string) map[string]any {
	var s map[string]any
	switch n.kind {
	case kindGroup:
		s = sc.group(n, path)
	case kindMap:
		elem := sc.node(n.elem, append(slices.Clone(path), "<name>"))
		delete(elem, "description") // it is the map's
		s = withDefault(map[string]any{"type": []string{"object", "null"}, "additionalProperties": elem}, n, path)
	default:
		s = withDefault(sc.typed(n.typ), n, path)
	}
	return sc.describe(s, n.field, n.kind == kindLeaf)
}

// describe adds what a field says of itself.
func (sc schema) describe(s map[string]any, f field, leaf bool) map[string]any {
	if _, group := s["additionalProperties"]; f.enum != nil && !group {
		of := s
		if items, ok := s["items"].(map[string]any); ok {
			of = items
		}
		of["enum"] = f.enum
	}
	doc := f.doc
	if doc == "" && sc.docs != nil && f.owner != nil {
		doc = sc.docs(f.owner, f.goName)
	}
	if doc == "" {
		return s
	}
	if leaf && f.reload != "" {
		doc += " A change takes effect without a restart."
	}
	s["description"] = doc
	return s
}

// withDefault adds what the section's defaults hold at a path. The entries of a map have no default.
func withDefault(s map[string]any, n *node, path []string) map[string]any {
	if n.secret {
		s["writeOnly"] = true
		return s
	}
	if v := below(n.section.defaults, path[len(n.section.path):]); v.IsValid() {
		s["default"] = show(v, false)
	}
	return s
}

// typed describes a type on its own.
func (sc schema) typed(t reflect.Type) map[string]any {
	switch {
	case isDuration(t):
		return map[string]any{"type": "string", "pattern": `^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`}
	case isText(t) || t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": sc.typed(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": sc.typed(t.Elem())}
	case reflect.Struct:
		props := map[string]any{}
		fields, _ := fieldsOf(t) // checked when the section was registered
		for _, f := range fields {
			props[f.name] = sc.describe(sc.typed(f.typ), f, false)
			if f.secret {
				props[f.name] = map[string]any{"writeOnly": true}
			}
		}
		return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	default:
		return map[string]any{"type": "integer"}
	}
}
