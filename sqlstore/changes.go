package sqlstore

import (
	"cmp"
	"database/sql/driver"
	"slices"
	"sort"
)

// Change is one version of a key as its history tells it. Value is nil unless it
// was asked for.
type Change struct {
	Row
	Time   int64 // the proposer's clock, Unix ms; 0: unknown
	Size   int64 // bytes of the value
	Before int64 // bytes of the value that it replaced; -1: there was none, or it is compacted
}

// Changes say which changes of keys are wanted.
type Changes struct {
	Span   Span
	From   int64 // revision; earlier ones are left out
	After  ID    // and those up to this one
	Limit  int   // at most so many; must be above 0
	Oldest bool  // the first ones, if there are more than Limit; else the last ones
	Values bool  // with values
}

// step is a change that was found in the index, and the one before it; 0: there is
// none.
type step struct{ id, before ID }

const (
	sqlChange      = `SELECT key, create_revision, version, lease, time, length(value) FROM revisions WHERE id = ?`
	sqlChangeValue = `SELECT key, create_revision, version, lease, time, length(value), value FROM revisions WHERE id = ?`
	sqlValueSize   = `SELECT length(value) FROM revisions WHERE id = ?`
	changeCols     = 6 // and the value
)

// Changes calls fn for the changes of keys up to the view's revision, in the order
// in which they happened, as far as compaction has left them, and reports whether
// the limit has kept others out. What a compaction would remove that has only
// been agreed on yet is left out already, so that all members answer the same.
// The key index knows which rows to read; memory is bounded by the limit and one
// value. ErrCompacted if a compaction overtakes the call.
func (v View) Changes(c Changes, fn func(*Change) error) (more bool, err error) {
	steps, more := v.steps(c)
	for _, st := range steps {
		change, err := v.s.change(st, c.Values)
		if err != nil {
			return more, err
		}
		if err := fn(change); err != nil {
			return more, err
		}
	}
	return more, nil
}

// steps finds the changes in the index, ascending.
func (v View) steps(c Changes) (found []step, more bool) {
	lo := max(c.After+1, MakeID(c.From, 0))
	cut := func() {
		slices.SortFunc(found, func(a, b step) int { return cmp.Compare(a.id, b.id) })
		n := len(found)
		switch {
		case n <= c.Limit:
			return
		case c.Oldest:
			found = found[:c.Limit]
		default:
			found = append(found[:0], found[n-c.Limit:]...)
		}
		more = true
	}
	floor := v.s.floor.Load()
	for from, left := c.Span.Key, true; left; {
		left = false
		n := 0
		v.s.mu.RLock()
		v.s.index.tree.Ascend(from, func(key string, e *entry) bool {
			if !c.Span.Contains(key) {
				return false
			}
			if n == indexChunk {
				from, left = key, true
				return false
			}
			n++
			found = e.steps(found, lo, v.rev, floor, c)
			if len(found) > 2*c.Limit { // memory is bounded, and so is the hold of the lock
				from, left = key+"\x00", true
				return false
			}
			return true
		})
		v.s.mu.RUnlock()
		if len(found) > 2*c.Limit {
			cut()
		}
	}
	cut()
	return found, more
}

// steps appends the changes of a key from id lo to revision rev that a compaction
// to floor leaves: one more than the limit at most.
func (e *entry) steps(found []step, lo ID, rev, floor int64, c Changes) []step {
	older := e.older()
	at := func(i int) mark {
		if i < len(older) {
			return older[i]
		}
		return e.head.mark()
	}
	kept := firstKept(len(older)+1, at, floor)
	begin := max(kept, sort.Search(len(older)+1, func(i int) bool { return at(i).id() >= lo }))
	end := sort.Search(len(older)+1, func(i int) bool { return at(i).id().Rev() > rev })
	if n := end - begin; n > c.Limit+1 && c.Oldest {
		end = begin + c.Limit + 1
	} else if n > c.Limit+1 {
		begin = end - c.Limit - 1
	}
	for i := begin; i < end; i++ {
		st := step{id: at(i).id()}
		if i > kept && !at(i-1).tombstone() {
			st.before = at(i - 1).id()
		}
		found = append(found, st)
	}
	return found
}

// change reads one change.
func (s *Store) change(st step, values bool) (*Change, error) {
	c, err := s.changeRow(st.id, values)
	if err != nil || st.before == 0 {
		return c, err
	}
	s.mu.RLock()
	before := s.tail.row(st.before)
	s.mu.RUnlock()
	if before != nil {
		c.Before = int64(len(before.Value))
		return c, nil
	}
	return c, s.readChange(st.before, func(r *reader) *stmt { return r.valueSize }, func(cols []driver.Value) { c.Before, _ = cols[0].(int64) })
}

func (s *Store) changeRow(id ID, values bool) (*Change, error) {
	s.mu.RLock()
	if row := s.tail.row(id); row != nil {
		c := &Change{Row: *row, Time: s.tail.commit(id.Rev()).Time, Size: int64(len(row.Value)), Before: -1}
		s.mu.RUnlock()
		if !values {
			c.Value = nil
		}
		return c, nil
	}
	s.mu.RUnlock()
	c := &Change{Row: Row{ID: id}, Before: -1}
	which := func(r *reader) *stmt { return r.change }
	if values {
		which = func(r *reader) *stmt { return r.changeValue }
	}
	return c, s.readChange(id, which, func(cols []driver.Value) {
		key, _ := cols[0].([]byte)
		c.Key = stringOf(key)
		c.Create, _ = cols[1].(int64)
		c.Version, _ = cols[2].(int64)
		c.Lease, _ = cols[3].(int64)
		c.Time, _ = cols[4].(int64)
		c.Size, _ = cols[5].(int64)
		if values {
			c.Value, _ = cols[changeCols].([]byte)
		}
	})
}

// readChange reads the row of id. One that is gone means that a compaction has
// overtaken the reader.
func (s *Store) readChange(id ID, which func(*reader) *stmt, fn func(cols []driver.Value)) error {
	r, err := s.borrow()
	if err != nil {
		return err
	}
	defer s.giveBack(r)
	found := false
	err = which(r).query(func(cols []driver.Value) error {
		found = true
		fn(cols)
		return errStop
	}, int64(id))
	if err == nil && !found {
		err = ErrCompacted
	}
	return err
}
