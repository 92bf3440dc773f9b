package kube

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// record is what the one writer of an object knows about it. A request that
// failed may have been done all the same, so there are two ends: what was
// acknowledged must be there, what was attempted may.
type record struct {
	created         bool  // the create was acknowledged
	version         int64 // last acknowledged revision
	acked           int   // last acknowledged content
	attempted       int   // last content sent
	deleteAttempted bool
	deleteAcked     bool
}

// writers are goroutines that create, update and delete ConfigMaps all the
// time, each its own. A writer leaves an object alone once a request about it
// has failed, and so never mixes up what it does not know.
type writers struct {
	maps    corev1client.ConfigMapInterface
	acks    atomic.Int64
	stopped atomic.Bool
	ended   sync.WaitGroup

	mu      sync.Mutex // guards records
	records map[string]*record
}

// startWriters starts n writers, which write until Stop or the end of ctx.
func startWriters(ctx context.Context, maps corev1client.ConfigMapInterface, n int) *writers {
	w := &writers{maps: maps, records: map[string]*record{}}
	for i := range n {
		// Owner: w; ends with ctx, or after the request under way when Stop is called,
		// which waits.
		w.ended.Go(func() { w.write(ctx, i) })
	}
	return w
}

// Stop ends the writers; then records may be read. No request is cancelled: the
// API server might carry it out after a list was read that is to be the last word.
func (w *writers) Stop() {
	w.stopped.Store(true)
	w.ended.Wait()
}

// write is one writer's life: mostly new objects and updates, some deletions.
func (w *writers) write(ctx context.Context, writer int) {
	random := rand.New(rand.NewPCG(1, uint64(writer)))
	var own []string
	for next := 0; ctx.Err() == nil && !w.stopped.Load(); {
		dice := random.IntN(100)
		if len(own) == 0 || dice < 45 {
			name := fmt.Sprintf("w%d-%05d", writer, next)
			next++
			if w.create(ctx, name) == nil {
				own = append(own, name)
				continue
			}
			pause(ctx)
			continue
		}
		i := random.IntN(len(own))
		var err error
		if dice < 85 {
			err = w.update(ctx, own[i])
		} else {
			err = w.delete(ctx, own[i])
		}
		if err != nil || dice >= 85 {
			own[i] = own[len(own)-1]
			own = own[:len(own)-1]
		}
		if err != nil {
			pause(ctx)
		}
	}
}

// pause keeps a writer from asking a store that is away as fast as it can.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pollInterval):
	}
}

// of returns the record of name, new if need be.
func (w *writers) of(name string) *record {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.records[name] == nil {
		w.records[name] = &record{}
	}
	return w.records[name]
}

// create writes an object for the first time, with content 0.
func (w *writers) create(ctx context.Context, name string) error {
	r := w.of(name)
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": "0"}}
	created, err := w.maps.Create(ctx, object, metav1.CreateOptions{})
	if err == nil {
		r.created = true
		r.version, err = strconv.ParseInt(created.ResourceVersion, 10, 64)
		w.acks.Add(1)
	}
	return err
}

// update writes the next content on top of the version last acknowledged.
func (w *writers) update(ctx context.Context, name string) error {
	r := w.of(name)
	r.attempted++
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: fmt.Sprint(r.version)},
		Data:       map[string]string{"n": fmt.Sprint(r.attempted)},
	}
	updated, err := w.maps.Update(ctx, object, metav1.UpdateOptions{})
	if err == nil {
		r.acked = r.attempted
		r.version, err = strconv.ParseInt(updated.ResourceVersion, 10, 64)
		w.acks.Add(1)
	}
	return err
}

// delete removes the object for good: names are not used again.
func (w *writers) delete(ctx context.Context, name string) error {
	r := w.of(name)
	r.deleteAttempted = true
	err := w.maps.Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil {
		r.deleteAcked = true
		w.acks.Add(1)
	}
	return err
}

// check compares what is there with what was acknowledged and attempted. To be
// called after Stop.
func (w *writers) check(t *testing.T, items []corev1.ConfigMap) {
	t.Helper()
	found := make(map[string]*corev1.ConfigMap, len(items))
	for i := range items {
		found[items[i].Name] = &items[i]
		if name := items[i].Name; w.records[name] == nil && name != rootCertificate {
			t.Errorf("%s is there, and nobody wrote it", name)
		}
	}
	unknown := 0
	for name, r := range w.records {
		if !r.created || r.acked != r.attempted || r.deleteAttempted != r.deleteAcked {
			unknown++
		}
		if problem := r.problem(found[name]); problem != "" {
			t.Errorf("%s %s; known of it: %+v", name, problem, *r)
		}
	}
	t.Logf("%d objects written, %d requests acknowledged, %d objects with a request of unknown outcome", len(w.records), w.acks.Load(), unknown)
}

// problem says what is wrong with the object as found (nil: not found).
func (r *record) problem(object *corev1.ConfigMap) string {
	if object == nil {
		if r.created && !r.deleteAttempted {
			return "is not there, though acknowledged"
		}
		return ""
	}
	if r.deleteAcked {
		return "is there, though its deletion was acknowledged"
	}
	version, _ := strconv.ParseInt(object.ResourceVersion, 10, 64)
	content, err := strconv.Atoi(object.Data["n"])
	switch {
	case err != nil || content < r.acked || content > r.attempted:
		return fmt.Sprintf("holds %q, want %d to %d", object.Data["n"], r.acked, r.attempted)
	case version < r.version:
		return fmt.Sprintf("is at version %d, want %d or newer", version, r.version)
	case r.created && content == r.acked && version != r.version:
		return fmt.Sprintf("is at version %d with the content acknowledged at %d", version, r.version)
	}
	return ""
}
