package sqlstore

import (
	"database/sql/driver"
)

// historyRows and historyBytes bound one call of History; a revision is never
// split, so a large transaction may exceed them.
const (
	historyRows  = 1000
	historyBytes = 256 << 10
)

// Span names the keys [Key, End); an empty End means all from Key on, Single
// the one key.
type Span struct {
	Key, End string
	Single   bool
}

// Contains reports whether key lies in the span.
func (p Span) Contains(key string) bool {
	if p.Single {
		return key == p.Key
	}
	return key >= p.Key && (p.End == "" || key < p.End)
}

// History returns commits of the revisions [from, to], ascending, holding at
// least all rows in span (others may be among them), and the revision through
// which the answer is complete: call again from there on. from must be at or
// above the floor, else ErrCompacted; to must be published.
func (s *Store) History(span Span, from, to int64) (commits []*Commit, through int64, err error) {
	s.mu.RLock()
	first := s.tail.first(s.current.Load())
	if from >= first {
		through = s.recent(from, to, &commits)
		s.mu.RUnlock()
		return commits, through, s.checkFloor(from)
	}
	s.mu.RUnlock()
	// Everything below the tail is flushed (I3), so the file holds it.
	commits, through, err = s.readHistory(span, from, min(to, first-1))
	if err != nil {
		return nil, 0, err
	}
	return commits, through, s.checkFloor(from)
}

func (s *Store) checkFloor(from int64) error {
	if from < s.floor.Load() {
		return ErrCompacted
	}
	return nil
}

func (s *Store) recent(from, to int64, commits *[]*Commit) (through int64) {
	n, bytes := 0, int64(0)
	for rev := from; rev <= to; rev++ {
		if n >= historyRows || bytes >= historyBytes {
			return rev - 1
		}
		c := s.tail.commit(rev)
		*commits = append(*commits, c)
		n += len(c.Rows)
		bytes += c.size()
	}
	return to
}

// Recent returns the commits of revs that the tail still holds; nil in the
// place of one that it does not.
func (s *Store) Recent(revs []int64) []*Commit {
	out := make([]*Commit, len(revs))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, rev := range revs {
		out[i] = s.tail.commit(rev)
	}
	return out
}

func (s *Store) readHistory(span Span, from, to int64) (commits []*Commit, through int64, err error) {
	lo, hi := int64(MakeID(from, 0)), int64(MakeID(to+1, 0))
	sql, args := sqlScanFrom, []driver.Value{lo, hi, []byte(span.Key)}
	switch {
	case span.Single:
		sql = sqlScanKey
	case span.End != "":
		sql, args = sqlScanRange, append(args, []byte(span.End))
	case span.Key == "" || span.Key == "\x00":
		sql, args = sqlScanRows, args[:2]
	}
	r, err := s.borrow()
	if err != nil {
		return nil, 0, err
	}
	defer s.giveBack(r)
	through = to
	n, bytes := 0, int64(0)
	var c *Commit
	err = r.conn.query(sql, rowCols, func(cols []driver.Value) error {
		row := rowOf(cols)
		if c == nil || c.Rev != row.ID.Rev() {
			if n >= historyRows || bytes >= historyBytes {
				through = c.Rev
				return errStop
			}
			c = &Commit{Rev: row.ID.Rev()}
			commits = append(commits, c)
		}
		c.Rows = append(c.Rows, *row)
		n++
		bytes += row.size()
		return nil
	}, args...)
	return commits, through, err
}

// Previous returns the version of key just before revision rev: nil if the key
// was absent then, or if that is below the compaction floor.
func (s *Store) Previous(key string, rev int64) (*Row, error) {
	row, err := View{s, rev - 1}.Get(key)
	if IsCompacted(err) {
		return nil, nil
	}
	return row, err
}
