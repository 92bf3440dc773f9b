package watch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"limpet/sqlstore"
)

const (
	// maxControl bounds the control responses that wait to be sent; a client
	// that asks faster than it reads is made to wait.
	maxControl = 64
	// pullRevs and pullBytes bound one response; a revision is never split.
	pullRevs  = 1000
	pullBytes = 256 << 10
)

// Response is what to send next on a stream.
type Response struct {
	ID    int64 // the watcher's; -1 for none in particular
	Rev   int64 // store revision at or above all events
	Floor int64 // compaction floor, when Canceled because of one; else 0

	Created  bool
	Canceled bool
	Err      error // why a creation failed
	Fragment bool  // the watcher accepts fragments
	Events   []Event
}

// Event is one change and, if the watcher asked for it, the version before.
type Event struct {
	Row  *sqlstore.Row
	Prev *sqlstore.Row
}

// Stream is the watchers of one client stream. Next is called by one
// goroutine, the sender; everything else by any.
type Stream struct {
	hub *Hub

	// mu guards all fields below and those of the stream's watchers.
	mu       sync.Mutex
	watchers map[int64]*watcher
	// ended are the ids of watchers that a compaction ended. As in etcd the id
	// stays taken until the client cancels it.
	ended    map[int64]struct{}
	nextID   int64
	control  []Response
	ready    []*watcher // marked or behind, in turn
	progress int        // progress requests not answered yet
	closed   bool

	wake chan struct{} // holds one: there is something for Next
	room chan struct{} // holds one: control has room again
}

