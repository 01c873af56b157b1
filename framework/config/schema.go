package config

import (
	"reflect"
	"slices"
)

// Schema returns a JSON schema (draft 2020-12) of config.yaml: all sections with types and defaults, closed to unknown
// keys. Secrets have no default in it. It is fit for encoding/json and the caller's own.
func (c *Config) Schema() map[string]any { return rootSchema(c.service, c.root) }

// Schema is [Config.Schema] before anything is loaded. Its errors are mistakes in the program.
func Schema(service string, sections ...Section) (map[string]any, error) {
	root, _, err := newTree(sections)
	if err != nil {
		return nil, err
	}
	return rootSchema(service, root), nil
}

func rootSchema(service string, root *node) map[string]any {
	s := groupSchema(root, nil)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	if service != "" {
		s["title"] = service
	}
	return s
}

// groupSchema describes the keys of a group; an empty section ("server:" and nothing below) is allowed.
func groupSchema(n *node, path []string) map[string]any {
	props := map[string]any{}
	for name, child := range n.children {
		props[name] = nodeSchema(child, append(slices.Clone(path), name))
	}
	return map[string]any{"type": []string{"object", "null"}, "properties": props, "additionalProperties": false}
}

func nodeSchema(n *node, path []string) map[string]any {
	switch n.kind {
	case kindGroup:
		return groupSchema(n, path)
	case kindMap:
		s := map[string]any{"type": []string{"object", "null"}, "additionalProperties": nodeSchema(n.elem, append(slices.Clone(path), "<name>"))}
		return withDefault(s, n, path)
	default:
		return withDefault(typeSchema(n.typ), n, path)
	}
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

// typeSchema describes a type on its own.
func typeSchema(t reflect.Type) map[string]any {
	switch {
	case isDuration(t):
		return map[string]any{"type": "string", "pattern": `^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`}
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
		return map[string]any{"type": "array", "items": typeSchema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	case reflect.Struct:
		props := map[string]any{}
		fields, _ := fieldsOf(t) // checked when the section was registered
		for _, f := range fields {
			props[f.name] = typeSchema(f.typ)
			if f.secret {
				props[f.name] = map[string]any{"writeOnly": true}
			}
		}
		return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	default:
		return map[string]any{"type": "integer"}
	}
}
