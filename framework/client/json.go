package client

import (
	"encoding/json"
	"reflect"
	"time"
)

// MarshalJSON writes the policy with the keys of the configuration and durations as they are written there.
func (p Policy) MarshalJSON() ([]byte, error) { return json.Marshal(settings(reflect.ValueOf(p))) }

// settings are the fields of a configuration struct by their keys.
func settings(v reflect.Value) map[string]any {
	out := make(map[string]any, v.NumField())
	for f, field := range v.Fields() {
		key := f.Tag.Get("config")
		switch d, isDuration := field.Interface().(time.Duration); {
		case isDuration:
			out[key] = d.String()
		case field.Kind() == reflect.Struct:
			out[key] = settings(field)
		default:
			out[key] = field.Interface()
		}
	}
	return out
}
