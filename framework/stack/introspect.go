package stack

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/newsvc/newsvc/framework/config"
)

// Question is what NEWSVC_INTROSPECT asks a service instead of starting it, with what it takes to answer.
type Question struct {
	// Ask is config, schema, graph or callees.
	Ask      string
	Service  string
	Settings *config.Config
	Callees  []string
	Serves   bool
	HTTP     bool
	// Dot is the graph of constructors in Graphviz' language.
	Dot string
	// Own are the service's own sections; the schema is made of them.
	Own []config.Section
}

const questionSchema = "schema"

// Answer is the answer, to be printed as JSON. Secrets are redacted.
func (q Question) Answer() (any, error) {
	switch q.Ask {
	case "config":
		return map[string]any{"service": q.Service, "sources": q.sources(), "serves": q.Serves, "http": q.HTTP, "values": q.Settings.Values()}, nil
	case questionSchema:
		return Schema(q.Service, q.Callees, q.Own...)
	case "graph":
		return map[string]string{"service": q.Service, "dot": q.Dot}, nil
	case "callees":
		return map[string]any{"service": q.Service, "serves": q.Serves, "callees": q.callees()}, nil
	}
	return nil, fmt.Errorf("NEWSVC_INTROSPECT=%q is no question; use config, schema, graph or callees", q.Ask)
}

// sources are the layers that were read, and one that was not.
func (q Question) sources() []string {
	all := q.Settings.Sources()
	var app AppConfig
	var err error
	if read(q.Settings, "app", &app, &err); err == nil && app.ConfigPrefix != "" {
		all = append(all, "etcd "+app.ConfigPrefix+" (not asked)")
	}
	return all
}

// Schema is the JSON schema of a service's whole configuration, for editors: the framework's sections, one for each callee, and the
// service's own.
func Schema(service string, callees []string, own ...config.Section) (map[string]any, error) {
	texts := settingDocs()
	docs := func(owner reflect.Type, field string) string {
		return texts[owner.PkgPath()+"."+owner.Name()+"."+field]
	}
	return config.Schema(service, docs, append(Sections(callees), own...)...)
}

// Print writes the answer.
func (q Question) Print(w io.Writer) error {
	out, err := q.Answer()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

type calleeView struct {
	Name   string         `json:"name"`
	Policy []config.Value `json:"policy"`
}

func (q Question) callees() []calleeView {
	all := make([]calleeView, 0, len(q.Callees))
	for _, callee := range q.Callees {
		v := calleeView{Name: callee, Policy: []config.Value{}}
		for _, value := range q.Settings.Values() {
			if strings.HasPrefix(value.Key, "clients."+callee+".") {
				v.Policy = append(v.Policy, value)
			}
		}
		all = append(all, v)
	}
	return all
}
