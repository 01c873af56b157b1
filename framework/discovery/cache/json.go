package cache

import (
	"encoding/json"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// instanceJSON is an instance as people read it; what it does not say is left out.
type instanceJSON struct {
	Addr        string            `json:"addr"`
	Incarnation string            `json:"incarnation,omitempty"`
	State       discovery.State   `json:"state"`
	Version     string            `json:"version,omitempty"`
	Weight      int               `json:"weight,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Admin       string            `json:"admin,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

func toJSON(i *discovery.Instance) instanceJSON {
	return instanceJSON{i.Addr, i.Incarnation, i.State, i.Version, i.Weight, i.Zone, i.Admin, i.Metadata}
}

// MarshalJSON writes the state for the admin page: an error as its text, which encoding/json by itself would lose.
func (s ServiceState) MarshalJSON() ([]byte, error) {
	type held struct {
		instanceJSON
		Since time.Time `json:"since"`
		Until time.Time `json:"until"`
	}
	out := struct {
		Service   string         `json:"service"`
		Known     bool           `json:"known"` // false until the source has answered once
		Instances []instanceJSON `json:"instances"`
		Revision  int64          `json:"revision"`
		AsOf      time.Time      `json:"as_of,omitzero"`
		Error     string         `json:"error,omitempty"`
		Held      []held         `json:"held,omitempty"`
		Guarding  bool           `json:"guarding"`
		Draining  int            `json:"draining"`
		Watchers  int            `json:"watchers"`
	}{
		Service: s.Service, Known: s.Update.Known(), Instances: []instanceJSON{}, Revision: s.Update.Revision, AsOf: s.Update.AsOf,
		Guarding: s.Guarding, Draining: s.Draining, Watchers: s.Watchers,
	}
	for _, i := range s.Update.Instances {
		out.Instances = append(out.Instances, toJSON(i))
	}
	for _, h := range s.Held {
		out.Held = append(out.Held, held{toJSON(h.Instance), h.Since, h.Until})
	}
	if s.Update.Err != nil {
		out.Error = s.Update.Err.Error()
	}
	return json.Marshal(out)
}
