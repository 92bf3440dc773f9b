package kube

import (
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/retry"
)

// Server-side apply: two owners of one field collide, until one insists.
func TestApplyCollidesUntilForced(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "apply")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	wish := func(water string) *corev1apply.ConfigMapApplyConfiguration {
		return corev1apply.ConfigMap("pool", namespace).WithData(map[string]string{"water": water})
	}

	first, err := maps.Apply(ctx, wish("salt"), metav1.ApplyOptions{FieldManager: "anna"})
	must(t, "apply something new", err)
	again, err := maps.Apply(ctx, wish("salt"), metav1.ApplyOptions{FieldManager: "anna"})
	must(t, "apply the same again", err)
	if again.ResourceVersion != first.ResourceVersion {
		t.Errorf("applying the same again wrote version %s after %s", again.ResourceVersion, first.ResourceVersion)
	}
	if _, err = maps.Apply(ctx, wish("fresh"), metav1.ApplyOptions{FieldManager: "bert"}); !apierrors.IsConflict(err) {
		t.Errorf("apply over another's field: got %v, want a conflict", err)
	}
	forced, err := maps.Apply(ctx, wish("fresh"), metav1.ApplyOptions{FieldManager: "bert", Force: true})
	must(t, "apply by force", err)
	if forced.Data["water"] != "fresh" || revision(t, forced.ResourceVersion) <= revision(t, first.ResourceVersion) {
		t.Errorf("by force: got %v at %s, want fresh after %s", forced.Data, forced.ResourceVersion, first.ResourceVersion)
	}
}

// Whoever writes on top of an old version is refused, and nothing is lost: many
// counters up of one number end at their sum.
func TestStaleVersionsAreRefused(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "stale")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	old, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": "0"},
	}, metav1.CreateOptions{})
	must(t, "create", err)
	if _, err := maps.Create(ctx, old.DeepCopy(), metav1.CreateOptions{}); err == nil {
		t.Error("create with a resourceVersion: got no error")
	}
	twin := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}}
	if _, err := maps.Create(ctx, twin, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create what exists: got %v, want AlreadyExists", err)
	}

	const workers, steps = 8, 25
	backoff := retry.DefaultRetry
	backoff.Steps = 1000
	inParallel(t, workers, workers*steps, func(int) error {
		return retry.RetryOnConflict(backoff, func() error {
			current, err := maps.Get(ctx, "counter", metav1.GetOptions{})
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(current.Data["n"])
			if err != nil {
				return err
			}
			current.Data["n"] = fmt.Sprint(n + 1)
			_, err = maps.Update(ctx, current, metav1.UpdateOptions{})
			return err
		})
	})
	last, err := maps.Get(ctx, "counter", metav1.GetOptions{})
	must(t, "get", err)
	if got, want := last.Data["n"], fmt.Sprint(workers*steps); got != want {
		t.Errorf("counted to %s, want %s", got, want)
	}

	old.Data["n"] = "-1"
	if _, err := maps.Update(ctx, old, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of version %s over %s: got %v, want a conflict", old.ResourceVersion, last.ResourceVersion, err)
	}
	precondition := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old.ResourceVersion}}
	if err := maps.Delete(ctx, "counter", precondition); !apierrors.IsConflict(err) {
		t.Errorf("delete of version %s: got %v, want a conflict", old.ResourceVersion, err)
	}
	precondition.Preconditions.ResourceVersion = &last.ResourceVersion
	must(t, "delete of the current version", maps.Delete(ctx, "counter", precondition))
}
