package deploy_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestNothingTakesTheLastInstance: neither a rollout nor nodes that are drained leave callers without one that is ready. A service
// whose data lives with one pod cannot have that, and says so by Recreate.
func TestNothingTakesTheLastInstance(t *testing.T) {
	t.Parallel()
	for _, kind := range shipped() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := create(t, kind)
			d, spec, _ := pod(t, p)
			replicas := 1
			if d.Spec.Replicas != nil {
				replicas = int(*d.Spec.Replicas)
			}
			if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				if kind != "examples/user-service" || replicas != 1 || !claims(spec) {
					t.Errorf("%d pods are ended before others start", replicas)
				}
				return
			}
			update := d.Spec.Strategy.RollingUpdate
			if replicas < 2 || update == nil || update.MaxUnavailable == nil || update.MaxSurge == nil {
				t.Fatalf("%d pods, rolled by %+v", replicas, update)
			}
			if away, surge := scaled(t, update.MaxUnavailable, replicas), scaled(t, update.MaxSurge, replicas); away != 0 || surge < 1 {
				t.Errorf("a rollout takes %d of %d pods away before new ones are ready, and starts %d", away, replicas, surge)
			}
			b := budget(t, p)
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				t.Errorf("the budget is for %v (%v), the pods have %v", b.Spec.Selector, err, d.Spec.Template.Labels)
			}
			if b.Spec.MinAvailable == nil || b.Spec.MaxUnavailable != nil {
				t.Fatalf("the budget is %+v, want minAvailable", b.Spec)
			}
			if least := scaled(t, b.Spec.MinAvailable, replicas); least < 1 || least >= replicas {
				t.Errorf("drained nodes leave %d of %d pods; none is too few, and all would never let a node go", least, replicas)
			}
		})
	}
}

func scaled(t *testing.T, v *intstr.IntOrString, of int) int {
	t.Helper()
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, true)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func budget(t *testing.T, p project) *policyv1.PodDisruptionBudget {
	t.Helper()
	objects, err := decode([]byte(p.text(t, "deploy/k8s.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if b, ok := o.(*policyv1.PodDisruptionBudget); ok {
			return b
		}
	}
	t.Fatal("there is no budget for disruptions")
	return nil
}

func claims(spec *corev1.PodSpec) bool {
	for _, v := range spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			return true
		}
	}
	return false
}

// TestPodsMayDoWhatTheyNeed: no root, nothing to write but volumes, no capability, and an amount of memory that they cannot exceed.
func TestPodsMayDoWhatTheyNeed(t *testing.T) {
	t.Parallel()
	for _, kind := range shipped() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			_, spec, c := pod(t, create(t, kind))
			own, all := c.SecurityContext, spec.SecurityContext
			if all == nil || all.RunAsNonRoot == nil || !*all.RunAsNonRoot || all.SeccompProfile == nil || all.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("the pod runs with %+v", all)
			}
			if own == nil || own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation || own.ReadOnlyRootFilesystem == nil || !*own.ReadOnlyRootFilesystem ||
				own.Capabilities == nil || len(own.Capabilities.Drop) != 1 || own.Capabilities.Drop[0] != "ALL" || len(own.Capabilities.Add) > 0 {
				t.Errorf("the container runs with %+v", own)
			}
			r := c.Resources
			if r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() || r.Limits.Memory().Cmp(*r.Requests.Memory()) < 0 {
				t.Errorf("it asks for %+v", r)
			}
			if !r.Limits.Cpu().IsZero() { // throttling is late answers
				t.Errorf("its CPU is limited to %v", r.Limits.Cpu())
			}
		})
	}
}
