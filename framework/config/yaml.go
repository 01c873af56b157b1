package config

import (
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// document reads one YAML file against the tree of known keys.
type document struct {
	ld   *loader
	name string
	out  []setting
}

// readYAML returns the settings of a file and notes its problems.
func (ld *loader) readYAML(name string, data []byte) []setting {
	return ld.readDocument(name, ld.root, nil, string(data))
}

// readDocument is the same for the keys of one group, which lies at path.
func (ld *loader) readDocument(name string, n *node, path []string, text string) []setting {
	d := &document{ld: ld, name: name}
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			d.syntax(err)
		}
		return nil
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		ld.problem(d.at(&more), "", "a second document begins here; keep one document per file")
		return nil
	case !errors.Is(err, io.EOF):
		d.syntax(err)
		return nil
	}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		d.group(n, doc.Content[0], path)
	}
	return d.out
}

func (d *document) syntax(err error) {
	pos, text := Position{Name: d.name}, err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = m[2]
		pos.Line, _ = strconv.Atoi(m[1])
	}
	d.ld.problem(pos, "", "this is no valid YAML: %s", text)
}

func (d *document) at(y *yaml.Node) Position {
	return Position{Name: d.name, Line: y.Line, Column: y.Column}
}

// value reads what stands behind a known key.
func (d *document) value(n *node, y *yaml.Node, path []string) {
	if n.kind != kindLeaf {
		d.group(n, y, path)
		return
	}
	if plain, ok := d.plain(n.typ, y, strings.Join(path, "."), n.secret); ok {
		d.out = append(d.out, setting{path: path, value: plain, pos: d.at(y)})
	}
}

// group reads the keys of a known group or of a map. Nothing behind the colon is an empty group.
func (d *document) group(n *node, y *yaml.Node, path []string) {
	key := strings.Join(path, ".")
	if d.refuse(y, key) {
		return
	}
	if y.Kind != yaml.MappingNode && !isNull(y) {
		d.ld.problem(d.at(y), key, "%s%s, not a group of keys; write keys below it, indented: %s",
			prefixed(key), describe(y, n.secret), keysOf(n))
		return
	}
	if n.kind == kindGroup && n.entry && len(y.Content) == 0 {
		d.out = append(d.out, setting{path: path, value: map[string]any{}, pos: d.at(y)})
	}
	for name, pair := range d.pairs(y, key) {
		child := n.children[name]
		if n.kind == kindMap {
			child = n.elem
		}
		sub := append(slices.Clone(path), name)
		switch {
		case child == nil:
			d.ld.problem(d.at(pair.key), strings.Join(sub, "."), "%s", d.ld.unknown(n, sub))
		case strings.Contains(name, pathSep):
			d.ld.problem(d.at(pair.key), strings.Join(sub, "."), "key %q holds a control character; remove it", strings.Join(sub, "."))
		default:
			d.value(child, pair.value, sub)
		}
	}
}

type pair struct{ key, value *yaml.Node }

// pairs yields the entries of a mapping whose keys are fit to be read, in order.
func (d *document) pairs(y *yaml.Node, key string) func(func(string, pair) bool) {
	return func(yield func(string, pair) bool) {
		seen := map[string]int{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			k, v := y.Content[i], y.Content[i+1]
			if k.Tag == "!!merge" {
				d.ld.problem(d.at(k), key, `"<<" merges are not supported; write the keys out`)
				continue
			}
			full := strings.TrimPrefix(key+"."+k.Value, ".")
			if d.refuse(k, full) {
				continue
			}
			if k.Kind != yaml.ScalarNode {
				d.ld.problem(d.at(k), key, "a key must be a plain word")
				continue
			}
			if line := seen[k.Value]; line > 0 {
				d.ld.problem(d.at(k), full, "key %q is written twice, first in line %d; remove one", full, line)
				continue
			}
			seen[k.Value] = k.Line
			if !yield(k.Value, pair{k, v}) {
				return
			}
		}
	}
}

// refuse notes the parts of YAML that we do not read, because a reader could no longer tell where a value was set.
func (d *document) refuse(y *yaml.Node, key string) bool {
	if y.Kind == yaml.AliasNode || y.Anchor != "" {
		d.ld.problem(d.at(y), key, "%sYAML anchors and aliases are not supported; write the value out", prefixed(key))
		return true
	}
	return false
}

func prefixed(key string) string {
	if key == "" {
		return ""
	}
	return key + ": "
}

// plain checks a value against a type, strictly, and returns it in plain form.
func (d *document) plain(t reflect.Type, y *yaml.Node, key string, secret bool) (any, bool) {
	if d.refuse(y, key) {
		return nil, false
	}
	var (
		plain any
		err   error
	)
	switch {
	case isScalar(t):
		plain, err = scalarNode(t, y, secret)
	case t.Kind() == reflect.Slice && y.Kind == yaml.SequenceNode:
		return d.list(t, y, key, secret)
	case t.Kind() != reflect.Slice && y.Kind == yaml.MappingNode:
		return d.entries(t, y, key, secret)
	default:
		err = mismatch(t, y, secret)
	}
	if err != nil {
		d.ld.problem(d.at(y), key, "%s: %v", key, err)
		return nil, false
	}
	return plain, true
}

