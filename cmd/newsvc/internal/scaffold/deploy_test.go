package scaffold_test

import (
	"go/version"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

// closing is what a process may take after app.stop_timeout: 5 s for its workers, 10 s for what was opened.
const closing = 15 * time.Second

// deployment is what this test reads of deploy/k8s.yaml.
type deployment struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []container
			}
		}
	}
}

type container struct {
	Name  string
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Env []struct {
		Name, Value string
		ValueFrom   struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	Startup   probe `yaml:"startupProbe"`
	Readiness probe `yaml:"readinessProbe"`
	Liveness  probe `yaml:"livenessProbe"`
}

type probe struct {
	GRPC struct {
		Port    int
		Service string
	}
}

// TestManifestFitsTheService reads the manifest as Kubernetes would and hands the service the environment it sets.
func TestManifestFitsTheService(t *testing.T) {
	t.Parallel()
	files := render(t, kinds(t)["release"])
	var d deployment
	if err := yaml.Unmarshal(content(t, files, "deploy/k8s.yaml"), &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template
	if d.APIVersion != "apps/v1" || d.Kind != "Deployment" || d.Metadata.Name != "blogger-user" || len(pod.Spec.Containers) != 1 {
		t.Fatalf("got %+v, want the deployment of blogger-user with one container", d)
	}
	for k, v := range d.Spec.Selector.MatchLabels {
		if pod.Metadata.Labels[k] != v {
			t.Errorf("the selector wants %s=%s, the pods have %q", k, v, pod.Metadata.Labels)
		}
	}
	c := pod.Spec.Containers[0]
	environ := []string{}
	for _, e := range c.Env {
		switch {
		case e.Name != "POD_IP":
			environ = append(environ, e.Name+"="+e.Value)
		case e.ValueFrom.FieldRef.FieldPath != "status.podIP":
			t.Errorf("POD_IP is %+v", e)
		}
	}
	if len(environ) != len(c.Env)-1 {
		t.Errorf("environment %+v, want POD_IP once", c.Env)
	}
	// What the service makes of its config.yaml and that environment.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), content(t, files, "config.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, conf, err := stack.LoadConfig(config.Sources{Service: "blogger-user", Environ: environ, Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	grpc, admin := portOf(t, conf.Server.Listen), portOf(t, conf.Admin.Listen)
	for name, addr := range map[string]string{"server": conf.Server.Listen, "admin": conf.Admin.Listen} {
		if host, _, _ := net.SplitHostPort(addr); host != "" {
			t.Errorf("%s listens on %q, which probes and callers do not reach", name, addr)
		}
	}
	if !slices.Equal(conf.Etcd.Endpoints, []string{"etcd:2379"}) {
		t.Errorf("etcd is at %q", conf.Etcd.Endpoints)
	}
	for name, p := range map[string]struct {
		probe
		want string
	}{"startup": {c.Startup, server.Liveness}, "liveness": {c.Liveness, server.Liveness}, "readiness": {c.Readiness, server.Readiness}} {
		if p.GRPC.Port != grpc || p.GRPC.Service != p.want {
			t.Errorf("the %s probe asks %+v, want %q of port %d", name, p.GRPC, p.want, grpc)
		}
	}
	for _, p := range c.Ports {
		if want := map[string]int{"grpc": grpc, "admin": admin}[p.Name]; p.ContainerPort != want {
			t.Errorf("port %s is %d, want %d", p.Name, p.ContainerPort, want)
		}
	}
	if grace, stop := time.Duration(pod.Spec.Grace)*time.Second, conf.App.StopTimeout+closing; grace <= stop {
		t.Errorf("the pod is killed after %v, its process may take %v", grace, stop)
	}
}

// TestImageHoldsWhatTheManifestRuns follows the files of the image from the context to where the process looks for them.
func TestImageHoldsWhatTheManifestRuns(t *testing.T) {
	t.Parallel()
	for kind, spec := range kinds(t) {
		if isWorkspace(spec) {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			files := render(t, spec)
			own := "" // where the project's files are, as they are listed
			if spec.InWorkspace {
				own = spec.Home() + "/"
			}
			lines := strings.Split(string(content(t, files, own+"Dockerfile")), "\n")
			has := func(line string) {
				t.Helper()
				if !slices.Contains(lines, line) {
					t.Errorf("no line %q in\n%s", line, strings.Join(lines, "\n"))
				}
			}
			// config.yaml is read from the working directory; a static binary needs no libraries of its image.
			has("WORKDIR /app")
			has("COPY --from=build /out/service /app/service")
			has(`ENTRYPOINT ["/app/service"]`)
			has("ARG VERSION")
			has("ENV NEWSVC_VERSION=$VERSION")
			has("ENV CGO_ENABLED=0 GOCACHE=/cache/build GOMODCACHE=/cache/mod")
			public := stack.DefaultConfig().Server.Listen
			if spec.Kind == scaffold.Gateway {
				public = stack.DefaultConfig().HTTP.Listen
			}
			has("EXPOSE " + strconv.Itoa(portOf(t, public)) + " " + strconv.Itoa(portOf(t, stack.DefaultConfig().Admin.Listen)))
			config, dir := "config.yaml", "."
			if home := spec.Home(); home != "" { // built from the root of the repository
				config, dir = home+"/config.yaml", "./"+home
			}
			has("COPY " + config + " /app/config.yaml")
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, "-o /out/service "+dir) }) {
				t.Errorf("nothing builds %q into /out/service", dir)
			}
			if spec.Home() == "" {
				for ignored := range strings.FieldsSeq(string(content(t, files, ".dockerignore"))) {
					if ok, err := path.Match(strings.TrimSuffix(ignored, "/"), "config.yaml"); ok || err != nil {
						t.Errorf(".dockerignore line %q hides config.yaml, or is no pattern: %v", ignored, err)
					}
				}
			}
		})
	}
}

func content(t *testing.T, files []scaffold.File, name string) []byte {
	t.Helper()
	for _, f := range files {
		if f.Path == name {
			return f.Content
		}
	}
	t.Fatalf("no file %q was rendered", name)
	return nil
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// One that is older than the image's would be told of faults of the standard library that the image does not have; and a
// go.mod that wants a newer one would have both fetch it at every run.
func TestImageAndCIUseOneGoThatIsNewEnough(t *testing.T) {
	t.Parallel()
	all := map[string]string{}
	for _, f := range render(t, kinds(t)["release"]) {
		all[f.Path] = string(f.Content)
	}
	image := regexp.MustCompile(`(?m)^FROM golang:([0-9.]+) `).FindStringSubmatch(all["Dockerfile"])
	ci := regexp.MustCompile(`(?m)^ +go-version: "([0-9.]+)"`).FindStringSubmatch(all[".github/workflows/ci.yml"])
	mod := regexp.MustCompile(`(?m)^go ([0-9.]+)$`).FindStringSubmatch(all["go.mod"])
	if image == nil || ci == nil || mod == nil {
		t.Fatalf("Dockerfile %q, ci.yml %q, go.mod %q", image, ci, mod)
	}
	if image[1] != ci[1] || version.Compare("go"+image[1], version.Lang("go"+mod[1])) < 0 {
		t.Errorf("the image has Go %s, CI %s, and go.mod wants %s", image[1], ci[1], mod[1])
	}
}