// NewStream returns an empty stream.
func (h *Hub) NewStream() *Stream {
	h.streams.Add(1)
	return &Stream{
		hub: h, watchers: make(map[int64]*watcher), ended: make(map[int64]struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
}

// Close cancels all watchers. Next returns ErrClosed from then on.
func (s *Stream) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	all := make([]*watcher, 0, len(s.watchers))
	for _, w := range s.watchers {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		s.forget(w)
	}
	s.hub.streams.Add(-1)
	signal(s.wake)
	signal(s.room)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Watch adds a watcher and queues the response that says so, before any of its
// events, or why not. It blocks while too many responses wait to be sent.
func (s *Stream) Watch(ctx context.Context, req Request) error {
	if err := s.waitRoom(ctx); err != nil {
		return err
	}
	rev := s.hub.source.Rev()
	if req.Start == 0 {
		req.Start = rev + 1 // what comes after the revision it is told of
	}
	w, err := s.add(req, rev)
	if err != nil {
		s.push(Response{ID: -1, Rev: rev, Created: true, Canceled: true, Err: err})
		return nil
	}
	if !s.hub.attach(w) {
		s.enqueue(w)
	}
	return nil
}

func (s *Stream) add(req Request, rev int64) (*watcher, error) {
	if span := req.Span; !span.Single && span.End != "" && span.End <= span.Key {
		return nil, ErrEmptySpan
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	id := req.ID
	if id == 0 {
		for s.takenLocked(s.nextID) {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	} else if s.takenLocked(id) {
		return nil, ErrDuplicateID
	}
	w := &watcher{req: req, id: id, stream: s, min: req.Start}
	s.watchers[id] = w
	s.hub.all.Add(1)
	s.hub.behind.Add(1)
	// The answer is queued before the first event can be.
	s.control = append(s.control, Response{ID: id, Rev: rev, Created: true})
	signal(s.wake)
	return w, nil
}

func (s *Stream) takenLocked(id int64) bool {
	_, ended := s.ended[id]
	return ended || s.watchers[id] != nil
}

// Reject queues the response to a creation that was refused before it reached
// the stream.
func (s *Stream) Reject(ctx context.Context, why error) error {
	if err := s.waitRoom(ctx); err != nil {
		return err
	}
	s.push(Response{ID: -1, Rev: s.hub.source.Rev(), Created: true, Canceled: true, Err: why})
	return nil
}

// Cancel removes a watcher and queues the response that says so; an unknown id
// is ignored.
func (s *Stream) Cancel(ctx context.Context, id int64) error {
	if err := s.waitRoom(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	w := s.watchers[id]
	_, ended := s.ended[id]
	delete(s.ended, id)
	s.mu.Unlock()
	switch {
	case w != nil:
		s.forget(w)
	case !ended:
		return nil
	}
	s.push(Response{ID: id, Rev: s.hub.source.Rev(), Canceled: true})
	return nil
}

// RequestProgress asks for a response that tells up to where every watcher of
// the stream has been told everything. It comes once that is so; without
// watchers, or while one waits for a revision to come, never (as in etcd).
func (s *Stream) RequestProgress() {
	s.mu.Lock()
	s.progress++
	s.mu.Unlock()
	signal(s.wake)
}

// periodicProgress queues a progress response for each watcher that asked for
// them, has all events, and got none since the last call. It runs on the
// sender's goroutine: nothing is half-way between taken and sent.
func (s *Stream) periodicProgress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	rev := s.hub.notified.Load()
	for _, id := range sortedIDs(s.watchers) {
		w := s.watchers[id]
		if !w.req.Progress {
			continue
		}
		if !w.told && w.attached && !w.queued && rev >= w.min-1 && len(s.control) < maxControl {
			s.control = append(s.control, Response{ID: w.id, Rev: rev})
		}
		w.told = false
	}
	if len(s.control) > 0 {
		signal(s.wake)
	}
}

func sortedIDs(m map[int64]*watcher) []int64 {
	ids := make([]int64, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Next returns what to send next, waiting for it. Each tick queues periodic
// progress responses; it may be nil.
func (s *Stream) Next(ctx context.Context, tick <-chan time.Time) (Response, error) {
	for {
		r, w, revs, err := s.take()
		if err != nil || r != nil {
			return deref(r), err
		}
		if w != nil {
			if resp, ok := s.pull(w, revs); ok {
				return resp, nil
			}
			continue
		}
		select {
		case <-s.wake:
		case <-tick:
			s.periodicProgress()
		case <-ctx.Done():
			return Response{}, ctx.Err()
		}
	}
}

func deref(r *Response) Response {
	if r == nil {
		return Response{}
	}
	return *r
}

// take picks the next piece of work: a control response, else the watcher
// whose turn it is with its noted revisions, else a progress response.
func (s *Stream) take() (*Response, *watcher, []int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, nil, ErrClosed
	}
	if len(s.control) > 0 {
		r := s.control[0]
		s.control = s.control[1:]
		signal(s.room)
		return &r, nil, nil, nil
	}
	for len(s.ready) > 0 {
		w := s.ready[0]
		s.ready = s.ready[1:]
		w.queued = false
		if w.gone {
			continue
		}
		n := min(len(w.pending), pullRevs)
		revs := w.pending[:n:n]
		w.pending = w.pending[n:]
		s.hub.waiting.Add(-int64(n))
		if len(w.pending) > 0 || w.overflow != 0 && n > 0 {
			s.enqueueLocked(w)
		}
		return nil, w, revs, nil
	}
	s.ready = nil
	return s.takeProgressLocked(), nil, nil, nil
}

// takeProgressLocked answers a progress request. Nothing is ready, so every
// attached watcher has been given all it was marked for, and the hub marks
// before it raises notified: all events up to the revision read first are out.
func (s *Stream) takeProgressLocked() *Response {
	if s.progress == 0 {
		return nil
	}
	rev := s.hub.notified.Load()
	for _, w := range s.watchers {
		if w.queued || len(w.pending) > 0 || !w.attached {
			return nil // its turn comes first, and wakes the sender
		}
	}
	for _, w := range s.watchers {
		if w.min > rev+1 { // it waits for the future
			s.progress = 0
			return nil
		}
	}
	if len(s.watchers) == 0 {
		s.progress = 0
		return nil
	}
	s.progress--
	return &Response{ID: -1, Rev: rev}
}

// pull builds the response for w: from the revisions noted, or from history.
// Revisions taken come first even if the hub has sent the watcher back to
// history since: it will read from behind them.
func (s *Stream) pull(w *watcher, revs []int64) (Response, bool) {
	s.mu.Lock()
	attached, overflow := w.attached, w.overflow
	s.mu.Unlock()
	if len(revs) == 0 {
		if !attached {
			return s.catchUp(w)
		}
		if overflow != 0 {
			s.hub.detach(w, overflow)
		}
		return Response{}, false
	}
	commits := s.hub.source.Recent(revs)
	resp := Response{ID: w.id, Fragment: w.req.Fragment}
	bytes := 0
	for i, c := range commits {
		if c == nil || bytes > pullBytes {
			// No longer in memory, or enough for one response: the rest is
			// read from history, or in the next turn.
			if c == nil {
				s.hub.detach(w, revs[i])
			} else {
				s.putBack(w, revs[i:])
			}
			break
		}
		var err error
		if resp.Events, bytes, err = s.collect(w, c, resp.Events, bytes); err != nil {
			return s.broken(w, err)
		}
		resp.Rev = c.Rev
	}
	return s.finish(w, resp)
}

// putBack returns revisions that were taken and not used. A watcher that was
// sent back to history meanwhile reads them there.
func (s *Stream) putBack(w *watcher, revs []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone {
		return
	}
	if !w.attached {
		w.min = revs[0]
		s.enqueueLocked(w)
		return
	}
	s.hub.waiting.Add(int64(len(revs)))
	w.pending = append(slices.Clip(revs), w.pending...)
	s.enqueueLocked(w)
}

// catchUp reads the next stretch of history for a watcher that is behind.
func (s *Stream) catchUp(w *watcher) (Response, bool) {
	s.mu.Lock()
	from := w.min
	s.mu.Unlock()
	to := s.hub.notified.Load()
	if from > to {
		if !s.hub.attach(w) {
			s.enqueue(w)
		}
		return Response{}, false
	}
	commits, through, err := s.hub.source.History(w.req.Span, from, to)
	if errors.Is(err, sqlstore.ErrCompacted) {
		s.forget(w)
		s.mu.Lock()
		s.ended[w.id] = struct{}{}
		s.mu.Unlock()
		return Response{ID: w.id, Canceled: true, Floor: s.hub.source.Floor()}, true
	}
	if err != nil {
		return s.broken(w, err)
	}
	resp := Response{ID: w.id, Rev: through, Fragment: w.req.Fragment}
	for _, c := range commits {
		if resp.Events, _, err = s.collect(w, c, resp.Events, 0); err != nil {
			return s.broken(w, err)
		}
	}
	s.mu.Lock()
	w.min = through + 1
	s.mu.Unlock()
	if !s.hub.attach(w) {
		s.enqueue(w)
	}
	return s.finish(w, resp)
}

// broken ends a watcher because the disk cannot be read: better than an event
// left out, or one without the version before.
func (s *Stream) broken(w *watcher, err error) (Response, bool) {
	s.forget(w)
	return Response{ID: w.id, Canceled: true, Err: err}, true
}

func (s *Stream) collect(w *watcher, c *sqlstore.Commit, events []Event, bytes int) ([]Event, int, error) {
	for i := range c.Rows {
		row := &c.Rows[i]
		if !w.wants(row) {
			continue
		}
		ev := Event{Row: row}
		if w.req.PrevKV && row.Create != c.Rev {
			// Absent when it is compacted already, as in etcd.
			var err error
			if ev.Prev, err = s.hub.source.Previous(row.Key, c.Rev); err != nil {
				return nil, 0, err
			}
		}
		events = append(events, ev)
		bytes += len(row.Key) + len(row.Value)
	}
	return events, bytes, nil
}

func (s *Stream) finish(w *watcher, resp Response) (Response, bool) {
	if len(resp.Events) == 0 {
		return resp, false
	}
	s.hub.events.Add(int64(len(resp.Events)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone {
		return resp, false
	}
	w.told = true
	w.min = max(w.min, resp.Rev+1)
	resp.Rev = max(resp.Rev, s.hub.notified.Load())
	return resp, true
}

// mark notes a commit at w and wakes the sender. Called with Hub.mu held for
// reading.
func (s *Stream) mark(w *watcher, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone || !w.attached {
		return
	}
	n := len(w.pending)
	w.note(rev)
	if added := len(w.pending) - n; added > 0 {
		s.hub.waiting.Add(int64(added))
		s.enqueueLocked(w)
	}
}

func (s *Stream) enqueue(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueueLocked(w)
}

func (s *Stream) enqueueLocked(w *watcher) {
	if w.queued || w.gone {
		return
	}
	w.queued = true
	s.ready = append(s.ready, w)
	signal(s.wake)
}

// forget removes w from the stream and the hub.
func (s *Stream) forget(w *watcher) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone {
		return
	}
	w.gone = true
	if w.attached {
		h.index.remove(w)
	} else {
		h.behind.Add(-1)
	}
	h.all.Add(-1)
	h.waiting.Add(-int64(len(w.pending)))
	w.pending = nil
	delete(s.watchers, w.id)
}

func (s *Stream) push(r Response) {
	s.mu.Lock()
	s.control = append(s.control, r)
	s.mu.Unlock()
	signal(s.wake)
}

func (s *Stream) waitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		closed, full := s.closed, len(s.control) >= maxControl
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case !full:
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
