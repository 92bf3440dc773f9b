package kube

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// Events are the one resource without a cache, so that their pages are read off
// the store, pinned to the revision of the first; and the one that lives on a
// lease. They are listed in pages, and then expire: a watcher sees each of them
// go once, with its last value.
func TestEventsArePagedAndExpire(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "events")
	objects := c.Dynamic.Resource(events).Namespace(namespace)
	n := number(t, "LIMPET_E2E_EVENTS", 1500)
	start, err := objects.List(ctx, metav1.ListOptions{})
	must(t, "list", err)
	inParallel(t, 16, n, func(i int) error {
		_, err := objects.Create(ctx, changeable(namespace, fmt.Sprintf("event-%05d", i)), metav1.CreateOptions{})
		return err
	})
	listEventsInPages(t, ctx, objects, n)

	watcher, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: start.GetResourceVersion()})
	must(t, "watch", err)
	defer watcher.Stop()
	created, expired := map[string]string{}, map[string]string{} // versions by name
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			t.Fatalf("watch: %s %v", event.Type, event.Object)
		}
		name, version := object.GetName(), object.GetResourceVersion()
		switch {
		case event.Type == watch.Added && created[name] == "":
			created[name] = version
		case event.Type == watch.Deleted && created[name] != "" && expired[name] == "":
			expired[name] = version
			if involved, _, _ := unstructured.NestedString(object.Object, "involvedObject", "name"); involved != name {
				t.Errorf("%s expired with involvedObject %q: want its last value", name, involved)
			}
		default:
			t.Fatalf("watch: %s %s at %s does not fit: created at %q, expired at %q; %d created and %d expired before",
				event.Type, name, version, created[name], expired[name], len(created), len(expired))
		}
		if len(expired) == n {
			break
		}
	}
	if len(created) != n || len(expired) != n {
		t.Fatalf("the watch ended with %d created and %d expired: want %d", len(created), len(expired), n)
	}
	until(t, ctx, eventTTL, "no lease left behind by the events", func(ctx context.Context) error {
		left, err := c.Store.Revisions(ctx, "/registry/events/"+namespace+"/")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d keys left in the store", len(left))
		}
		return err
	})
}

// listEventsInPages wants n events in pages of one version, with the remaining
// count exact though one event is deleted after the first page.
func listEventsInPages(t *testing.T, ctx context.Context, objects dynamic.ResourceInterface, n int) {
	t.Helper()
	options := metav1.ListOptions{Limit: int64(n/8 + 1)}
	version, last, got := "", "", 0
	for page := 0; ; page++ {
		list, err := objects.List(ctx, options)
		must(t, fmt.Sprintf("page %d", page), err)
		if page == 0 {
			version = list.GetResourceVersion()
			must(t, "delete between pages", objects.Delete(ctx, fmt.Sprintf("event-%05d", n-1), metav1.DeleteOptions{}))
		}
		if list.GetResourceVersion() != version {
			t.Errorf("page %d is of version %s, the first of %s", page, list.GetResourceVersion(), version)
		}
		for _, item := range list.Items {
			if item.GetName() <= last {
				t.Errorf("page %d: %s comes after %s", page, item.GetName(), last)
			}
			last = item.GetName()
			got++
		}
		if list.GetContinue() == "" {
			break
		}
		if left := list.GetRemainingItemCount(); left == nil || *left != int64(n-got) {
			t.Errorf("page %d says %s remain, want %d", page, shown(left), n-got)
		}
		options.Continue = list.GetContinue()
	}
	if got != n {
		t.Errorf("pages held %d events, want %d", got, n)
	}
}
