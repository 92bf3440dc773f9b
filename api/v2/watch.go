package v2

import (
	"encoding/json"
	"net/http"

	"limpet/v2tree"
)

// watch answers with the next event, or with all that come. It ends when the
// client does, or when a stream was left so far behind that events are not known
// any more; then the client asks again, and is told. It ends, too, when the client
// may not hear of it any more, where etcd goes on.
func (f *Face) watch(w http.ResponseWriter, r *http.Request, a *ask) {
	rules := f.cfg.Node.Rules().Revision()
	n, _ := f.cfg.Node.V2().View().Get(a.path) // a watch waits for what is not there, too
	if err := f.mayRead(r, a, n); err != nil {
		f.refuse(w, err)
		return
	}
	watcher, refused := f.cfg.Node.V2().Watch(a.path, a.recursive, a.since)
	if refused != nil {
		writeError(w, refused)
		return
	}
	defer watcher.Close()
	f.stamp(w, watcher.Start())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush() // the client learns that it is heard; a network that is gone ends r
	for {
		e, err := watcher.Next(r.Context())
		if err != nil {
			return
		}
		if now := f.cfg.Node.Rules().Revision(); now != rules {
			rules = now
			if f.mayRead(r, a, n) != nil {
				return
			}
		}
		switch {
		case a.slash && e.Key == a.path && f.mayRead(r, a, fileOf(e)) != nil:
			continue // there is, or was, a file where the caller may read a directory
		case json.NewEncoder(w).Encode(eventOnWire(e)) != nil || !a.stream:
			return
		}
		_ = control.Flush()
	}
}

// fileOf is what is at the event's key or what was there, the one that is a file
// if any is.
func fileOf(e *v2tree.Event) *v2tree.Node {
	if e.Prev != nil && !e.Prev.Dir {
		return e.Prev
	}
	return e.Node
}