func (d *document) list(t reflect.Type, y *yaml.Node, key string, secret bool) (any, bool) {
	out, ok := make([]any, 0, len(y.Content)), true
	for i, e := range y.Content {
		plain, good := d.plain(t.Elem(), e, fmt.Sprintf("%s[%d]", key, i), secret)
		out, ok = append(out, plain), ok && good
	}
	return out, ok
}

// entries reads a struct or a map within a list.
func (d *document) entries(t reflect.Type, y *yaml.Node, key string, secret bool) (any, bool) {
	known := map[string]field{}
	var names []string
	if t.Kind() == reflect.Struct {
		fields, err := fieldsOf(t)
		if err != nil {
			d.ld.problem(d.at(y), key, "%s: %v", key, err)
			return nil, false
		}
		for _, f := range fields {
			known[f.name] = f
			names = append(names, f.name)
		}
	}
	out, before := map[string]any{}, len(d.ld.problems)
	for name, p := range d.pairs(y, key) {
		f, ok := known[name]
		if t.Kind() == reflect.Map {
			f, ok = field{typ: t.Elem()}, true
		}
		full := key + "." + name
		if !ok {
			d.ld.problem(d.at(p.key), full, "unknown key %q; %s", full, suggest(nearest(name, names), key, names))
			continue
		}
		if plain, good := d.plain(f.typ, p.value, full, secret || f.secret); good {
			out[name] = plain
		}
	}
	return out, len(d.ld.problems) == before
}

// scalarNode reads a scalar of a type from a YAML scalar of the same kind.
func scalarNode(t reflect.Type, y *yaml.Node, secret bool) (any, error) {
	if y.Kind != yaml.ScalarNode {
		return nil, mismatch(t, y, secret)
	}
	tag := y.ShortTag()
	switch {
	case isDuration(t) || isText(t):
		if !isTextTag(tag) {
			return nil, mismatch(t, y, secret)
		}
		if _, err := parse(t, y.Value); err != nil {
			return nil, conceal(err, t, secret)
		}
		return y.Value, nil
	case t.Kind() == reflect.String && isTextTag(tag):
		return y.Value, nil
	case t.Kind() == reflect.Bool && tag == "!!bool":
		var b bool
		err := y.Decode(&b)
		return b, err
	case isFloat(t) && (tag == "!!float" || tag == "!!int"):
		var f float64
		if err := y.Decode(&f); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return nil, conceal(fmt.Errorf("%s is not a finite number", shorten(y.Value)), t, secret)
		}
		return f, nil
	case !isFloat(t) && t.Kind() != reflect.String && t.Kind() != reflect.Bool && tag == "!!int":
		return intNode(t, y, secret)
	}
	return nil, mismatch(t, y, secret)
}

func isFloat(t reflect.Type) bool {
	return t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64
}

// intNode reads a whole number in one of the notations of YAML and checks its range.
func intNode(t reflect.Type, y *yaml.Node, secret bool) (any, error) {
	v := reflect.New(t)
	if err := y.Decode(v.Interface()); err != nil {
		return nil, conceal(fmt.Errorf("%s is out of range for a whole number of type %s", shorten(y.Value), t), t, secret)
	}
	return scalarPlain(v.Elem(), ""), nil
}

func isTextTag(tag string) bool { return tag == "!!str" || tag == "!!timestamp" }

func isNull(y *yaml.Node) bool { return y.Kind == yaml.ScalarNode && y.ShortTag() == "!!null" }

// conceal replaces an error about a secret by one that does not show it.
func conceal(err error, t reflect.Type, secret bool) error {
	if !secret {
		return err
	}
	name, _ := want(t)
	return fmt.Errorf("*** is not %s that can be read as %s", name, t)
}

// mismatch says that a value has another type than its key.
func mismatch(t reflect.Type, y *yaml.Node, secret bool) error {
	name, hint := want(t)
	if isDuration(t) && y.ShortTag() == "!!int" && !secret {
		hint = fmt.Sprintf("write it with a unit, for example %q", shorten(y.Value)+"s")
	}
	if t.Kind() == reflect.Slice && y.Kind == yaml.ScalarNode && y.ShortTag() == "!!str" && !secret {
		hint = fmt.Sprintf("write it as a list, [%q]", shorten(y.Value))
	}
	switch {
	case y.Kind != yaml.ScalarNode && isScalar(t):
		hint = "write a single value"
	case y.ShortTag() == "!!float" && name == "a whole number":
		hint = "write it without a fraction"
	}
	if isNull(y) {
		return fmt.Errorf("there is no value, %s is expected; write one or remove the line", strings.TrimPrefix(name, "a "))
	}
	return fmt.Errorf("%s, not %s; %s", describe(y, secret), name, hint)
}

// describe says what a YAML value is.
func describe(y *yaml.Node, secret bool) string {
	shown := func(s string) string {
		if secret {
			return "***"
		}
		return shorten(s)
	}
	switch y.Kind {
	case yaml.SequenceNode:
		return "this is a list"
	case yaml.MappingNode:
		return "this is a group of keys"
	}
	switch tag := y.ShortTag(); tag {
	case "!!int", "!!float":
		return shown(y.Value) + " is a number"
	case "!!bool":
		return shown(y.Value) + " is a boolean"
	case "!!str", "!!timestamp":
		if secret {
			return "*** is text"
		}
		return strconv.Quote(shorten(y.Value)) + " is text"
	case "!!null":
		return "this is empty"
	default:
		return "this has the tag " + tag
	}
}
