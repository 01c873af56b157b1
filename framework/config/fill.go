package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	validateKey = regexp.MustCompile(`^([A-Za-z0-9_.\-/]+)(?:\[[^\]]*\])*: `)
	fileRef     = regexp.MustCompile(`^\$\{file:(.+)\}$`)
)

// fill puts the merged settings into the sections, those of a base before the own ones of a section.
func (ld *loader) fill() {
	all := ld.merged.All()
	keys := slices.Sorted(maps.Keys(all))
	for _, sec := range ld.sections {
		if sec.base != nil {
			ld.inherit(sec, keys, all)
		}
	}
	for _, key := range keys {
		path := strings.Split(key, pathSep)
		if n := ld.root.at(path); n != nil {
			ld.assign(n, path, all[key], ld.origins[key])
		}
	}
}

// inherit gives a section the values that layers set for its base.
func (ld *loader) inherit(sec *section, keys []string, all map[string]any) {
	prefix := strings.Join(sec.base.path, pathSep) + pathSep
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		path := append(slices.Clone(sec.path), strings.Split(rest, pathSep)...)
		own := strings.Join(path, pathSep)
		n := ld.root.at(path)
		if _, set := all[own]; set || n == nil || n.section != sec {
			continue
		}
		from := ld.origins[key]
		from.from = sec.base.name
		ld.origins[own] = from
		ld.assign(n, path, all[key], from)
	}
}

func (ld *loader) assign(n *node, path []string, plain any, from origin) {
	key := strings.Join(path, ".")
	if n.secret {
		plain = ld.readSecret(key, plain, from)
	}
	if err := assign(n.section.value, path[len(n.section.path):], plain); err != nil {
		ld.problem(from.pos, key, "%s: %v", key, conceal(err, n.typ, n.secret))
	}
}

// readSecret replaces "${file:/run/secrets/x}" by what the file holds, without its trailing line break.
func (ld *loader) readSecret(key string, plain any, from origin) any {
	text, _ := plain.(string)
	m := fileRef.FindStringSubmatch(text)
	if m == nil {
		return plain
	}
	path := m[1]
	if !filepath.IsAbs(path) {
		path = filepath.Join(ld.src.Dir, path)
	}
	data, err := ld.seen.read(path)
	if err != nil {
		ld.problem(from.pos, key, "%s: read the secret: %v; create the file or write the value itself", key, err)
		return ""
	}
	return strings.TrimRight(string(data), "\r\n")
}

// at returns the leaf, or the empty entry of a map, at a path; nil if there is neither.
func (n *node) at(path []string) *node {
	for _, seg := range path {
		if n.kind == kindMap {
			n = n.elem
		} else if n = n.children[seg]; n == nil {
			return nil
		}
	}
	if n.kind == kindLeaf || n.entry {
		return n
	}
	return nil
}

type validator interface{ Validate() error }

// validate calls Validate of each section whose values could all be read.
func (ld *loader) validate() {
	if slices.ContainsFunc(ld.problems, func(p Problem) bool { return p.Key == "" }) {
		return // a whole source is missing: complaints about what it may have set would mislead
	}
	var skip []*section
	for _, sec := range ld.sections {
		if ld.troubled(sec) {
			skip = append(skip, sec)
		}
	}
	// Bases come first: a wrong value is reported where it stands and not once more where it is inherited.
	seen := map[string]bool{}
	for _, heirs := range []bool{false, true} {
		for _, sec := range ld.sections {
			if (sec.base != nil) == heirs && !slices.Contains(skip, sec) {
				ld.validateSection(sec, seen)
			}
		}
	}
}

func (ld *loader) validateSection(sec *section, seen map[string]bool) {
	for _, err := range split(validate(sec.value)) {
		p, id := ld.invalid(sec, err)
		if !seen[id] {
			ld.problems = append(ld.problems, p)
		}
		seen[id] = true
	}
}

