package kube

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A namespace is created, patched, filled and deleted; the controller manager
// empties it and takes the finalizer off, and the store keeps nothing of it.
func TestNamespaceLivesAndLeavesNothing(t *testing.T) {
	c, ctx := story(t)
	core := c.Client.CoreV1()
	name := newNamespace(t, ctx, c, "life")

	patch := []byte(`{"metadata":{"labels":{"tide":"low"}}}`)
	patched, err := core.Namespaces().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, "patch namespace", err)
	if got := patched.Labels["tide"]; got != "low" {
		t.Errorf("label after the patch: got %q, want low", got)
	}
	inParallel(t, 4, 20, func(i int) error {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("thing-%d", i)}
		if _, err := core.ConfigMaps(name).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := core.Secrets(name).Create(ctx, &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{})
		return err
	})

	must(t, "delete namespace", core.Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
	until(t, ctx, time.Minute, "namespace gone", func(ctx context.Context) error {
		still, err := core.Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("phase %s, conditions %v", still.Status.Phase, still.Status.Conditions)
	})
	for _, prefix := range []string{"configmaps", "secrets", "serviceaccounts", "namespaces"} {
		prefix = "/registry/" + prefix + "/" + name
		left, err := c.Store.Revisions(ctx, prefix)
		must(t, "read the store", err)
		if len(left) != 0 {
			t.Errorf("keys left under %s: %v", prefix, left)
		}
	}
}
