package kube

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// newDeployment creates a Deployment named crab; its Pods carry app=crab.
func newDeployment(t *testing.T, ctx context.Context, c *Cluster, namespace string, replicas int32) {
	t.Helper()
	labels := map[string]string{"app": "crab"}
	_, err := c.Client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "crab"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: onePod()},
		},
	}, metav1.CreateOptions{})
	must(t, "create Deployment", err)
}

// patchDeployment sends a strategic merge patch to crab.
func patchDeployment(ctx context.Context, c *Cluster, namespace, patch string) error {
	_, err := c.Client.AppsV1().Deployments(namespace).Patch(ctx, "crab", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// A Deployment gets its ReplicaSet and Pods from the controller manager, is
// scaled up and down, rolled to another image, and deleted; the garbage
// collector takes what it owned.
func TestDeploymentIsScaledRolledAndCollected(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "deploy")
	playKubelet(t, ctx, c, namespace)
	newDeployment(t, ctx, c, namespace, 5)
	deploymentSettles(t, ctx, c, namespace, 5)

	for _, replicas := range []int{12, 4} {
		must(t, "scale", patchDeployment(ctx, c, namespace, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)))
		deploymentSettles(t, ctx, c, namespace, replicas)
	}

	must(t, "roll", patchDeployment(ctx, c, namespace,
		`{"spec":{"template":{"spec":{"containers":[{"name":"shell","image":"example.invalid/shell:2"}]}}}}`))
	deploymentSettles(t, ctx, c, namespace, 4)
	sets, err := c.Client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	must(t, "list ReplicaSets", err)
	if len(sets.Items) != 2 {
		t.Errorf("after one roll there are %d ReplicaSets, want 2", len(sets.Items))
	}
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	must(t, "list Pods", err)
	for _, pod := range pods.Items {
		if image := pod.Spec.Containers[0].Image; image != "example.invalid/shell:2" {
			t.Errorf("Pod %s has image %s after the roll", pod.Name, image)
		}
	}

	foreground := metav1.DeletePropagationForeground
	must(t, "delete", c.Client.AppsV1().Deployments(namespace).Delete(ctx, "crab", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	until(t, ctx, time.Minute, "all collected", func(ctx context.Context) error {
		for _, resource := range []string{"deployments", "replicasets", "pods"} {
			left, err := c.Store.Revisions(ctx, "/registry/"+resource+"/"+namespace+"/")
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("%s left: %v", resource, left)
			}
		}
		return nil
	})
}

// deploymentSettles waits until the status of crab and the Pods agree on so many
// up-to-date, available replicas.
func deploymentSettles(t *testing.T, ctx context.Context, c *Cluster, namespace string, replicas int) {
	t.Helper()
	until(t, ctx, time.Minute, fmt.Sprintf("Deployment with %d replicas", replicas), func(ctx context.Context) error {
		crab, err := c.Client.AppsV1().Deployments(namespace).Get(ctx, "crab", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s, want := crab.Status, int32(replicas)
		if s.ObservedGeneration != crab.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
			return fmt.Errorf("generation %d, status %+v", crab.Generation, s)
		}
		return podsNumber(ctx, c, namespace, "app=crab", replicas)
	})
}
