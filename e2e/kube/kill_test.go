package kube

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// The store is killed (SIGKILL) in the middle of writes and started again, a few
// times over. All that was acknowledged is there afterwards, informers end with
// exactly what a fresh list shows, the controller manager goes on with its
// work, and Events written before the last kill still expire.
func TestStoreIsKilledUnderneath(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "kill")
	newDeployment(t, ctx, c, namespace, 3)
	configMaps := c.Client.CoreV1().ConfigMaps(namespace)
	informed := startInformer(t, ctx, c, namespace)
	writing := startWriters(ctx, configMaps, 8)
	t.Cleanup(writing.Stop)

	kills := number(t, "LIMPET_E2E_KILLS", 5)
	event := ""
	for round := range kills {
		moreAcks(t, ctx, c, writing, 200)
		event = fmt.Sprintf("before-kill-%d", round)
		_, err := c.Dynamic.Resource(events).Namespace(namespace).Create(ctx, changeable(namespace, event), metav1.CreateOptions{})
		must(t, "create an Event", err)
		highest := currentRevision(t, ctx, c)

		c.Store.Kill()
		must(t, "start the store again", c.Store.Start(ctx))

		if now := currentRevision(t, ctx, c); now < highest {
			t.Fatalf("round %d: the store is at revision %d, and was at %d before the kill", round, now, highest)
		}
		until(t, ctx, readyDeadline, "API server ready again", c.Ready)
		moreAcks(t, ctx, c, writing, 50)
		replicas := 4 + round
		until(t, ctx, time.Minute, "scale", func(ctx context.Context) error {
			return patchDeployment(ctx, c, namespace, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
		})
		until(t, ctx, time.Minute, "Pods after the kill", func(ctx context.Context) error {
			return podsNumber(ctx, c, namespace, "app=crab", replicas)
		})
	}
	writing.Stop()

	fresh, err := configMaps.List(ctx, metav1.ListOptions{})
	must(t, "list", err)
	writing.check(t, fresh.Items)
	want := contentOf(fresh.Items)
	fromStore(t, ctx, c, "/registry/configmaps/"+namespace+"/", want)
	until(t, ctx, time.Minute, "informer like a fresh list", func(context.Context) error {
		if got := informed.content(); !maps.Equal(got, want) {
			return fmt.Errorf("it holds %d objects that differ from the %d listed", len(got), len(want))
		}
		return nil
	})
	if !c.ManagerAlive() {
		t.Error("the controller manager has ended: it lost its Lease")
	}
	until(t, ctx, 4*eventTTL, "Events from before the kills expired", func(ctx context.Context) error {
		left, err := c.Store.Revisions(ctx, "/registry/events/"+namespace+"/before-kill-")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
}

// moreAcks waits until the writers have so many more requests acknowledged.
func moreAcks(t *testing.T, ctx context.Context, c *Cluster, w *writers, n int64) {
	t.Helper()
	goal := w.acks.Load() + n
	until(t, ctx, readyDeadline, fmt.Sprintf("%d more writes acknowledged", n), func(ctx context.Context) error {
		if got := w.acks.Load(); got < goal {
			return fmt.Errorf("%d of %d acknowledged, API server: %v", got, goal, c.Ready(ctx))
		}
		return nil
	})
}

// currentRevision asks the store itself.
func currentRevision(t *testing.T, ctx context.Context, c *Cluster) int64 {
	t.Helper()
	var rev int64
	until(t, ctx, time.Minute, "revision of the store", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		answer, err := c.Store.Client.Get(ctx, "any")
		if err == nil {
			rev = answer.Header.Revision
		}
		return err
	})
	return rev
}

// informed is a client's copy of the ConfigMaps of a namespace, kept by a
// SharedInformer through lists and watches.
type informed struct {
	store cache.Store

	mu   sync.Mutex // guards last
	last map[string]int64
}

// startInformer starts it and waits for its first list. It fails the test when
// an object ever goes back to an older version, or appears twice.
func startInformer(t *testing.T, ctx context.Context, c *Cluster, namespace string) *informed {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	in := &informed{store: informer.GetStore(), last: map[string]int64{}}
	handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { in.note(t, object, true) },
		UpdateFunc: func(_, object any) { in.note(t, object, false) },
		DeleteFunc: in.forget,
	})
	must(t, "listen to the informer", err)
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	until(t, ctx, time.Minute, "informer filled", func(context.Context) error {
		if !handle.HasSynced() {
			return fmt.Errorf("not synced")
		}
		return nil
	})
	return in
}

// note takes an add or an update. A relist may tell an update with the version
// known already.
func (in *informed) note(t *testing.T, object any, added bool) {
	one := object.(*corev1.ConfigMap)
	version, _ := strconv.ParseInt(one.ResourceVersion, 10, 64)
	in.mu.Lock()
	defer in.mu.Unlock()
	last, known := in.last[one.Name]
	if known == added || version < last {
		t.Errorf("informer: %s at %d (added: %v), known at %d (%v)", one.Name, version, added, last, known)
	}
	in.last[one.Name] = version
}

// forget takes a deletion; one that was missed comes as a tombstone.
func (in *informed) forget(object any) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch gone := object.(type) {
	case *corev1.ConfigMap:
		delete(in.last, gone.Name)
	case cache.DeletedFinalStateUnknown:
		_, name, _ := cache.SplitMetaNamespaceKey(gone.Key)
		delete(in.last, name)
	}
}

// content is what the informer holds now.
func (in *informed) content() content {
	got := content{}
	for _, object := range in.store.List() {
		one := object.(*corev1.ConfigMap)
		got[one.Name] = one.ResourceVersion
	}
	return got
}
