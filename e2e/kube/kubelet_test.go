package kube

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// running is what a kubelet reports of a Pod that has come up.
const running = `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`

// playKubelet reports every Pod of the namespace as running and ready until the
// story ends. Without it no rollout would ever proceed.
func playKubelet(t *testing.T, ctx context.Context, c *Cluster, namespace string) {
	t.Helper()
	pods := c.Client.CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	must(t, "list Pods", err)
	watcher, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(t, "watch Pods", err)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	// Owner: the story; the cleanup ends the watch and waits.
	go func() {
		defer close(done)
		for event := range watcher.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || pod.Status.Phase == corev1.PodRunning || pod.DeletionTimestamp != nil {
				continue
			}
			_, err := pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(running), metav1.PatchOptions{}, "status")
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				t.Errorf("report Pod %s: %v", pod.Name, err)
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		watcher.Stop()
		<-done
	})
}

// podsNumber is nil when the namespace holds exactly n Pods that fit the
// selector, and none on its way out.
func podsNumber(ctx context.Context, c *Cluster, namespace, selector string, n int) error {
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	leaving := 0
	for i := range pods.Items {
		if pods.Items[i].DeletionTimestamp != nil {
			leaving++
		}
	}
	if len(pods.Items) != n || leaving > 0 {
		return fmt.Errorf("%d Pods of %q, %d of them leaving: want %d", len(pods.Items), selector, leaving, n)
	}
	return nil
}
