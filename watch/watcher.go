package watch

import (
	"limpet/sqlstore"
)

// maxPending bounds the revisions noted at one watcher, 8 bytes each. A watcher
// that has more to come is sent to read history instead.
const maxPending = 4096

// Request says what to watch.
type Request struct {
	ID       int64 // chosen by the client; 0 lets the stream choose
	Span     sqlstore.Span
	Start    int64 // first revision wanted; 0 for those to come
	PrevKV   bool
	NoPut    bool
	NoDelete bool
	Progress bool // wants periodic progress responses
	Fragment bool // for the sender; the Hub only carries it
}

// watcher is a cursor. Its fields are guarded by its stream's mu, except those
// that never change.
type watcher struct {
	req    Request
	id     int64
	stream *Stream

	// min is the lowest revision still wanted: everything below was delivered
	// or is not asked for.
	min int64
	// pending are the revisions at or above min that touch the span, ascending:
	// what to pull. Used while attached.
	pending []int64
	// overflow is the first revision that found pending full, 0 if none did:
	// from there on the watcher must read history.
	overflow int64
	// attached: the hub notes each commit here. Otherwise the watcher is behind
	// and reads history from min on.
	attached bool
	// noted is the newest revision ever noted. The hub marks once for each row
	// of a commit, and the sender may pull between two rows: only this tells
	// that the revision is already on its way.
	noted  int64
	queued bool // on the stream's ready list
	gone   bool // canceled
	told   bool // got events since the last periodic progress
}

// note records that rev touches the watcher's keys.
func (w *watcher) note(rev int64) {
	if rev < w.min || rev <= w.noted {
		return
	}
	w.noted = rev
	switch {
	case w.overflow != 0:
	case len(w.pending) == maxPending:
		w.overflow = rev
	default:
		w.pending = append(w.pending, rev)
	}
}

// wants reports whether the row is an event for this watcher.
func (w *watcher) wants(row *sqlstore.Row) bool {
	if row.Tombstone() && w.req.NoDelete || !row.Tombstone() && w.req.NoPut {
		return false
	}
	return w.req.Span.Contains(row.Key)
}
