package kube

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	events     = schema.GroupVersionResource{Version: "v1", Resource: "events"}
)

// seen is one event as a watcher got it. Deletions carry no version here: the
// one who deletes is not told the revision of it.
type seen struct {
	kind    watch.EventType
	name    string
	version string
}

func (s seen) String() string { return fmt.Sprintf("%s %s@%s", s.kind, s.name, s.version) }

// Many watchers follow the same few objects while those are created, patched
// and deleted from several sides. Each sees each change once and in the order
// of revisions; so does one that comes later and resumes in the middle.
// ConfigMaps come out of the API server's cache. Events are not cached: each of
// their watchers is a watch of the store's own.
func TestWatchersSeeEachChangeOnceAndInOrder(t *testing.T) {
	for _, resource := range []schema.GroupVersionResource{configMaps, events} {
		t.Run(resource.Resource, func(t *testing.T) {
			c, ctx := story(t)
			namespace := newNamespace(t, ctx, c, "watch")
			objects := c.Dynamic.Resource(resource).Namespace(namespace)
			start, err := objects.List(ctx, metav1.ListOptions{})
			must(t, "list", err)

			const watchers = 10
			logs := make([]<-chan []seen, watchers)
			for i := range logs {
				logs[i] = follow(t, ctx, objects, start.GetResourceVersion(), 8)
			}
			want := changeObjects(t, ctx, objects, namespace, 8, 40)
			for i := range logs {
				sameEvents(t, fmt.Sprintf("watcher %d", i), <-logs[i], want)
			}

			middle := want[len(want)/2]
			rest := <-follow(t, ctx, objects, middle.version, 8)
			sameEvents(t, "watcher resumed after "+middle.String(), rest, want[len(want)/2+1:])
		})
	}
}

// changeObjects has one goroutine per object create it, patch it and delete it,
// and returns what was acknowledged, in the order of revisions, deletions last.
func changeObjects(t *testing.T, ctx context.Context, objects dynamic.ResourceInterface, namespace string, n, patches int) []seen {
	t.Helper()
	var mu sync.Mutex // guards acknowledged
	var acknowledged []seen
	note := func(kind watch.EventType, object *unstructured.Unstructured) {
		mu.Lock()
		defer mu.Unlock()
		acknowledged = append(acknowledged, seen{kind, object.GetName(), object.GetResourceVersion()})
	}
	names := make([]string, n)
	inParallel(t, n, n, func(i int) error {
		names[i] = fmt.Sprintf("object-%d", i)
		created, err := objects.Create(ctx, changeable(namespace, names[i]), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		note(watch.Added, created)
		for k := range patches {
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{"k":"%d"}}}`, k)
			patched, err := objects.Patch(ctx, names[i], types.MergePatchType, patch, metav1.PatchOptions{})
			if err != nil {
				return err
			}
			note(watch.Modified, patched)
		}
		return nil
	})
	sort.Slice(acknowledged, func(i, j int) bool {
		return revision(t, acknowledged[i].version) < revision(t, acknowledged[j].version)
	})
	for _, name := range names {
		must(t, "delete", objects.Delete(ctx, name, metav1.DeleteOptions{}))
		acknowledged = append(acknowledged, seen{kind: watch.Deleted, name: name})
	}
	return acknowledged
}

// changeable is an object that is valid as a ConfigMap and as an Event.
func changeable(namespace, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"metadata":       map[string]any{"name": name, "namespace": namespace},
		"involvedObject": map[string]any{"namespace": namespace, "name": name},
	}}
}

// follow watches from a version on until so many objects were deleted, and then
// delivers all it saw. It stops short if the versions are not rising.
func follow(t *testing.T, ctx context.Context, objects dynamic.ResourceInterface, version string, deletions int) <-chan []seen {
	t.Helper()
	watcher, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
	must(t, "watch from "+version, err)
	log := make(chan []seen, 1)
	// Owner: the story; ends with the last deletion, or with the story's context,
	// which ends the watch.
	go func() {
		defer watcher.Stop()
		var all []seen
		last := int64(0)
		for event := range watcher.ResultChan() {
			object, ok := event.Object.(*unstructured.Unstructured)
			if !ok || event.Type == watch.Error {
				t.Errorf("watch from %s: %s %v", version, event.Type, event.Object)
				break
			}
			rev := revisionOf(object)
			if rev < last || (rev == last && event.Type != watch.Bookmark) {
				t.Errorf("watch from %s: %s %s at %d comes after %d", version, event.Type, object.GetName(), rev, last)
			}
			last = rev
			if event.Type == watch.Bookmark || object.GetName() == rootCertificate {
				continue
			}
			one := seen{event.Type, object.GetName(), object.GetResourceVersion()}
			if event.Type == watch.Deleted {
				one.version = ""
				deletions--
			}
			if all = append(all, one); deletions == 0 {
				break
			}
		}
		log <- all
	}()
	return log
}

// revisionOf reads an object's version, 0 if it is none.
func revisionOf(object *unstructured.Unstructured) int64 {
	var rev int64
	_, _ = fmt.Sscan(object.GetResourceVersion(), &rev)
	return rev
}

// sameEvents fails the test at the first event that differs.
func sameEvents(t *testing.T, who string, got, want []seen) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: event %d of %d: got %v, want %v", who, i, len(want), got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: got %d events, want %d", who, len(got), len(want))
	}
}

// A watcher of something quiet learns by bookmarks how far the store has moved,
// though nothing of its own changed. The API server knows that only from the
// store's progress notifications.
func TestBookmarksFollowTheStore(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "bookmark")
	// Nobody touches PriorityLevelConfigurations after the start; so their cache
	// hears of other writes by progress notifications alone.
	quiet := c.Dynamic.Resource(schema.GroupVersionResource{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Resource: "prioritylevelconfigurations"})
	list, err := quiet.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	must(t, "list from cache", err)
	loud, err := c.Client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "loud"},
	}, metav1.CreateOptions{})
	must(t, "write something else", err)

	// A bookmark comes two seconds before a watch with a time limit ends.
	seconds := int64(12)
	watcher, err := quiet.Watch(ctx, metav1.ListOptions{
		ResourceVersion: list.GetResourceVersion(), AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	must(t, "watch", err)
	defer watcher.Stop()
	var bookmarks []string
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if event.Type != watch.Bookmark || !ok {
			t.Fatalf("got %s %v, want bookmarks only", event.Type, event.Object)
		}
		bookmarks = append(bookmarks, object.GetResourceVersion())
		if revisionOf(object) >= revision(t, loud.ResourceVersion) {
			return
		}
	}
	t.Fatalf("bookmarks %v never reached %s, which was written elsewhere", bookmarks, loud.ResourceVersion)
}
