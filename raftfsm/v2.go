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

	// mu guards watchers, by path. It is the last lock anybody takes.
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

// publish replaces the view, then wakes the watchers (I9). The FSM's goroutine
// calls it.
func (v *V2) publish(view *v2tree.View) {
	before := v.view.Swap(view)
	if view.Due() != before.Due() {
		signal(v.due)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.watchers) == 0 {
		return
	}
	events := view.Since(before.Index())
	if uint64(len(events)) < view.Index()-before.Index() { // an adopted database is that far ahead
		for at := range v.watchers {
			v.wakeLocked(at)
		}
	}
	for _, e := range events {
		v.tellLocked(e)
	}
}

// tellLocked wakes those who may want to hear of e; they look for themselves.
func (v *V2) tellLocked(e *v2tree.Event) {
	for at := e.Key; at != "/"; at = path.Dir(at) {
		v.wakeLocked(at)
	}
	v.wakeLocked("/")
	if !e.Removes() || !e.Node.Dir {
		return
	}
	for at := range v.watchers {
		if strings.HasPrefix(at, e.Key+"/") {
			v.wakeLocked(at)
		}
	}
}

func (v *V2) wakeLocked(at string) {
	for w := range v.watchers[at] {
		signal(w.wake)
	}
}

// V2Watcher is a cursor over the events of the keyspace. It belongs to one
// goroutine.
type V2Watcher struct {
	v2   *V2
	in   v2tree.Interest
	from uint64        // the index to go on from
	wake chan struct{} // holds one: there may be an event
}

// Watch begins to wait for events at path, and with recursive below it, from the
// index since on; 0 is what comes next. It is an error if what happened then is
// not known any more. Close must follow.
func (v *V2) Watch(path string, recursive bool, since uint64) (*V2Watcher, *v2tree.Error) {
	w := &V2Watcher{v2: v, in: v2tree.Interest{Path: path, Recursive: recursive}, from: since, wake: make(chan struct{}, 1)}
	v.mu.Lock()
	if v.watchers[path] == nil {
		v.watchers[path] = make(map[*V2Watcher]struct{})
	}
	v.watchers[path][w] = struct{}{}
	v.mu.Unlock()
	view := v.View() // whatever comes after it wakes w
	w.in.Live = view.Index()
	if since == 0 {
		w.from = w.in.Live + 1
	}
	if _, _, err := view.Next(w.in, w.from); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Start is the index at which the watcher began.
func (w *V2Watcher) Start() uint64 { return w.in.Live }

// Next waits for an event. The error is ctx's, or a *v2tree.Error: the watcher
// was left so far behind that events are not known any more.
func (w *V2Watcher) Next(ctx context.Context) (*v2tree.Event, error) {
	for {
		e, from, err := w.v2.View().Next(w.in, w.from)
		if err != nil {
			return nil, err
		}
		w.from = from
		if e != nil {
			return e, nil
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
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
