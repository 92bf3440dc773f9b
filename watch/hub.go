package watch

import (
	"errors"
	"sync"
	"sync/atomic"

	"limpet/sqlstore"
)

var (
	// ErrDuplicateID: the stream has a watcher of that id already.
	ErrDuplicateID = errors.New("watch: duplicate watch id on the stream")
	// ErrEmptySpan: the end of the span does not lie behind its key.
	ErrEmptySpan = errors.New("watch: watcher range is empty")
	// ErrClosed: the stream was closed.
	ErrClosed = errors.New("watch: stream is closed")
)

// Source is the history that watchers read; *sqlstore.Store is one.
type Source interface {
	// Rev is the newest published revision.
	Rev() int64
	// Floor is the compaction floor, -1 if there was no compaction.
	Floor() int64
	// Recent returns the commits of revs held in memory, nil for others.
	Recent(revs []int64) []*sqlstore.Commit
	// History returns commits of [from, to] with at least all rows of span,
	// complete through the revision returned; sqlstore.ErrCompacted if from
	// lies below the floor.
	History(span sqlstore.Span, from, to int64) ([]*sqlstore.Commit, int64, error)
	// Previous returns the version of key before revision rev, nil if there
	// was none or it is compacted.
	Previous(key string, rev int64) (*sqlstore.Row, error)
}

// Hub knows all watchers. All methods may be called concurrently, Notify and
// Jumped from one goroutine only. Lock order: Hub.mu before Stream.mu.
type Hub struct {
	source Source

	// mu guards index. Notify holds it for reading, attaching and detaching
	// watchers for writing.
	mu    sync.RWMutex
	index *index
	// notified is the newest revision that attached watchers were told of.
	// It changes under mu, held for reading by Notify and for writing by Jumped,
	// so it stands still for whoever else holds mu for writing.
	notified atomic.Int64

	streams atomic.Int64
	all     atomic.Int64 // watchers
	behind  atomic.Int64 // watchers not attached
	events  atomic.Int64 // events handed out
	waiting atomic.Int64 // revisions noted and not pulled yet
}

// NewHub returns a hub over source.
func NewHub(source Source) *Hub {
	h := &Hub{source: source, index: newIndex()}
	h.notified.Store(source.Rev())
	return h
}

// Notify marks the watchers that commits concern. The commits follow those of
// the call before, and can already be read from the source (I9).
func (h *Hub) Notify(commits []*sqlstore.Commit) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, c := range commits {
		if h.index.size > 0 {
			for i := range c.Rows {
				row := &c.Rows[i]
				h.index.match(row.Key, func(w *watcher) {
					if w.wants(row) {
						w.stream.mark(w, c.Rev)
					}
				})
			}
		}
		h.notified.Store(c.Rev)
	}
}

// Jumped tells that the source's revision has risen without Notify, since the
// store adopted another member's database: every attached watcher reads history
// from where it stands, and gets the compaction error if that lies below the
// new floor. It is called by the goroutine that calls Notify, before its next
// call, when the new state can be read.
func (h *Hub) Jumped() {
	h.mu.Lock()
	defer h.mu.Unlock()
	rev := h.source.Rev()
	// Progress answers read notified and look at the watchers under the
	// stream's mu only. While notified rises last, none of them can overtake
	// an event: at the old value nothing is missing, at the new one all who
	// lack something are behind.
	for _, w := range h.index.all() {
		h.sendBackLocked(w, rev)
	}
	h.notified.Store(rev)
}

// sendBackLocked makes an attached watcher behind, unless it waits for what comes
// after rev. What it has been given, or is being given by its sender, is all up
// to the first revision that waits to be pulled: min says less, it is not moved
// by commits that do not concern the watcher.
func (h *Hub) sendBackLocked(w *watcher, rev int64) {
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.min > rev {
		return
	}
	from := h.notified.Load() + 1
	switch {
	case len(w.pending) > 0:
		from = w.pending[0]
	case w.overflow != 0:
		from = w.overflow
	}
	h.detachLocked(w, max(w.min, from))
}

// Stats is a picture for metrics.
type Stats struct {
	Streams, Watchers, Behind int64
	Pending                   int64 // revisions noted at watchers and not pulled
	Events                    int64 // events handed out since start
}

// Stats returns the current figures.
func (h *Hub) Stats() Stats {
	return Stats{
		Streams: h.streams.Load(), Watchers: h.all.Load(), Behind: h.behind.Load(),
		Pending: h.waiting.Load(), Events: h.events.Load(),
	}
}

// attach makes the hub note commits at w from now on, if w has read all up to
// now; it reports whether it did.
func (h *Hub) attach(w *watcher) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	if w.gone || w.min <= h.notified.Load() {
		return w.gone
	}
	h.attachLocked(w)
	return true
}

func (h *Hub) attachLocked(w *watcher) {
	w.attached = true
	h.behind.Add(-1)
	h.index.add(w)
	signal(w.stream.wake) // a progress request may wait for this
}

// detach stops noting commits at w, which reads history from min on instead.
func (h *Hub) detach(w *watcher, min int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.gone {
		h.detachLocked(w, min)
	}
}

// detachLocked does it, with Hub.mu held for writing and the stream's mu.
func (h *Hub) detachLocked(w *watcher, min int64) {
	if w.attached {
		w.attached = false
		h.behind.Add(1)
		h.index.remove(w)
	}
	h.waiting.Add(-int64(len(w.pending)))
	w.pending, w.overflow, w.min = nil, 0, min
	w.stream.enqueueLocked(w)
}
