package sqlstore

import (
	"fmt"
	"time"
)

// Writer makes commits. One goroutine owns it (the raft FSM's). The life of a
// raft batch:
//
//	for each command: Begin, any Put, Delete, record change or Compact, End
//	then Publish(raft index)
//
// Until Publish nothing is visible to Views of other goroutines; the Writer's
// own View sees each change at once. Changes cannot fail or be taken back:
// whoever calls must have checked first (txn does).
type Writer struct {
	s     *Store
	rev   int64 // newest ended revision, >= Store.current
	floor int64 // newest floor, >= Store.floor
	time  int64
	open  *Commit

	done    []*Commit // ended since the last Publish
	records []recordChange
}

type recordChange struct {
	key  recordKey
	data []byte // nil: delete
}

// Begin starts the changes of one command, proposed at unixMilli by the
// proposer's clock.
func (w *Writer) Begin(unixMilli int64) { w.time = unixMilli }

// View sees the state including all changes made so far. Its revision is the
// one that End will return.
func (w *Writer) View() View {
	if w.open != nil {
		return View{w.s, w.rev + 1}
	}
	return View{w.s, w.rev}
}

// Floor is the compaction floor including an unpublished one.
func (w *Writer) Floor() int64 { return w.floor }

// Base is the revision before the changes of the command at hand.
func (w *Writer) Base() int64 { return w.rev }

// Put stores a new version of key. It keeps value and does not copy it.
func (w *Writer) Put(key string, value []byte, lease int64) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	v := version{create: w.rev + 1, version: 1, lease: lease}
	if e := w.s.index.get(key); e != nil {
		key = e.key // one copy of the key in memory
		if e.head.version != 0 {
			v.create, v.version = e.head.create, e.head.version+1
		}
	}
	if value == nil {
		value = []byte{} // a NULL in the file means tombstone
	}
	w.addLocked(key, v, value)
}

// Delete removes key; false if it was absent.
func (w *Writer) Delete(key string) bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.deleteLocked(key)
}

func (w *Writer) deleteLocked(key string) bool {
	e := w.s.index.get(key)
	if e == nil || e.head.version == 0 {
		return false
	}
	w.addLocked(e.key, version{}, nil)
	return true
}

func (w *Writer) addLocked(key string, v version, value []byte) {
	if w.open == nil {
		w.open = &Commit{Rev: w.rev + 1, Time: w.time}
		w.s.tail.append(w.open)
		w.s.index.times.add(w.open.Rev, w.time)
	}
	v.id = MakeID(w.open.Rev, len(w.open.Rows))
	prev := w.s.index.add(key, v)
	var prevID ID
	if prev.version != 0 {
		prevID = prev.id
	}
	w.open.Prev = append(w.open.Prev, prevID)
	w.open.Rows = append(w.open.Rows, Row{ID: v.id, Create: v.create, Version: v.version, Lease: v.lease, Key: key, Value: value})
}

// Changes is the number of changes since Begin.
func (w *Writer) Changes() int {
	if w.open == nil {
		return 0
	}
	return len(w.open.Rows)
}

// End closes the command's changes and returns the revision after them, which
// is unchanged if no key changed.
func (w *Writer) End() int64 {
	if w.open == nil {
		return w.rev
	}
	w.s.mu.Lock()
	w.s.tail.account(w.open)
	w.s.mu.Unlock()
	w.rev = w.open.Rev
	w.done = append(w.done, w.open)
	w.open = nil
	return w.rev
}

// SetRecord stores a record beside the keys, in the same flush.
func (w *Writer) SetRecord(kind, name string, data []byte) {
	w.records = append(w.records, recordChange{recordKey{kind, name}, data})
}

// DeleteRecord removes a record.
func (w *Writer) DeleteRecord(kind, name string) {
	w.records = append(w.records, recordChange{key: recordKey{kind, name}})
}

// Compact raises the floor to rev: ErrCompacted if it is there already,
// ErrFuture if rev has not happened. The rows go later, in slices; WaitCompacted
// waits for that.
func (w *Writer) Compact(rev int64) error {
	if rev <= w.floor {
		return ErrCompacted
	}
	if rev > w.rev {
		return ErrFuture
	}
	w.floor = rev
	return nil
}

// Publish makes all ended changes visible as the state at raft index, and
// returns their commits, ascending. It blocks while more than Config.MaxPending
// bytes wait for the disk.
func (w *Writer) Publish(index uint64) []*Commit {
	s := w.s
	done := w.done
	s.mu.Lock()
	for _, r := range w.records {
		s.staged.records[r.key] = r.data
		s.staged.pending += r.key.size() + int64(len(r.data))
	}
	if s.staged.since.IsZero() && index > s.applied.Load() {
		s.staged.since = time.Now()
	}
	s.current.Store(w.rev)
	s.applied.Store(index)
	compact := w.floor > s.floor.Load()
	if compact {
		s.floor.Store(w.floor)
	}
	pending := s.pendingLocked()
	s.mu.Unlock()
	w.done, w.records = nil, w.records[:0]
	s.arrivals.reached(index)

	if compact {
		s.keeper.wake(wakeCompact)
	}
	switch {
	case pending >= s.cfg.MaxPending:
		s.keeper.waitRoom()
	case pending >= s.cfg.FlushBytes:
		s.keeper.wake(wakeFlush)
	default:
		s.keeper.wake(wakeAge)
	}
	return done
}

// Bump lets revisions go on by so many above the newest one. All that was
// published must be on disk and out of memory (Config.TailBytes -1, WaitDurable). It
// refuses to pass MaxRevision.
// Whoever has seen revisions that this store never had mistakes new ones for them
// unless Forget comes after it.
func (w *Writer) Bump(by int64) error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.s.tail.commits) > 0 || len(w.done) > 0 {
		return fmt.Errorf("sqlstore: bump revision %d: %d commits are still in memory", w.rev, len(w.s.tail.commits)+len(w.done))
	}
	if by < 0 || by > MaxRevision-w.rev {
		return fmt.Errorf("sqlstore: revision %d cannot be raised by %d: the largest to begin with is %d", w.rev, by, int64(MaxRevision))
	}
	w.rev += by
	w.s.tail.flushed = w.rev
	return nil
}

// Forget raises the floor to the newest revision: whoever has seen others finds
// them compacted.
func (w *Writer) Forget() { w.floor = w.rev }
