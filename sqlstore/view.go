package sqlstore

import "errors"

// View is the state at one revision. It is a value; it holds nothing and
// needs no closing. A view whose revision a compaction passes answers
// ErrCompacted. Safe for concurrent use.
type View struct {
	s   *Store
	rev int64
}

// View is the newest published state.
func (s *Store) View() View { return View{s, s.current.Load()} }

// At is the state at rev. ErrFuture if rev has not happened, ErrCompacted if
// it lies below the floor; the floor itself can be read.
func (s *Store) At(rev int64) (View, error) {
	if rev > s.current.Load() {
		return View{}, ErrFuture
	}
	if rev < s.floor.Load() {
		return View{}, ErrCompacted
	}
	return View{s, rev}, nil
}

// Rev is the view's revision.
func (v View) Rev() int64 { return v.rev }

// Store is the store the view looks at.
func (v View) Store() *Store { return v.s }

// RangeOptions bound what a Range returns.
type RangeOptions struct {
	Limit     int  // rows returned at most; 0 for all
	KeysOnly  bool // rows come without values
	CountOnly bool // no rows at all
	NoCount   bool // stop at the limit: Count is then the number of rows returned
}

// Range is the result of a read: rows in key order, and how many keys the
// whole range holds whatever the limit.
type Range struct {
	Rows  []*Row
	Count int
}

// End returns the exclusive end of the range that a request's key and
// range_end describe: a single key, [key, end), or all from key on (end is the
// single byte 0).
func End(key, rangeEnd []byte) (end string, single bool) {
	switch {
	case len(rangeEnd) == 0:
		return "", true
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		return "", false
	}
	return string(rangeEnd), false
}

// Get returns the version of key at the view's revision; nil if it is absent.
func (v View) Get(key string) (*Row, error) {
	s := v.s
	s.mu.RLock()
	e := s.index.get(key)
	if e == nil {
		s.mu.RUnlock()
		return nil, v.check()
	}
	ver, ok := e.at(v.rev)
	if !ok {
		s.mu.RUnlock()
		return nil, v.check()
	}
	row := s.tail.row(ver.id)
	s.mu.RUnlock()
	if row == nil {
		var out [1]*Row
		if err := s.fetch([]missing{{id: ver.id}}, out[:]); err != nil {
			return nil, err
		}
		row = out[0]
	}
	return row, v.check()
}

// check reports whether a compaction has passed the view meanwhile.
func (v View) check() error {
	if v.rev < v.s.floor.Load() {
		return ErrCompacted
	}
	return nil
}

// indexChunk is how many keys are walked under one hold of the lock: some
// tens of microseconds.
const indexChunk = 256

// Range reads [key, end); an empty end means all keys from key on.
func (v View) Range(key, end string, o RangeOptions) (Range, error) {
	var (
		res  Range
		want []missing
		from = key
		more = true
	)
	for more {
		from, more = v.walk(from, end, o, &res, &want)
	}
	if len(want) > 0 {
		if err := v.s.fetch(want, res.Rows); err != nil {
			return Range{}, err
		}
	}
	return res, v.check()
}

// walk visits the next keys from from on, under the lock, and says where to go
// on.
func (v View) walk(from, end string, o RangeOptions, res *Range, want *[]missing) (next string, more bool) {
	s := v.s
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	s.index.tree.Ascend(from, func(key string, e *entry) bool {
		if end != "" && key >= end {
			return false
		}
		if n == indexChunk {
			next, more = key, true
			return false
		}
		n++
		ver, ok := e.at(v.rev)
		if !ok {
			return true
		}
		full := o.Limit > 0 && len(res.Rows) >= o.Limit
		if full && o.NoCount {
			return false
		}
		res.Count++
		if o.CountOnly || full {
			return true
		}
		row := s.tail.row(ver.id)
		switch {
		case o.KeysOnly && ver.version != 0:
			row = &Row{ID: ver.id, Create: ver.create, Version: ver.version, Lease: ver.lease, Key: key}
		case row == nil:
			*want = append(*want, missing{ver.id, len(res.Rows)})
		}
		res.Rows = append(res.Rows, row)
		return true
	})
	return next, more
}

// head tells what the index knows of the newest version of key without reading
// the row; false if the key is absent. Only the Writer's goroutine may rely on
// it: for others the newest version may not be published yet.
func (v View) head(key string) (version, bool) {
	v.s.mu.RLock()
	defer v.s.mu.RUnlock()
	e := v.s.index.get(key)
	if e == nil {
		return version{}, false
	}
	return e.at(v.rev)
}

// Meta returns the metadata of key (its row without the value, unless the
// value is at hand) at the view's revision; nil if it is absent. At the newest
// revision it reads no row.
func (v View) Meta(key string) (*Row, error) {
	ver, ok := v.head(key)
	if !ok {
		return nil, v.check()
	}
	if ver.version == 0 {
		return v.Get(key)
	}
	return &Row{ID: ver.id, Create: ver.create, Version: ver.version, Lease: ver.lease, Key: key}, v.check()
}

// IsCompacted reports whether err says that a compaction passed the reader.
func IsCompacted(err error) bool { return errors.Is(err, ErrCompacted) }

// Past is the state at an earlier revision than the view's. ErrFuture if rev
// is later, ErrCompacted if it lies below the floor.
func (v View) Past(rev int64) (View, error) {
	if rev > v.rev {
		return View{}, ErrFuture
	}
	at := View{v.s, rev}
	return at, at.check()
}
