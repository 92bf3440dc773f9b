package raftfsm

import (
	"context"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"limpet/v2tree"
)

// V2 is the keyspace of etcd's v2 API on this member, for those who read it and
// wait for what comes. It stays the same when another database is adopted. All
// methods may be called concurrently.
type V2 struct {
	view        atomic.Pointer[v2tree.View]
	found, lost atomic.Uint64 // what Get came to
	due         chan struct{} // holds one: something else is due next, or this member leads now

	// mu guards watchers, by path, and each change of view: whoever holds it sees
	// all that the watchers were told of. It is the last lock anybody takes.
	mu       sync.Mutex
	watchers map[string]map[*V2Watcher]struct{}
}

// V2Stats are what requests came to on this member since it started.
type V2Stats struct {
	v2tree.Counts
	Gets     v2tree.Count
	Watchers int
}

func newV2(view *v2tree.View) *V2 {
	v := &V2{due: make(chan struct{}, 1), watchers: make(map[string]map[*V2Watcher]struct{})}
	v.view.Store(view)
	return v
}

// V2 is the keyspace of etcd's v2 API.
func (n *Node) V2() *V2 { return n.fsm.v2 }

// View is the keyspace as of what is applied.
func (v *V2) View() *v2tree.View { return v.view.Load() }

// Get returns the node at a path and the view it is in, which tells what is in a
// directory, too.
func (v *V2) Get(path string) (*v2tree.View, *v2tree.Node, *v2tree.Error) {
	view := v.View()
	n, err := view.Get(path)
	if err != nil {
		v.lost.Add(1)
		return nil, nil, err
	}
	v.found.Add(1)
	return view, n, nil
}

// Stats returns the current figures.
func (v *V2) Stats() V2Stats {
	s := V2Stats{Counts: v.View().Counts(), Gets: v2tree.Count{Success: v.found.Load(), Fail: v.lost.Load()}}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, at := range v.watchers {
		s.Watchers += len(at)
	}
	return s
}

// publish replaces the view by one that is these events further, and tells the
// watchers (I9). The FSM's goroutine calls it.
func (v *V2) publish(view *v2tree.View, events []*v2tree.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.view.Swap(view)
	if view.Due() != before.Due() {
		signal(v.due)
	}
	if len(v.watchers) == 0 {
		return
	}
	if before.Index()+uint64(len(events)) != view.Index() {
		v.jumpLocked(before.Index())
		return
	}
	for _, e := range events {
		v.tellLocked(e)
	}
}

// jumpLocked has all watchers look into the history for what came after index:
// the view is of an adopted database.
func (v *V2) jumpLocked(index uint64) {
	for _, at := range v.watchers {
		for w := range at {
			if !w.behind {
				w.behind, w.from = true, max(w.from, index+1)
			}
			signal(w.wake)
		}
	}
}

// tellLocked tells those who want to hear of e: at its path, above, and where a
// directory is removed below.
func (v *V2) tellLocked(e *v2tree.Event) {
	for at := e.Key; at != "/"; at = path.Dir(at) {
		v.offerLocked(at, e)
	}
	v.offerLocked("/", e)
	if !e.Removes() || !e.Node.Dir {
		return
	}
	for at := range v.watchers {
		if strings.HasPrefix(at, e.Key+"/") {
			v.offerLocked(at, e)
		}
	}
}

func (v *V2) offerLocked(at string, e *v2tree.Event) {
	for w := range v.watchers[at] {
		if !w.behind && w.next == nil && e.Index() >= w.from && w.in.Wants(e) {
			w.next = e
			signal(w.wake)
		}
	}
}

// V2Watcher is a cursor over the events of the keyspace. It belongs to one
// goroutine. V2.mu guards what follows wake.
//
// A watcher that is behind looks into the history from the index from on. Once
// nothing is left there, the first event that it wants is noted as it comes:
// others may come and be forgotten in any number meanwhile. Whoever has taken that
// one is behind again.
type V2Watcher struct {
	v2   *V2
	in   v2tree.Interest
	wake chan struct{} // holds one: there may be an event

	behind bool
	from   uint64
	next   *v2tree.Event
}

// Watch begins to wait for events at path, and with recursive below it, from the
// index since on; 0 is what comes next. It is an error if what happened then is
// not known any more. Close must follow.
func (v *V2) Watch(path string, recursive bool, since uint64) (*V2Watcher, *v2tree.Error) {
	w := &V2Watcher{v2: v, in: v2tree.Interest{Path: path, Recursive: recursive}, from: since, behind: true, wake: make(chan struct{}, 1)}
	v.mu.Lock()
	defer v.mu.Unlock()
	view := v.View()
	w.in.Live = view.Index()
	if since == 0 {
		w.from = w.in.Live + 1
	}
	if _, _, err := view.Next(w.in, w.from); err != nil {
		return nil, err
	}
	if v.watchers[path] == nil {
		v.watchers[path] = make(map[*V2Watcher]struct{})
	}
	v.watchers[path][w] = struct{}{}
	return w, nil
}

// Start is the index at which the watcher began.
func (w *V2Watcher) Start() uint64 { return w.in.Live }

// Next waits for an event. The error is ctx's, or a *v2tree.Error: the watcher
// was left so far behind that events are not known any more.
func (w *V2Watcher) Next(ctx context.Context) (*v2tree.Event, error) {
	for {
		if e, err := w.take(); e != nil || err != nil {
			return e, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns the next event, nil if there is none yet.
func (w *V2Watcher) take() (*v2tree.Event, error) {
	w.v2.mu.Lock()
	defer w.v2.mu.Unlock()
	if e := w.next; e != nil {
		w.behind, w.from, w.next = true, e.Index()+1, nil
		return e, nil
	}
	if !w.behind {
		return nil, nil
	}
	e, from, err := w.v2.View().Next(w.in, w.from)
	if err != nil {
		return nil, err
	}
	w.behind, w.from = e != nil, from
	return e, nil
}

// Close ends the watcher.
func (w *V2Watcher) Close() {
	w.v2.mu.Lock()
	defer w.v2.mu.Unlock()
	at := w.v2.watchers[w.in.Path]
	if delete(at, w); len(at) == 0 {
		delete(w.v2.watchers, w.in.Path)
	}
}
