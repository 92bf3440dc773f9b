package kube

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// content is what a list held: resourceVersion by name.
type content map[string]string

// contentOf forgets everything about ConfigMaps but names and versions.
func contentOf(items []corev1.ConfigMap) content {
	got := make(content, len(items))
	for i := range items {
		got[items[i].Name] = items[i].ResourceVersion
	}
	return got
}

// sameContent fails the test with the first few differences.
func sameContent(t *testing.T, what string, got, want content) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	shown := 0
	for name := range want {
		if got[name] != want[name] && shown < 5 {
			t.Errorf("%s: %s: got version %q, want %q", what, name, got[name], want[name])
			shown++
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok && shown < 10 {
			t.Errorf("%s: %s: got version %q, want none", what, name, got[name])
			shown++
		}
	}
	t.Fatalf("%s: got %d objects, want %d", what, len(got), len(want))
}

// fillConfigMaps creates n ConfigMaps at once and returns all that the namespace
// then holds, as it was acknowledged.
func fillConfigMaps(t *testing.T, ctx context.Context, c *Cluster, namespace string, n int) content {
	t.Helper()
	var mu sync.Mutex // guards acknowledged
	acknowledged := make(content, n)
	inParallel(t, 16, n, func(i int) error {
		created, err := c.Client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("map-%05d", i)},
			Data:       map[string]string{"n": fmt.Sprint(i)},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		acknowledged[created.Name] = created.ResourceVersion
		return nil
	})
	root, err := c.Client.CoreV1().ConfigMaps(namespace).Get(ctx, rootCertificate, metav1.GetOptions{})
	must(t, "get the root certificate", err)
	acknowledged[root.Name] = root.ResourceVersion
	return acknowledged
}

// A few thousand ConfigMaps are created at once; then every way to list them
// tells the same, also about the past, while others write.
func TestThousandsOfConfigMaps(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "maps")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	n := number(t, "LIMPET_E2E_CONFIGMAPS", 3000)
	want := fillConfigMaps(t, ctx, c, namespace, n)
	versions := make(map[string]bool, n)
	for _, version := range want {
		versions[version] = true
	}
	if len(versions) != len(want) {
		t.Errorf("%d objects share %d versions: want a version each", len(want), len(versions))
	}

	whole, err := maps.List(ctx, metav1.ListOptions{})
	must(t, "list", err)
	sameContent(t, "consistent list", contentOf(whole.Items), want)
	fromStore(t, ctx, c, "/registry/configmaps/"+namespace+"/", want)
	sameContent(t, "streamed list", streamedList(t, ctx, c, namespace), want)

	listInPages(t, ctx, c, namespace, want)

	// The list made while all was there is still to be had, after the change.
	pinned, err := maps.List(ctx, metav1.ListOptions{
		ResourceVersion:      whole.ResourceVersion,
		ResourceVersionMatch: metav1.ResourceVersionMatchExact,
	})
	must(t, "list at an exact version", err)
	sameContent(t, "list at version "+whole.ResourceVersion, contentOf(pinned.Items), want)
	if pinned.ResourceVersion != whole.ResourceVersion {
		t.Errorf("list at an exact version: got %s, want %s", pinned.ResourceVersion, whole.ResourceVersion)
	}

	must(t, "delete all", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	until(t, ctx, time.Minute, "only a new root certificate left", func(ctx context.Context) error {
		left, err := c.Store.Revisions(ctx, "/registry/configmaps/"+namespace+"/")
		delete(left, rootCertificate)
		if err == nil && len(left) != 0 {
			err = fmt.Errorf("%d keys left in the store", len(left))
		}
		return err
	})
}

// listInPages reads all pages while somebody writes in between, and wants the
// state of the first page throughout, with the remaining count exact.
func listInPages(t *testing.T, ctx context.Context, c *Cluster, namespace string, want content) {
	t.Helper()
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	options := metav1.ListOptions{Limit: max(1, int64(len(want)/12))}
	got, version := content{}, ""
	for page := 0; ; page++ {
		list, err := maps.List(ctx, options)
		must(t, fmt.Sprintf("page %d", page), err)
		for name, rv := range contentOf(list.Items) {
			if _, twice := got[name]; twice {
				t.Errorf("page %d holds %s again", page, name)
			}
			got[name] = rv
		}
		if version == "" {
			version = list.ResourceVersion
			_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "zz-late"}}, metav1.CreateOptions{})
			must(t, "write between pages", err)
			must(t, "delete between pages", maps.Delete(ctx, "map-00002", metav1.DeleteOptions{}))
			must(t, "delete between pages", maps.Delete(ctx, fmt.Sprintf("map-%05d", len(want)-2), metav1.DeleteOptions{}))
		}
		if list.ResourceVersion != version {
			t.Errorf("page %d is of version %s, the first of %s", page, list.ResourceVersion, version)
		}
		if list.Continue == "" {
			break
		}
		if left := int64(len(want) - len(got)); list.RemainingItemCount == nil || *list.RemainingItemCount != left {
			t.Errorf("page %d says %s remain, want %d", page, shown(list.RemainingItemCount), left)
		}
		options.Continue = list.Continue
	}
	sameContent(t, "list in pages", got, want)
}

// shown prints a number that may be absent.
func shown(n *int64) string {
	if n == nil {
		return "none"
	}
	return fmt.Sprint(*n)
}

// fromStore compares with the store's own keys: a resourceVersion is the mod
// revision of its key.
func fromStore(t *testing.T, ctx context.Context, c *Cluster, prefix string, want content) {
	t.Helper()
	revisions, err := c.Store.Revisions(ctx, prefix)
	must(t, "read the store", err)
	got := make(content, len(revisions))
	for name, rev := range revisions {
		got[name] = fmt.Sprint(rev)
	}
	sameContent(t, "keys under "+prefix, got, want)
}

// streamedList reads a list as a watch (WatchList): all objects, then a bookmark
// that says it is complete.
func streamedList(t *testing.T, ctx context.Context, c *Cluster, namespace string) content {
	t.Helper()
	yes := true
	watcher, err := c.Client.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{
		SendInitialEvents:    &yes,
		AllowWatchBookmarks:  true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	must(t, "watch with initial events", err)
	defer watcher.Stop()
	got := content{}
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*corev1.ConfigMap)
		if !ok {
			t.Fatalf("watch with initial events: %s %v", event.Type, event.Object)
		}
		if object.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			return got
		}
		got[object.Name] = object.ResourceVersion
	}
	t.Fatalf("watch with initial events ended after %d objects, before its bookmark", len(got))
	return nil
}
