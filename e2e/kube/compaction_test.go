package kube

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// compactRevKey is where API servers agree on who compacts: its version is their
// clock, its value the compacted revision.
const compactRevKey = "compact_rev_key"

// The API server compacts by the clock of compact_rev_key, one version at a
// time. What was before is then gone, and everybody who asks for it is told so
// by 410 and can start afresh.
func TestAPIServerCompacts(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "compact")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	inParallel(t, 8, 50, func(i int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("map-%d", i)}}, metav1.CreateOptions{})
		return err
	})
	first, err := maps.List(ctx, metav1.ListOptions{Limit: 10})
	must(t, "first page", err)
	_, err = maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "map-1"}, Data: map[string]string{"k": "v"}}, metav1.UpdateOptions{})
	must(t, "update", err)

	compacted := compactedAbove(t, ctx, c, revision(t, first.ResourceVersion))

	_, err = c.Store.Client.Get(ctx, "any", clientv3.WithRev(compacted))
	must(t, "read the store at the compacted revision, which is legal", err)
	if _, err = c.Store.Client.Get(ctx, "any", clientv3.WithRev(compacted-1)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("read the store at revision %d, compacted at %d: got %v, want %v", compacted-1, compacted, err, rpctypes.ErrCompacted)
	}
	// The API server's caches keep their own snapshots. They learn of the
	// compaction from their watch of the key, and look every 15 s.
	until(t, ctx, 3*compactionInterval, "next page of the old list refused", func(ctx context.Context) error {
		_, err = maps.List(ctx, metav1.ListOptions{Limit: 10, Continue: first.Continue})
		if apierrors.IsResourceExpired(err) {
			return nil
		}
		return fmt.Errorf("got %v, want 410 Expired", err)
	})
	continueAfresh(t, ctx, c, namespace, err, len(first.Items))
	_, err = maps.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	wantExpired(t, "list at the old version", err)
	wantExpired(t, "watch of Events from the old version", watchFrom(ctx, c, namespace, first.ResourceVersion))
}

// compactedAbove follows compact_rev_key until it holds a revision of at least
// rev and the store has done it, and returns that revision.
func compactedAbove(t *testing.T, ctx context.Context, c *Cluster, rev int64) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 4*compactionInterval)
	defer cancel()
	start, err := c.Store.Client.Get(ctx, compactRevKey)
	must(t, "read "+compactRevKey, err)
	version, last := int64(0), int64(0)
	if len(start.Kvs) > 0 {
		version = start.Kvs[0].Version
	}
	moves := 0
	for answer := range c.Store.Client.Watch(ctx, compactRevKey, clientv3.WithRev(start.Header.Revision+1)) {
		must(t, "watch "+compactRevKey, answer.Err())
		for _, event := range answer.Events {
			value, err := strconv.ParseInt(string(event.Kv.Value), 10, 64)
			must(t, "value of "+compactRevKey, err)
			if event.Kv.Version != version+1 || value < last || value > event.Kv.ModRevision {
				t.Errorf("%s: version %d with value %d, written at %d, after version %d with value %d", compactRevKey, event.Kv.Version, value, event.Kv.ModRevision, version, last)
			}
			version, last = event.Kv.Version, value
			moves++
		}
		if moves < 2 || last <= rev {
			continue
		}
		// The key is written just before the compaction is asked for.
		until(t, ctx, compactionInterval, "compaction done", func(ctx context.Context) error {
			_, err := c.Store.Client.Get(ctx, "any", clientv3.WithRev(last-1))
			if errors.Is(err, rpctypes.ErrCompacted) {
				return nil
			}
			return fmt.Errorf("read at %d: %w", last-1, err)
		})
		return last
	}
	t.Fatalf("%s moved %d times and to %d: want twice and above %d", compactRevKey, moves, last, rev)
	return 0
}

// wantExpired wants 410 Gone, reason Expired.
func wantExpired(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("%s: got %v, want 410 Expired", what, err)
	}
}

// continueAfresh uses the token that comes with the refusal: the rest of the
// list, of today.
func continueAfresh(t *testing.T, ctx context.Context, c *Cluster, namespace string, refusal error, before int) {
	t.Helper()
	status := apierrors.APIStatus(nil)
	if !errors.As(refusal, &status) || status.Status().ListMeta.Continue == "" {
		t.Errorf("the refusal %v carries no token to go on with", refusal)
		return
	}
	rest, err := c.Client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{Continue: status.Status().ListMeta.Continue})
	must(t, "go on with the new token", err)
	whole, err := c.Client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	must(t, "list", err)
	if len(rest.Items)+before != len(whole.Items) {
		t.Errorf("%d before and %d after the refusal: want %d together", before, len(rest.Items), len(whole.Items))
	}
}

// watchFrom opens a watch of Events, which no cache serves, and returns what it
// is refused with.
func watchFrom(ctx context.Context, c *Cluster, namespace, version string) error {
	watcher, err := c.Client.CoreV1().Events(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		return apierrors.FromObject(event.Object)
	}
	return errors.New("the watch ended without a word")
}
