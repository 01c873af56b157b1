package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// want describes a type to a person: what it is called and how it is written.
func want(t reflect.Type) (name, hint string) {
	switch {
	case isDuration(t):
		return "a duration", `write it with a unit, for example "5s"`
	case isText(t):
		return "text", "put it in quotes"
	}
	switch t.Kind() {
	case reflect.String:
		return "text", "put it in quotes"
	case reflect.Bool:
		return "a boolean", "write true or false"
	case reflect.Float32, reflect.Float64:
		return "a number", "write it without quotes, for example 0.5"
	case reflect.Slice:
		return "a list", `write it as a list, for example ["a", "b"]`
	case reflect.Struct, reflect.Map:
		return "a group of keys", "write its keys below it, indented"
	default:
		return "a whole number", "write it without quotes, for example 10"
	}
}

// parse reads a scalar from text. Its error quotes the text; callers that read secrets must not print it.
func parse(t reflect.Type, s string) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	if isText(t) {
		u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
		if !ok {
			return v, fmt.Errorf("type %s reads no text", t)
		}
		if err := u.UnmarshalText([]byte(s)); err != nil {
			return v, fmt.Errorf("cannot read %q: %w", shorten(s), err)
		}
		return v, nil
	}
	if t.Kind() == reflect.String {
		v.SetString(s)
		return v, nil
	}
	if err := parseKind(v, strings.TrimSpace(s)); err != nil {
		name, hint := want(t)
		switch {
		case errors.Is(err, strconv.ErrRange):
			return v, fmt.Errorf("%s is out of range for %s of type %s", shorten(s), name, t)
		case isDuration(t):
			hint = "write a number with a unit" + `, for example "5s"`
		case t.Kind() != reflect.Bool:
			hint = strings.Replace(hint, "write it without quotes", "write it in digits", 1)
		}
		return v, fmt.Errorf("%q is not %s; %s", shorten(s), name, hint)
	}
	return v, nil
}

func parseKind(v reflect.Value, s string) error {
	switch v.Kind() {
	case reflect.Bool:
		b, err := strconv.ParseBool(strings.ToLower(s))
		v.SetBool(b)
		return err
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(s, v.Type().Bits())
		if err == nil && (math.IsInf(f, 0) || math.IsNaN(f)) {
			err = strconv.ErrSyntax
		}
		v.SetFloat(f)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(u)
		return err
	default:
		if isDuration(v.Type()) {
			d, err := time.ParseDuration(s)
			v.SetInt(int64(d))
			return err
		}
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(i)
		return err
	}
}

// fromText makes the plain value of a leaf from the text of an environment variable or a flag. Lists are split at
// "," and ";", spaces around entries and empty entries are dropped.
func fromText(t reflect.Type, s string) (any, error) {
	if isScalar(t) {
		v, err := parse(t, s)
		if err != nil {
			return nil, err
		}
		return scalarPlain(v, s), nil
	}
	if !isScalar(t.Elem()) {
		return nil, errors.New("a list of groups cannot be written as text; write it in a configuration file")
	}
	list := []any{}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' }) {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		v, err := parse(t.Elem(), part)
		if err != nil {
			return nil, err
		}
		list = append(list, scalarPlain(v, part))
	}
	return list, nil
}

// scalarPlain is the form in which a scalar passes through the merge. What is read from text stays text: copying
// a type with unexported fields would lose them.
func scalarPlain(v reflect.Value, text string) any {
	if isText(v.Type()) || isDuration(v.Type()) {
		return text
	}
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Float32, reflect.Float64:
		return v.Float()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v.Uint()
	default:
		return v.Int()
	}
}

// build makes a typed value from a plain one. Its errors are mistakes of ours: plain values were checked before.
func build(t reflect.Type, plain any) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	switch p := plain.(type) {
	case []any:
		if t.Kind() != reflect.Slice {
			return v, fmt.Errorf("a list for type %s", t)
		}
		v.Set(reflect.MakeSlice(t, len(p), len(p)))
		for i, e := range p {
			ev, err := build(t.Elem(), e)
			if err != nil {
				return v, err
			}
			v.Index(i).Set(ev)
		}
		return v, nil
	case map[string]any:
		return v, buildGroup(v, p)
	case string:
		return parse(t, p)
	}
	pv := reflect.ValueOf(plain)
	if !pv.IsValid() || !pv.CanConvert(t) || t.Kind() == reflect.String {
		return v, fmt.Errorf("a %T for type %s", plain, t)
	}
	return pv.Convert(t), nil
}

// buildGroup fills a struct or a map within a list.
func buildGroup(v reflect.Value, group map[string]any) error {
	for name, plain := range group {
		if err := assign(v, []string{name}, plain); err != nil {
			return err
		}
	}
	return nil
}

// assign sets the value at a path below v, an addressable struct or map.
func assign(v reflect.Value, path []string, plain any) error {
	if group, ok := plain.(map[string]any); ok && len(path) == 0 {
		return buildGroup(v, group)
	}
	if len(path) == 0 {
		built, err := build(v.Type(), plain)
		if err == nil {
			v.Set(built)
		}
		return err
	}
	if v.Kind() == reflect.Map {
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		key := reflect.ValueOf(path[0]).Convert(v.Type().Key())
		elem := reflect.New(v.Type().Elem()).Elem()
		if old := v.MapIndex(key); old.IsValid() {
			elem.Set(old)
		}
		if err := assign(elem, path[1:], plain); err != nil {
			return err
		}
		v.SetMapIndex(key, elem)
		return nil
	}
	if v.Kind() != reflect.Struct {
		return fmt.Errorf("no key %q in type %s", path[0], v.Type())
	}
	fields, err := fieldsOf(v.Type())
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.name == path[0] {
			return assign(v.FieldByIndex(f.index), path[1:], plain)
		}
	}
	return fmt.Errorf("no key %q in type %s", path[0], v.Type())
}
