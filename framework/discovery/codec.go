package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxValueSize is the largest value that [Decode] looks at, in bytes; a real one has some hundred.
const MaxValueSize = 64 << 10

// record is what etcd's client/v3/naming reads and writes, so that its resolver finds our instances. Op is always 0
// there ("add").
type record struct {
	Op       uint8
	Addr     string
	Metadata *metadata `json:",omitempty"`
}

// metadata is what newsvc adds. Foreign readers see it as a plain JSON object.
type metadata struct {
	Incarnation string            `json:"incarnation,omitempty"`
	State       State             `json:"state,omitempty"`
	Version     string            `json:"version,omitempty"`
	Weight      int               `json:"weight,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Admin       string            `json:"admin,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
}

// Encode returns the value that is stored for an instance: the JSON of etcd's naming package with newsvc's own fields
// under Metadata.
func Encode(i *Instance) ([]byte, error) {
	if err := CheckAddr(i.Addr); err != nil {
		return nil, fmt.Errorf("instance of %q: %w", i.Service, err)
	}
	if i.Weight < 0 {
		return nil, fmt.Errorf("instance %s of %q: weight %d is negative; use 0 or more", i.Addr, i.Service, i.Weight)
	}
	return json.Marshal(record{Addr: i.Addr, Metadata: &metadata{
		Incarnation: i.Incarnation, State: i.State, Version: i.Version, Weight: i.Weight,
		Zone: i.Zone, Admin: i.Admin, Meta: i.Metadata,
	}})
}

// Decode reads a stored value: what [Encode] wrote, what etcd's naming package wrote, or a bare host:port as services
// of the key-per-address recipe write it. The instance it returns has a valid address and state.
func Decode(service string, value []byte) (*Instance, error) {
	if len(value) > MaxValueSize {
		return nil, fmt.Errorf("value of an instance of %q has %d bytes; at most %d are read", service, len(value), MaxValueSize)
	}
	text := strings.TrimSpace(string(value))
	if !strings.HasPrefix(text, "{") {
		if err := CheckAddr(text); err != nil {
			return nil, fmt.Errorf("value of an instance of %q is neither JSON nor an address: %w", service, err)
		}
		return &Instance{Service: service, Addr: text, State: StateUp}, nil
	}
	inst, err := decodeJSON(service, text)
	if err != nil {
		return nil, err
	}
	if err := CheckAddr(inst.Addr); err != nil {
		return nil, fmt.Errorf("value of an instance of %q: %w", service, err)
	}
	return inst, nil
}

// decodeJSON leaves to encoding/json what has not the usual shape.
func decodeJSON(service, value string) (*Instance, error) {
	var addr string
	var m metadata
	switch readUsual(value, &addr, &m) {
	case usualForeign:
		return fromRecord(service, addr, nil)
	case usualOurs:
		return fromRecord(service, addr, &m)
	}
	return decodeSlowly(service, []byte(value))
}

// decodeSlowly reads an instance of ours in one pass; foreign metadata, of whatever shape, takes a second one.
func decodeSlowly(service string, value []byte) (*Instance, error) {
	var rec record
	err := json.Unmarshal(value, &rec)
	if err == nil && (rec.Metadata == nil || rec.Metadata.Incarnation != "") {
		return fromRecord(service, rec.Addr, rec.Metadata)
	}
	if wrong := (*json.UnmarshalTypeError)(nil); err != nil && !errors.As(err, &wrong) {
		return nil, fmt.Errorf("value of an instance of %q is no JSON: %w", service, err)
	}
	if rec.Metadata != nil && rec.Metadata.Incarnation != "" {
		return nil, fmt.Errorf("value of an instance of %q: %w", service, err)
	}
	return decodeForeign(service, value)
}

func fromRecord(service, addr string, m *metadata) (*Instance, error) {
	inst := &Instance{Service: service, Addr: addr, State: StateUp}
	if m != nil {
		inst.Incarnation, inst.Version, inst.Weight = m.Incarnation, m.Version, m.Weight
		inst.Zone, inst.Admin, inst.Metadata = m.Zone, m.Admin, m.Meta
		if m.State != "" {
			inst.State = m.State
		}
	}
	if inst.Weight < 0 {
		return nil, fmt.Errorf("value of an instance of %q: weight %d is negative", service, inst.Weight)
	}
	if inst.State != StateUp && inst.State != StateDraining {
		return nil, fmt.Errorf("value of an instance of %q: unknown state %q", service, inst.State)
	}
	return inst, nil
}

func decodeForeign(service string, value []byte) (*Instance, error) {
	var rec struct {
		Addr     string
		Metadata json.RawMessage
	}
	if err := json.Unmarshal(value, &rec); err != nil {
		return nil, fmt.Errorf("value of an instance of %q: %w", service, err)
	}
	inst := &Instance{Service: service, Addr: rec.Addr, State: StateUp}
	var fields map[string]any
	if json.Unmarshal(rec.Metadata, &fields) != nil {
		return inst, nil //nolint:nilerr // Metadata of a foreign instance may be anything; what is no object says nothing to us
	}
	// Where Encode puts it, also for a foreign instance, which has no incarnation. What stands beside it wins.
	if meta, ok := fields["meta"].(map[string]any); ok {
		inst.addMeta(meta)
	}
	for k, v := range fields {
		switch v := v.(type) {
		case string:
			inst.setForeign(k, v)
		case float64:
			if k == "weight" && v >= 0 && v <= 1e6 {
				inst.Weight = int(v)
			}
		}
	}
	return inst, nil
}

func (i *Instance) setForeign(key, value string) {
	switch key {
	case "version":
		i.Version = value
	case "zone":
		i.Zone = value
	case "state":
		if State(value) == StateDraining {
			i.State = StateDraining
		}
	default:
		if i.Metadata == nil {
			i.Metadata = make(map[string]string)
		}
		i.Metadata[key] = value
	}
}

func (i *Instance) addMeta(meta map[string]any) {
	for k, v := range meta {
		if text, ok := v.(string); ok {
			if i.Metadata == nil {
				i.Metadata = make(map[string]string)
			}
			i.Metadata[k] = text
		}
	}
}
