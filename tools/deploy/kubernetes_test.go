package deploy_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// decode reads a manifest as strictly as the API server does with fieldValidation=Strict: unknown and doubled fields
// are errors.
func decode(text []byte) (objects []runtime.Object, err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// pod is that of the only Deployment of a project.
func pod(t *testing.T, p project) (*appsv1.Deployment, *corev1.PodSpec, *corev1.Container) {
	t.Helper()
	objects, err := decode([]byte(p.text(t, "deploy/k8s.yaml")))
	if err != nil {
		t.Fatalf("deploy/k8s.yaml: %v", err)
	}
	var found []*appsv1.Deployment
	for _, o := range objects {
		if d, ok := o.(*appsv1.Deployment); ok {
			found = append(found, d)
		}
	}
	if len(found) != 1 || len(found[0].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%d deployments, want one with one container", len(found))
	}
	spec := &found[0].Spec.Template.Spec
	return found[0], spec, &spec.Containers[0]
}

// behindAService reports whether requests come through a Service object.
func behindAService(t *testing.T, p project) bool {
	t.Helper()
	objects, err := decode([]byte(p.text(t, "deploy/k8s.yaml")))
	if err != nil {
		t.Fatalf("deploy/k8s.yaml: %v", err)
	}
	return slices.ContainsFunc(objects, func(o runtime.Object) bool { _, is := o.(*corev1.Service); return is })
}

func TestManifestIsWhatKubernetesReads(t *testing.T) {
	t.Parallel()
	for _, kind := range shipped() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := create(t, kind)
			d, spec, c := pod(t, p)
			for k, v := range d.Spec.Selector.MatchLabels {
				if d.Spec.Template.Labels[k] != v {
					t.Errorf("the selector wants %s=%s, the pods have %v", k, v, d.Spec.Template.Labels)
				}
			}
			if len(d.Spec.Selector.MatchLabels) == 0 || d.Name != p.name() {
				t.Errorf("deployment %q selects %v", d.Name, d.Spec.Selector.MatchLabels)
			}
			if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
				t.Error("enableServiceLinks is not false")
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Error("the pods get a token of the API server")
			}
			registers := strings.Contains(p.text(t, "main.go"), "app.Serve(")
			if at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "POD_IP" }); registers && (at < 0 ||
				c.Env[at].ValueFrom == nil || c.Env[at].ValueFrom.FieldRef == nil || c.Env[at].ValueFrom.FieldRef.FieldPath != "status.podIP") {
				t.Errorf("POD_IP, by which it registers, is not set: %+v", c.Env)
			}
			probes(t, c, registers)
		})
	}
}

// probes checks that Kubernetes asks what docs/decisions/0015 says, at ports that the container has.
func probes(t *testing.T, c *corev1.Container, grpc bool) {
	t.Helper()
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	for name, want := range map[string]struct {
		probe           *corev1.Probe
		health, handler string // at gRPC, and where that is not served at the admin port
	}{
		"startup":   {c.StartupProbe, "liveness", "/healthz"},
		"liveness":  {c.LivenessProbe, "liveness", "/healthz"},
		"readiness": {c.ReadinessProbe, "readiness", "/readyz"},
	} {
		p := want.probe
		switch {
		case p == nil:
			t.Errorf("there is no %s probe", name)
		case grpc && (p.GRPC == nil || p.GRPC.Port != ports["grpc"] || ports["grpc"] == 0 || p.GRPC.Service == nil || *p.GRPC.Service != want.health):
			t.Errorf("the %s probe is %+v, want gRPC's health of %s at port %d", name, p, want.health, ports["grpc"])
		case !grpc && (p.HTTPGet == nil || p.HTTPGet.Path != want.handler || p.HTTPGet.Port.StrVal != "admin"):
			t.Errorf("the %s probe is %+v, want %s of admin", name, p, want.handler)
		}
	}
	if ports["admin"] == 0 {
		t.Errorf("there is no port admin in %v", ports)
	}
}

func TestDecodingIsStrict(t *testing.T) {
	t.Parallel()
	text := create(t, "service").text(t, "deploy/k8s.yaml")
	for wrong, right := range map[string]string{
		"terminationGracePeriodSecond:": "terminationGracePeriodSeconds:", // a slip
		"replicas: two":                 "replicas: 2",
		"apiVersion: apps/v2":           "apiVersion: apps/v1",
		"imagee:":                       "image:",
	} {
		broken := strings.Replace(text, right, wrong, 1)
		if broken == text {
			t.Errorf("%q is not in the manifest", right)
		}
		if _, err := decode([]byte(broken)); err == nil {
			t.Errorf("%q passes", wrong)
		}
	}
}
