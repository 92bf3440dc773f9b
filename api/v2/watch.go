package v2

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"time"
	"weak"

	"limpet/v2tree"
)

// takePatience is how long a client may take to take an event.
const takePatience = time.Minute

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
		case send(w, f.lines.of(e), takePatience) != nil || !a.stream:
			return
		}
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

// send writes and flushes. A client that has not taken the line after so long has
// no use for what follows.
func send(w http.ResponseWriter, l *line, patience time.Duration) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(patience))
	if _, err := w.Write(l.text); err != nil {
		return err
	}
	if err := control.Flush(); err != nil {
		return err
	}
	return control.SetWriteDeadline(time.Time{})
}

// line is an event as it goes out.
type line struct {
	event *v2tree.Event
	text  []byte
}

// lines remembers the line that was made last, as long as somebody sends it: all
// watchers of an event send the same bytes, so that many who do not take theirs
// hold one value, and not one each.
type lines struct {
	mu   sync.Mutex // guards last
	last weak.Pointer[line]
}

func (l *lines) of(e *v2tree.Event) *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := l.last.Value(); last != nil && last.event == e {
		return last
	}
	var text bytes.Buffer
	_ = json.NewEncoder(&text).Encode(eventOnWire(e)) // strings and numbers only
	made := &line{e, text.Bytes()}
	l.last = weak.Make(made)
	return made
}
