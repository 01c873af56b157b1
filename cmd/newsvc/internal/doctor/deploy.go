package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

// closing is what a process may take after app.stop_timeout: 5 s for its workers, 10 s for what was opened.
const closing = 15 * time.Second

// manifest is what is read of a Deployment.
type manifest struct {
	Kind string
	Spec struct {
		Template struct {
			Spec struct {
				Grace      yaml.Node `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Env []struct{ Name, Value string }
				}
			}
		}
	}
}

// deployed compares the time that Kubernetes gives a pod to end with what the service may take, as its configuration has it in the
// environment of the manifest.
func (x *examination) deployed(context.Context) []Finding {
	name := filepath.Join(x.place.ServiceDir, "deploy", "k8s.yaml")
	text, err := os.ReadFile(name)
	if x.place.ServiceDir == "" || err != nil {
		return nil
	}
	m, err := readManifest(text)
	if err != nil {
		return []Finding{{Level: Fail, What: "deploy/k8s.yaml cannot be read: " + err.Error(), At: name, Fix: edit(name)}}
	}
	if m == nil {
		return one(Skip, "deploy/k8s.yaml has no Deployment")
	}
	stop, err := x.stopTimeout(m)
	if err != nil {
		return one(Skip, "the configuration cannot be read: %s", firstLine(err))
	}
	node := m.Spec.Template.Spec.Grace
	seconds := 30 // of Kubernetes, where nothing is said
	if node.Line > 0 && node.Decode(&seconds) != nil {
		seconds = 0
	}
	grace, needs := time.Duration(seconds)*time.Second, stop+closing
	if grace > needs {
		return one(OK, "pods get %v to end, the service takes %v at most", grace, needs)
	}
	f := Finding{
		Level: Fail, At: name, Fix: edit(name),
		What: fmt.Sprintf("pods are killed after %v, and the service may take %v to end: app.stop_timeout %v, and %v to close", grace, needs, stop, closing),
	}
	if node.Line > 0 {
		f.At = fmt.Sprintf("%s:%d", name, node.Line)
		f.Fix = fmt.Sprintf("sed -i.bak '%ds/: .*/: %d/' %s", node.Line, int(needs.Seconds())+5, quote(name))
	}
	return []Finding{f}
}

// readManifest returns the first Deployment; nil when there is none.
func readManifest(text []byte) (*manifest, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var m manifest
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return nil, err
		case m.Kind == "Deployment":
			return &m, nil
		}
	}
}

// stopTimeout is app.stop_timeout of the service in its pod.
func (x *examination) stopTimeout(m *manifest) (time.Duration, error) {
	src := config.Sources{Service: x.place.ServiceName, Dir: x.place.ServiceDir}
	for _, c := range m.Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			src.Environ = append(src.Environ, e.Name+"="+e.Value)
		}
	}
	c, err := config.LoadOnly(src, []string{"app"}, config.Section{Path: "app", Defaults: stack.DefaultConfig().App})
	if err != nil {
		return 0, err
	}
	app, err := config.Get[stack.AppConfig](c, "app")
	return app.StopTimeout, err
}
