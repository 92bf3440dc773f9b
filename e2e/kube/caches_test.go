package kube

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lists are served from the API server's cache and yet hold what was written a
// moment before. That needs the store's answer to progress requests; without it
// the API server would fall back to the store, and count that.
func TestConsistentListsComeFromTheCache(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "fresh")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	before, err := c.Metrics(ctx)
	must(t, "metrics", err)

	const n = 40
	for i := range n {
		created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("map-%d", i)}}, metav1.CreateOptions{})
		must(t, "create", err)
		list, err := maps.List(ctx, metav1.ListOptions{})
		must(t, "list", err)
		if got := contentOf(list.Items)[created.Name]; got != created.ResourceVersion {
			t.Fatalf("list %d holds %s at %q: want %s, which was acknowledged before", i, created.Name, got, created.ResourceVersion)
		}
	}

	after, err := c.Metrics(ctx)
	must(t, "metrics", err)
	const reads = "apiserver_watch_cache_consistent_read_total"
	grown := func(success, fallback string) float64 {
		labels := []string{"resource", "configmaps", "success", success, "fallback", fallback}
		return after.Sum(reads, labels...) - before.Sum(reads, labels...)
	}
	if got := grown("true", "false"); got < n {
		t.Errorf("%.0f consistent reads came from the cache, want %d", got, n)
	}
	if fell, failed := grown("true", "true"), grown("false", "true"); fell+failed > 0 {
		t.Errorf("%.0f consistent reads fell back to the store, %.0f failed: want none", fell, failed)
	}
}

// Caches are filled by RangeStream, and Events listed by it. The API server is
// killed and starts with empty caches: it streams thousands of objects back and
// serves exactly them.
func TestCachesAreFilledByRangeStream(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "stream")
	want := fillConfigMaps(t, ctx, c, namespace, number(t, "LIMPET_E2E_CONFIGMAPS", 3000))
	before := streams(t, ctx, c)

	must(t, "restart the API server", c.RestartAPIServer(ctx))

	// Version 0 is whatever the cache holds.
	cached, err := c.Client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	must(t, "list from the new cache", err)
	sameContent(t, "list from the new cache", contentOf(cached.Items), want)
	filled := streams(t, ctx, c)
	if filled <= before {
		t.Errorf("the store counts %.0f RangeStreams before the restart and %.0f after: want more", before, filled)
	}

	_, err = c.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	must(t, "list Events", err)
	if got := streams(t, ctx, c); got <= filled {
		t.Errorf("the store counts %.0f RangeStreams before a list of Events and %.0f after: want more", filled, got)
	}
	metrics, err := c.Metrics(ctx)
	must(t, "metrics", err)
	const lists = "apiserver_storage_list_duration_seconds_count"
	if metrics.Sum(lists, "streamed", "true", "resource", "events") == 0 {
		t.Error("the API server counts no streamed list of Events")
	}
	if got := metrics.Sum("etcd_request_duration_seconds_count", "operation", "listStream"); got == 0 {
		t.Error("the API server counts no listStream request")
	}
}

// streams reads how many RangeStreams the store has served.
func streams(t *testing.T, ctx context.Context, c *Cluster) float64 {
	t.Helper()
	metrics, err := c.Store.Metrics(ctx)
	must(t, "metrics of the store", err)
	if refused := metrics.Sum("grpc_server_handled_total", "grpc_method", "RangeStream", "grpc_code", "Unimplemented"); refused > 0 {
		t.Errorf("the store refused %.0f RangeStreams as unimplemented", refused)
	}
	return metrics.Sum("grpc_server_handled_total", "grpc_method", "RangeStream", "grpc_code", "OK")
}
