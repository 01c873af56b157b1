package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	keyPattern     = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	segmentPattern = regexp.MustCompile(`^[a-z][a-z0-9]*([_-][a-z0-9]+)*$`)
)

type kind int

const (
	kindGroup kind = iota // keys known beforehand
	kindMap               // keys chosen by the user, all of one type
	kindLeaf              // a value: text, number, list ...
)

// node is a known key. The tree of nodes is what all layers are checked against.
type node struct {
	kind     kind
	typ      reflect.Type // of the value; nil for a group above all sections
	secret   bool
	reload   string
	section  *section
	children map[string]*node // kindGroup
	elem     *node            // kindMap: what each entry looks like
	entry    bool             // it is the elem of a map
	field    field            // that it was made of; the zero value for a section
}

func (n *node) names() []string { return slices.Sorted(maps.Keys(n.children)) }

// newTree checks the sections and makes the tree of known keys. Its errors are mistakes in the program.
func newTree(sections []Section) (*node, []*section, error) {
	root := &node{kind: kindGroup, children: map[string]*node{}}
	byName := map[string]*section{}
	for _, s := range sections {
		if byName[s.Path] != nil {
			return nil, nil, fmt.Errorf("register section %q: it is registered twice; give each section a path of its own", s.Path)
		}
		byName[s.Path] = &section{name: s.Path, path: strings.Split(s.Path, ".")}
	}
	secs := make([]*section, 0, len(sections))
	for _, s := range sections {
		sec := byName[s.Path]
		if err := initSection(sec, s, sections, byName); err != nil {
			return nil, nil, fmt.Errorf("register section %q: %w", s.Path, err)
		}
		if err := attach(root, sec); err != nil {
			return nil, nil, fmt.Errorf("register section %q: %w", s.Path, err)
		}
		secs = append(secs, sec)
	}
	slices.SortFunc(secs, func(a, b *section) int { return strings.Compare(a.name, b.name) })
	return root, secs, nil
}

func initSection(sec *section, s Section, all []Section, byName map[string]*section) error {
	for _, seg := range sec.path {
		if !segmentPattern.MatchString(seg) {
			return fmt.Errorf("%q is no name for a section; write lower-case words joined by - or _", seg)
		}
	}
	defaults := s.Defaults
	if s.Inherits != "" {
		sec.base = byName[s.Inherits]
		i := slices.IndexFunc(all, func(o Section) bool { return o.Path == s.Inherits })
		if sec.base == nil || sec.base == sec || all[i].Inherits != "" {
			return fmt.Errorf("it cannot inherit from %q; name a registered section that inherits nothing itself", s.Inherits)
		}
		if defaults == nil {
			defaults = all[i].Defaults
		}
		if reflect.TypeOf(defaults) != reflect.TypeOf(all[i].Defaults) {
			return fmt.Errorf("it is a %T and %q is a %T; one can inherit from the other when both are of one type", defaults, s.Inherits, all[i].Defaults)
		}
	}
	v := reflect.ValueOf(defaults)
	if !v.IsValid() || v.Kind() != reflect.Struct || isText(v.Type()) {
		return fmt.Errorf("its defaults are a %T; give a struct value", defaults)
	}
	sec.defaults, sec.value = clone(v), clone(v)
	return nil
}

// attach puts the keys of a section into the tree, making groups on the way. Sections may share a group as long as
// they share no key.
func attach(root *node, sec *section) error {
	own, err := newNode(sec.value.Type(), sec, field{}, nil)
	if err != nil {
		return err
	}
	at := root
	for _, seg := range sec.path {
		next := at.children[seg]
		if next == nil {
			next = &node{kind: kindGroup, children: map[string]*node{}}
			at.children[seg] = next
		}
		if next.kind != kindGroup {
			return fmt.Errorf("%q is a key of section %q already; choose another path", seg, next.section.name)
		}
		at = next
	}
	at.section, at.typ = sec, own.typ
	for _, name := range own.names() {
		if at.children[name] != nil {
			return fmt.Errorf("key %q is there already; sections that share a group must not share keys", name)
		}
		at.children[name] = own.children[name]
	}
	return nil
}

// field is a field of a section's struct that takes a key.
type field struct {
	name   string
	index  []int
	typ    reflect.Type
	secret bool
	reload string
	enum   []string     // the only values; nil for any
	owner  reflect.Type // the struct, and name of the field in Go, for its documentation
	goName string
	doc    string // from the tag
}

