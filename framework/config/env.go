package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// EnvName returns the name of the environment variable that sets a key of a service, for error texts and manifests:
// EnvName("blogger-user", "server.listen") is BLOGGER_USER__SERVER__LISTEN.
func EnvName(service, key string) string {
	return envPrefix(service) + envFold(strings.ReplaceAll(key, ".", "__"))
}

func envPrefix(service string) string { return envFold(service) + "__" }

// envFold is how a segment looks in the environment: upper case, "_" for "-".
func envFold(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

// environment returns the settings of the variables that begin with the prefix of the service. All others are none of
// ours, however alike: Kubernetes sets BLOGGER_USER_SERVICE_HOST for a service blogger-user.
func (ld *loader) environment() []setting {
	if ld.src.Service == "" {
		return nil
	}
	vars := map[string]string{} // the last one wins, as the system has it
	for _, kv := range ld.src.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(envFold(name), envPrefix(ld.src.Service)) {
			vars[name] = value
		}
	}
	var out []setting
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		pos := Position{Name: "env " + name}
		n, path, text := ld.resolveEnv(name)
		if text != "" {
			ld.problem(pos, strings.Join(path, "."), "%s", text)
			continue
		}
		key := strings.Join(path, pathSep)
		if other := taken[key]; other != "" {
			ld.problem(pos, strings.Join(path, "."), "%s is set by %s too; unset one of them", strings.Join(path, "."), other)
			continue
		}
		taken[key] = name
		out = ld.text(out, n, path, vars[name], pos)
	}
	return out
}

// resolveEnv finds the leaf that a variable names. A non-empty text says why there is none.
func (ld *loader) resolveEnv(name string) (n *node, path []string, text string) {
	segs := strings.Split(name[len(envPrefix(ld.src.Service)):], "__")
	n = ld.root
	for _, seg := range segs {
		switch n.kind {
		case kindGroup:
			i := slices.IndexFunc(n.names(), func(k string) bool { return envFold(k) == envFold(seg) })
			if i < 0 {
				return nil, append(path, strings.ToLower(seg)), ld.unknownEnv(n, append(path, strings.ToLower(seg)))
			}
			seg = n.names()[i]
			n = n.children[seg]
		case kindMap:
			if seg == "" || strings.Contains(seg, pathSep) {
				return nil, path, fmt.Sprintf("%s names no entry; write %s<NAME>", strings.Join(path, "."), strings.TrimSuffix(name, seg))
			}
			seg = ld.entry(path, seg)
			n = n.elem
		case kindLeaf:
			return nil, path, fmt.Sprintf("%s is a value and has no keys of its own; unset the variable or write %s",
				strings.Join(path, "."), EnvName(ld.src.Service, strings.Join(path, ".")))
		}
		path = append(slices.Clone(path), seg)
	}
	if n.kind != kindLeaf {
		return nil, path, fmt.Sprintf("%s is a group of keys, not a value; append __ and one of its keys: %s", strings.Join(path, "."), keysOf(n))
	}
	return n, path, ""
}

// entry returns the entry of a map that a segment means: one that exists and looks the same in the environment, else
// the segment in lower case.
func (ld *loader) entry(path []string, seg string) string {
	names := ld.merged.MapKeys(strings.Join(path, pathSep))
	for _, s := range ld.sections {
		if len(path) > len(s.path) && slices.Equal(s.path, path[:len(s.path)]) {
			names = append(names, mapKeys(s.value, path[len(s.path):])...)
		}
	}
	for _, name := range names {
		if envFold(name) == envFold(seg) {
			return name
		}
	}
	return strings.ToLower(seg)
}

// mapKeys returns the names in the map at a path below a section's value.
func mapKeys(v reflect.Value, path []string) []string {
	var names []string
	if v = below(v, path); v.IsValid() && v.Kind() == reflect.Map {
		for _, k := range v.MapKeys() {
			names = append(names, k.String())
		}
	}
	slices.Sort(names)
	return names
}

// below returns the value at a path below a struct or map; the zero Value if there is none.
func below(v reflect.Value, path []string) reflect.Value {
	for _, seg := range path {
		var next reflect.Value
		switch v.Kind() {
		case reflect.Map:
			next = v.MapIndex(reflect.ValueOf(seg).Convert(v.Type().Key()))
		case reflect.Struct:
			fields, _ := fieldsOf(v.Type()) // checked when the section was registered
			for _, f := range fields {
				if f.name == seg {
					next = v.FieldByIndex(f.index)
				}
			}
		default:
		}
		if !next.IsValid() {
			return next
		}
		v = next
	}
	return v
}

// unknownEnv is [loader.unknown] in the spelling of the environment.
func (ld *loader) unknownEnv(n *node, path []string) string {
	text := fmt.Sprintf("unknown key %q; ", strings.Join(path, "."))
	if near := nearest(path[len(path)-1], n.names()); near != "" {
		return text + "did you mean " + EnvName(ld.src.Service, strings.Join(append(slices.Clone(path[:len(path)-1]), near), ".")) + "?"
	}
	if path[0] == "clients" && len(path) <= 2 {
		return ld.unknown(n, path)
	}
	var all []string
	sure := path[:len(path)-1] // what is there is what was meant: only the rest may be a slip, and only the rest is compared
	ld.root.leaves(nil, func(p []string, _ *node) {
		if len(p) > len(sure) && slices.Equal(p[:len(sure)], sure) {
			all = append(all, strings.Join(p[len(sure):], "__"))
		}
	})
	if near := nearest(path[len(path)-1], all); near != "" {
		key := strings.Join(append(slices.Clone(sure), strings.Split(near, "__")...), ".")
		return text + "did you mean " + EnvName(ld.src.Service, key) + "?"
	}
	return text + suggest("", strings.Join(path[:len(path)-1], "."), n.names())
}
