package sqlstore

import (
	"database/sql/driver"
	"math"
)

// blockRevs is how many revisions share an entry of times: what one search reads
// from disk at most, and 16 bytes of memory for each.
const blockRevs = 256

// noTime stands for a block in which no time is known.
const noTime = math.MaxInt64

// times says coarsely when revisions were proposed, so that the revision of a time
// is found without reading the whole file. Clocks jump, back after a power cut
// above all, so the times are in no order, and a binary search would be wrong;
// a block keeps the earliest time in it, which is true in any order. Guarded by
// Store.mu.
type times struct {
	blocks []timeBlock // ascending by first
	last   int64       // newest revision added
}

type timeBlock struct {
	first    int64 // its first revision; it ends where the next one begins
	revs     int
	earliest int64 // Unix ms; noTime: none is known
}

// add notes when rev was proposed, Unix ms, 0 if that is not known. Revisions come
// in ascending order, and may come again.
func (t *times) add(rev, unixMilli int64) {
	if rev == t.last {
		return
	}
	t.last = rev
	if n := len(t.blocks); n == 0 || t.blocks[n-1].revs == blockRevs {
		t.blocks = append(t.blocks, timeBlock{first: rev, earliest: noTime})
	}
	b := &t.blocks[len(t.blocks)-1]
	b.revs++
	if unixMilli > 0 {
		b.earliest = min(b.earliest, unixMilli)
	}
}

// candidate is the newest run of revisions [lo, hi], up to rev, that may hold one
// of a time not later than unixMilli.
func (t *times) candidate(rev, unixMilli int64) (lo, hi int64, ok bool) {
	end := int64(math.MaxInt64)
	for i := len(t.blocks) - 1; i >= 0; i-- {
		b := t.blocks[i]
		if b.first <= rev && b.earliest <= unixMilli {
			return b.first, min(end, rev), true
		}
		end = b.first - 1
	}
	return 0, 0, false
}

// dropBelow forgets what only speaks of revisions below floor.
func (t *times) dropBelow(floor int64) {
	n := 0
	for n+1 < len(t.blocks) && t.blocks[n+1].first <= floor {
		n++
	}
	if n > 0 {
		t.blocks = append([]timeBlock(nil), t.blocks[n:]...)
	}
}

// Moment is a revision, and when it was proposed.
type Moment struct {
	Rev  int64
	Time int64 // the proposer's clock, Unix ms; 0: unknown
}

const (
	sqlTimeBefore = `SELECT id, time FROM revisions WHERE id >= ? AND id < ? AND time <= ? AND time > 0 ORDER BY id DESC LIMIT 1`
	sqlTimeFrom   = `SELECT id, time FROM revisions WHERE id >= ? ORDER BY id LIMIT 1`
)

// AsOf is the newest revision, from the floor up to the view's, whose proposer's
// clock showed unixMilli or less; false if there is none. Without any, it is the one
// with which the store was opened if that was before, its time unknown. It reads no
// values, and the times of 256 revisions for each run of them that a clock gone wrong
// makes look older than it is.
func (v View) AsOf(unixMilli int64) (Moment, bool, error) {
	s := v.s
	for rev := v.rev; ; {
		s.mu.RLock()
		lo, hi, ok := s.index.times.candidate(rev, unixMilli)
		s.mu.RUnlock()
		lo = max(lo, s.floor.Load())
		if !ok || hi < lo {
			m, ok := s.sinceOpen(v.rev, unixMilli)
			return m, ok, nil
		}
		m, ok, err := s.timeIn(lo, hi, unixMilli)
		if ok || err != nil {
			return m, ok, err
		}
		rev = lo - 1
	}
}

// sinceOpen is the revision with which the store was opened, for a time since then:
// after a restore or an import, no revision has a time until the first write.
func (s *Store) sinceOpen(rev, unixMilli int64) (Moment, bool) {
	ok := unixMilli >= s.opened.Time && s.opened.Rev <= rev && s.opened.Rev >= s.floor.Load()
	if !ok {
		return Moment{}, false
	}
	return Moment{Rev: s.opened.Rev}, true
}

// timeIn is the newest of the revisions [lo, hi] with a time not later than
// unixMilli.
func (s *Store) timeIn(lo, hi, unixMilli int64) (m Moment, ok bool, err error) {
	s.mu.RLock()
	for ; hi >= lo; hi-- {
		c := s.tail.commit(hi)
		if c == nil {
			break
		}
		if c.Time > 0 && c.Time <= unixMilli {
			s.mu.RUnlock()
			return Moment{hi, c.Time}, true, nil
		}
	}
	s.mu.RUnlock()
	if hi < lo {
		return Moment{}, false, nil
	}
	// Everything below the tail is flushed (I3), so the file holds it.
	return s.readMoment(sqlTimeBefore, int64(MakeID(lo, 0)), int64(MakeID(hi+1, 0)), unixMilli)
}

func (s *Store) readMoment(sql string, args ...driver.Value) (m Moment, ok bool, err error) {
	r, err := s.borrow()
	if err != nil {
		return Moment{}, false, err
	}
	defer s.giveBack(r)
	err = r.conn.query(sql, 2, func(row []driver.Value) error {
		id, _ := row[0].(int64)
		m.Rev, ok = ID(id).Rev(), true
		m.Time, _ = row[1].(int64)
		return errStop
	}, args...)
	return m, ok, err
}

// From is the oldest change at or after rev: its revision and its time. Rev is 0 if
// there is none.
func (s *Store) From(rev int64) (Moment, error) {
	s.mu.RLock()
	first := s.tail.first(s.current.Load())
	c := s.tail.commit(max(rev, first))
	s.mu.RUnlock()
	var held Moment
	if c != nil {
		held = Moment{c.Rev, c.Time}
	}
	if rev >= first {
		return held, nil
	}
	m, ok, err := s.readMoment(sqlTimeFrom, int64(MakeID(rev, 0)))
	if err != nil || ok && (held.Rev == 0 || m.Rev < held.Rev) {
		return m, err
	}
	return held, nil
}
