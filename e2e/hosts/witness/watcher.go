package witness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// rewatchPause keeps a Watcher from asking a member without a leader over and over.
const rewatchPause = 50 * time.Millisecond

// Watcher follows all keys below a prefix. When its watch ends it starts another
// where that one ended; until it ends, resuming is the client library's business.
type Watcher struct {
	name   string
	client *clientv3.Client
	prefix string
	leader bool
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards the fields below
	events []*mvccpb.Event
	last   int64
	grown  chan struct{} // closed and replaced with every response
}

// NewWatcher starts a Watcher of what comes after a revision. One that requires a leader is told when
// there is none.
func NewWatcher(name string, client *clientv3.Client, prefix string, after int64, requireLeader bool) *Watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{
		name:   name,
		client: client,
		prefix: prefix,
		leader: requireLeader,
		last:   after,
		cancel: cancel,
		done:   make(chan struct{}),
		grown:  make(chan struct{}),
	}
	// Owner: the Watcher; ends when Finish or Stop cancels ctx.
	go w.run(ctx)
	return w
}

func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	pace := time.NewTicker(rewatchPause)
	defer pace.Stop()
	for ctx.Err() == nil {
		w.watch(ctx)
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

func (w *Watcher) watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.leader {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	w.mu.Lock()
	next := w.last + 1
	w.mu.Unlock()
	for resp := range w.client.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithPrevKV()) {
		w.take(resp.Events)
	}
}

func (w *Watcher) take(events []*clientv3.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		w.events = append(w.events, (*mvccpb.Event)(e))
		w.last = max(w.last, e.Kv.ModRevision)
	}
	close(w.grown)
	w.grown = make(chan struct{})
}

// Stop ends the Watcher.
func (w *Watcher) Stop() {
	w.cancel()
	<-w.done
}

// Finish waits until the Watcher has been told of everything that concerns it in h, ends it, and
// lists what it was told wrong.
func (w *Watcher) Finish(ctx context.Context, h *History) []string {
	defer w.Stop()
	want := h.inRange(w.prefix, 1)
	if len(want) > 0 {
		if err := w.await(ctx, want[len(want)-1].Kv.ModRevision); err != nil {
			return []string{err.Error()}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	got := slices.DeleteFunc(slices.Clone(w.events), func(e *mvccpb.Event) bool { return e.Kv.ModRevision > h.To })
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !proto.Equal(got[i], want[i]) {
			return []string{fmt.Sprintf("watcher %s: of %d events, event %d is the first that is wrong: got %v, want %v",
				w.name, len(got), i, got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])}
		}
	}
	return nil
}

func (w *Watcher) await(ctx context.Context, rev int64) error {
	for {
		w.mu.Lock()
		last, grown := w.last, w.grown
		w.mu.Unlock()
		if last >= rev {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("watcher %s saw revision %d, want %d: %w", w.name, last, rev, context.Cause(ctx))
		}
	}
}
