package kube

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// onePod is the smallest Pod; nobody will ever run it.
func onePod() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "shell", Image: "example.invalid/shell:1"}}}
}

// Thousands of Pods wait for a scheduler that never comes. They are counted by
// label and by field, a part of them is patched, and all of them deleted.
func TestThousandsOfPods(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "pods")
	pods := c.Client.CoreV1().Pods(namespace)
	n := number(t, "LIMPET_E2E_PODS", 2000)
	const groups = 10
	inParallel(t, 16, n, func(i int) error {
		_, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name:   fmt.Sprintf("pod-%05d", i),
				Labels: map[string]string{"group": fmt.Sprint(i % groups)},
			},
			Spec: onePod(),
		}, metav1.CreateOptions{})
		return err
	})

	pending, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Pending,spec.nodeName="})
	must(t, "list by field", err)
	if len(pending.Items) != n {
		t.Errorf("%d Pods are pending, want %d", len(pending.Items), n)
	}
	group := (n + groups - 1) / groups // the group of Pod 0 is never smaller than others
	must(t, "count group 0", podsNumber(ctx, c, namespace, "group=0", group))
	inParallel(t, 16, group, func(i int) error {
		patch := []byte(`{"metadata":{"labels":{"group":"moved"}}}`)
		_, err := pods.Patch(ctx, fmt.Sprintf("pod-%05d", i*groups), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	must(t, "count group 0 after the patch", podsNumber(ctx, c, namespace, "group=0", 0))
	must(t, "count the moved", podsNumber(ctx, c, namespace, "group=moved", group))

	// A Pod on no node has nobody to wait for: it goes at once.
	must(t, "delete all", pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	must(t, "count the rest", podsNumber(ctx, c, namespace, "", 0))
	left, err := c.Store.Revisions(ctx, "/registry/pods/"+namespace+"/")
	must(t, "read the store", err)
	if len(left) != 0 {
		t.Errorf("%d Pods left in the store", len(left))
	}
}
