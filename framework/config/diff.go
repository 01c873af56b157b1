package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is one key whose value differs between two configurations. Secrets show as *** on both sides.
type Change struct {
	// Key is the whole key, segments joined by dots.
	Key string `json:"key"`
	// Old and New are the values in the form of [Value.Value]; nil where an entry of a map is not there.
	Old any `json:"old"`
	New any `json:"new"`
	// Source says where the new value was set, in the words of [Value.Source].
	Source string `json:"source"`
	// Reload says what the change takes: "live", "pushed", "redial" or "restart".
	Reload string `json:"reload"`
}

// String is the change in one line: key: "old" -> "new" (source).
func (c Change) String() string {
	return c.Key + ": " + jsonText(c.Old) + " -> " + jsonText(c.New) + " (" + c.Source + ")"
}

// leaf is one value of a configuration with its Go value, which tells whether a secret changed.
type leaf struct {
	Value
	raw     reflect.Value
	section *section
}

// leaves returns all values by key.
func (c *Config) leaves() map[string]leaf {
	out := map[string]leaf{}
	for _, s := range c.sections {
		c.walk(c.nodeOf(s), s.value, s.path, func(v Value, raw reflect.Value) { out[v.Key] = leaf{v, raw, s} })
	}
	return out
}

// nodeOf is the group of a section's keys.
func (c *Config) nodeOf(s *section) *node {
	n := c.root
	for _, seg := range s.path {
		n = n.children[seg]
	}
	return n
}

// diff lists what differs between two configurations of the same sections, sorted by key.
func diff(before, after *Config) []Change {
	var out []Change
	was, is := before.leaves(), after.leaves()
	for key, b := range was {
		switch a, kept := is[key]; {
		case !kept:
			out = append(out, Change{Key: key, Old: b.Value.Value, Source: "removed", Reload: b.Reload})
		case !same(a.raw, b.raw):
			out = append(out, Change{Key: key, Old: b.Value.Value, New: a.Value.Value, Source: a.Source, Reload: a.Reload})
		}
	}
	for key, a := range is {
		if _, there := was[key]; !there {
			out = append(out, Change{Key: key, New: a.Value.Value, Source: a.Source, Reload: a.Reload})
		}
	}
	out = slices.DeleteFunc(out, func(c Change) bool { return placeholder(c, was, is) })
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// placeholder says whether a change is that of the value which stands for an empty map: its first entry came or its
// last one went, which is told by itself.
func placeholder(c Change, was, is map[string]leaf) bool {
	l, there := was[c.Key]
	if !there {
		l, there = is[c.Key]
	}
	return there && l.raw.Kind() == reflect.Map && (c.Old == nil || c.New == nil)
}

// same compares two values of one type; an empty list is no list, an empty map no map.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// in returns the changes of one section. A key belongs to the section with the longest path above it.
func (c *Config) in(s *section, changes []Change) []Change {
	var out []Change
	for _, change := range changes {
		if c.owner(change.Key) == s.name {
			out = append(out, change)
		}
	}
	return out
}

// owner is the path of the section that a key belongs to. Sections may share a group: "d" and "d.guard".
func (c *Config) owner(key string) string {
	best := ""
	for _, s := range c.sections {
		if lies(key, s.name) && len(s.name) >= len(best) {
			best = s.name
		}
	}
	return best
}

// inForce is what holds when next is taken over while running holds: next, with the keys that need a restart, and all
// keys of sections that take nothing, as they are in running.
func inForce(running, next *Config, takes func(section string) bool) *Config {
	c := &Config{service: next.service, root: next.root, sources: next.sources, seen: next.seen, origins: maps.Clone(next.origins)}
	for i, s := range next.sections {
		was := running.sections[i]
		mixed := &section{name: s.name, path: s.path, defaults: s.defaults, base: s.base, value: clone(s.value)}
		m := mix{running: running, into: c, all: !takes(s.name)}
		m.merge(c.nodeOf(s), was.value, mixed.value, s.path)
		c.sections = append(c.sections, mixed)
	}
	c.values = c.collect()
	return c
}

// mix puts values of the running configuration back into a copy of the next one.
type mix struct {
	running, into *Config
	all           bool // nothing of this section is taken over
}

// merge goes over what lies at and below a node. was and is are its values; is can be set.
func (m mix) merge(n *node, was, is reflect.Value, path []string) {
	switch n.kind {
	case kindGroup:
		fields, _ := fieldsOf(is.Type()) // checked when the section was registered
		for _, f := range fields {
			m.merge(n.children[f.name], was.FieldByIndex(f.index), is.FieldByIndex(f.index), append(slices.Clone(path), f.name))
		}
	case kindMap:
		if m.all || !n.elem.reloads(true) && !n.elem.reloads(false) {
			m.keep(was, is, path)
			return
		}
		if !n.elem.reloads(true) {
			m.mergeEntries(n, was, is, path)
		}
	default:
		if m.all || n.reload == "" {
			m.keep(was, is, path)
		}
	}
}

// mergeEntries is merge for a map whose entries have keys of both kinds: those come and go with a restart.
func (m mix) mergeEntries(n *node, was, is reflect.Value, path []string) {
	out := reflect.MakeMap(is.Type())
	for it := was.MapRange(); it.Next(); {
		at := append(slices.Clone(path), it.Key().String())
		entry := clone(it.Value())
		if now := is.MapIndex(it.Key()); now.IsValid() {
			entry = clone(now)
			m.merge(n.elem, it.Value(), entry, at)
		} else {
			m.origins(at)
		}
		out.SetMapIndex(it.Key(), entry)
	}
	for it := is.MapRange(); it.Next(); {
		if !was.MapIndex(it.Key()).IsValid() {
			m.origins(append(slices.Clone(path), it.Key().String()))
		}
	}
	is.Set(out)
}

// keep leaves a value as it is running. One that did not change keeps the position that it has now.
func (m mix) keep(was, is reflect.Value, path []string) {
	if same(was, is) {
		return
	}
	is.Set(clone(was))
	m.origins(path)
}

// origins takes over where the values at and below a path were set.
func (m mix) origins(path []string) {
	key := strings.Join(path, ".")
	for k := range m.into.origins {
		if lies(k, key) {
			delete(m.into.origins, k)
		}
	}
	for k, o := range m.running.origins {
		if lies(k, key) {
			m.into.origins[k] = o
		}
	}
}

// Reloads says whether any key of a section may change without a restart.
func (c *Config) Reloads(section string) bool {
	s := c.sectionAt(section)
	return s != nil && c.nodeOf(s).reloads(false)
}

// reloads says whether all leaves at and below a node take effect without a restart, or any of them does.
func (n *node) reloads(all bool) bool {
	switch n.kind {
	case kindLeaf:
		return n.reload != ""
	case kindMap:
		return n.elem.reloads(all)
	}
	for _, child := range n.children {
		if child.reloads(all) != all {
			return !all
		}
	}
	return all
}