// validate calls the method Validate of a section's value, if it has one. Its panic is a refusal: values that change in one
// place for all instances must not end them all.
func validate(value reflect.Value) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check of these values panics: %v; fix it, or the value that it does not expect", p)
		}
	}()
	own := clone(value) // Validate may do with it what it likes
	if v, ok := own.Interface().(validator); ok {
		return v.Validate()
	}
	if v, ok := own.Addr().Interface().(validator); ok {
		return v.Validate()
	}
	return nil
}

// troubled says whether a problem was found already in a section or in what it inherits: then its values are not
// those that were meant.
func (ld *loader) troubled(sec *section) bool {
	return slices.ContainsFunc(ld.problems, func(p Problem) bool {
		return strings.HasPrefix(p.Key+".", sec.name+".") || sec.base != nil && strings.HasPrefix(p.Key+".", sec.base.name+".")
	})
}

// split takes joined errors apart.
func split(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && err.Error() == errors.Join(joined.Unwrap()...).Error() {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, split(e)...)
		}
		return out
	}
	return []error{err}
}

// invalid makes a problem of an error of Validate: the key it begins with tells where the value was set. The id is equal
// for the same complaint about the same inherited value.
func (ld *loader) invalid(sec *section, err error) (p Problem, id string) {
	text := err.Error()
	p = Problem{Key: sec.name, Cause: err}
	m := validateKey.FindStringSubmatch(text)
	head := "" // the key is no secret, whatever it has in common with one
	if m != nil {
		head = m[0]
	}
	if clean := head + redact(text[len(head):], sec.value, false); clean != text {
		text, p.Cause = clean, nil
	}
	p.Text = sec.name + ": " + text
	if m == nil {
		return p, p.Text
	}
	n, path, wrong := ld.resolveIn(sec, m[1])
	if n == nil || wrong != "" {
		return p, p.Text
	}
	p.Key, p.Text = sec.name+"."+m[1], sec.name+"."+text
	o, set := ld.origins[strings.Join(path, pathSep)]
	if !set {
		p.Position.Name = "default"
		if sec.base != nil {
			return p, "default " + sec.base.name + "." + text
		}
		return p, p.Position.String() + " " + sec.name + "." + text
	}
	p.Position = o.pos
	return p, o.pos.String() + " " + text
}

// resolveIn finds a key, leaf or group, below a section. A group stands where its first set key stands.
func (ld *loader) resolveIn(sec *section, key string) (*node, []string, string) {
	n, path, wrong := ld.resolve(sec.name + "." + key)
	if wrong == "" {
		return n, path, ""
	}
	path = append(slices.Clone(sec.path), strings.Split(key, ".")...)
	at := ld.root
	for _, seg := range path {
		if at.kind == kindMap {
			at = at.elem
		} else if at = at.children[seg]; at == nil {
			return nil, nil, wrong
		}
	}
	prefix, first := strings.Join(path, pathSep)+pathSep, ""
	for k := range ld.origins {
		if strings.HasPrefix(k, prefix) && (first == "" || k < first) {
			first = k
		}
	}
	if first != "" {
		path = strings.Split(first, pathSep)
	}
	return at, path, ""
}

// redact replaces the secrets of a value within a text.
func redact(text string, v reflect.Value, secret bool) string {
	switch {
	case isScalar(v.Type()):
		if secret && !v.IsZero() {
			plain, _ := show(v, false).(string)
			if v.Kind() != reflect.String {
				plain = strings.Trim(jsonText(show(v, false)), `"`)
			}
			for _, form := range []string{plain, strings.Trim(strconv.Quote(plain), `"`)} {
				if form != "" {
					text = strings.ReplaceAll(text, form, "***")
				}
			}
		}
	case v.Kind() == reflect.Struct:
		fields, _ := fieldsOf(v.Type()) // checked when the section was registered
		for _, f := range fields {
			text = redact(text, v.FieldByIndex(f.index), secret || f.secret)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			text = redact(text, v.Index(i), secret)
		}
	case v.Kind() == reflect.Map:
		for it := v.MapRange(); it.Next(); {
			text = redact(text, it.Value(), secret)
		}
	}
	return text
}