// newNode makes the node of a type. The stack holds the structs around it: a type that holds itself has no end.
func newNode(t reflect.Type, sec *section, f field, stack []reflect.Type) (*node, error) {
	n := &node{typ: t, section: sec, secret: f.secret, reload: f.reload, field: f}
	if slices.Contains(stack, t) {
		return nil, fmt.Errorf("type %s contains itself; a section needs a fixed depth", t)
	}
	switch {
	case isScalar(t):
		n.kind = kindLeaf
	case t.Kind() == reflect.Slice:
		n.kind = kindLeaf
		_, err := newNode(t.Elem(), sec, f, append(stack, t))
		return n, err
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String && !isText(t.Key()):
		n.kind = kindMap
		elem, err := newNode(t.Elem(), sec, f, append(stack, t))
		if err != nil {
			return nil, err
		}
		if elem.kind == kindMap {
			return nil, fmt.Errorf("type %s is a map of maps; put a struct in between", t)
		}
		n.elem, elem.entry = elem, true
		return n, nil
	case t.Kind() == reflect.Struct:
		return n, n.addFields(t, sec, f, append(stack, t))
	default:
		return nil, fmt.Errorf("type %s cannot be configured; use text, numbers, booleans, durations, lists, maps by text, structs or a type that reads text", t)
	}
	return n, nil
}

func (n *node) addFields(t reflect.Type, sec *section, outer field, stack []reflect.Type) error {
	fields, err := fieldsOf(t)
	if err != nil {
		return err
	}
	n.children = make(map[string]*node, len(fields))
	for _, f := range fields {
		f.secret = f.secret || outer.secret
		if f.reload == "" {
			f.reload = outer.reload
		}
		child, err := newNode(f.typ, sec, f, stack)
		if err != nil {
			return fmt.Errorf("key %q: %w", f.name, err)
		}
		if n.children[f.name] != nil {
			return fmt.Errorf("type %s has two fields for key %q", t, f.name)
		}
		n.children[f.name] = child
	}
	return nil
}

// fieldsOf lists the fields of a struct that take keys; those of embedded structs without a tag count as its own.
func fieldsOf(t reflect.Type) ([]field, error) {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, tagged := sf.Tag.Lookup("config")
		embedded := sf.Anonymous && !tagged && sf.Type.Kind() == reflect.Struct && !isText(sf.Type)
		if name == "-" || !sf.IsExported() && !embedded {
			continue
		}
		if embedded {
			inner, err := fieldsOf(sf.Type)
			if err != nil {
				return nil, err
			}
			for _, f := range inner {
				f.index = append([]int{i}, f.index...)
				out = append(out, f)
			}
			continue
		}
		if !keyPattern.MatchString(name) {
			return nil, fmt.Errorf("field %s.%s has config tag %q; write a snake_case key, or \"-\" to hide the field", t, sf.Name, name)
		}
		f := field{name: name, index: sf.Index, typ: sf.Type, secret: sf.Tag.Get("secret") == "true", reload: sf.Tag.Get("reload"),
			owner: t, goName: sf.Name, doc: sf.Tag.Get("doc")}
		if enum := sf.Tag.Get("enum"); enum != "" {
			f.enum = strings.Split(enum, "|")
		}
		if !slices.Contains([]string{"", "live", "pushed", "redial"}, f.reload) {
			return nil, fmt.Errorf("field %s.%s has reload tag %q; write live, pushed or redial, or leave it out", t, sf.Name, f.reload)
		}
		out = append(out, f)
	}
	return out, nil
}

// isText says whether values of a type are read by a method of theirs.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isDuration(t reflect.Type) bool { return t == reflect.TypeFor[time.Duration]() }

func isScalar(t reflect.Type) bool {
	if isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	default:
		return false
	}
}

// clone copies a value so that no map and no list is shared. The result is addressable.
func clone(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	switch {
	case isScalar(v.Type()):
	case v.Kind() == reflect.Struct:
		fields, _ := fieldsOf(v.Type()) // a type that is in error is refused before its values are used
		for _, f := range fields {
			out.FieldByIndex(f.index).Set(clone(v.FieldByIndex(f.index)))
		}
	case v.Kind() == reflect.Slice && !v.IsNil():
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(clone(v.Index(i)))
		}
	case v.Kind() == reflect.Map && !v.IsNil():
		out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(it.Key(), clone(it.Value()))
		}
	}
	return out
}
