package sqlstore

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
)

// reader is one read connection with its statements. No call holds a SQLite
// snapshot longer than one statement, so checkpoints are never starved.
type reader struct {
	conn *conn
	get  *stmt
	scan *stmt
}

func (s *Store) openReaders() (err error) {
	s.readers = make(chan *reader, s.cfg.ReaderConns)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeReaders())
		}
	}()
	for range s.cfg.ReaderConns {
		c, err := openConn(s.cfg.Path, readerPragmas)
		if err != nil {
			return fmt.Errorf("open %s for reading: %w", s.cfg.Path, err)
		}
		r := &reader{conn: c}
		s.readers <- r
		if r.get, err = c.prepare(sqlGetRow, rowCols); err != nil {
			return err
		}
		if r.scan, err = c.prepare(sqlScanRows, rowCols); err != nil {
			return err
		}
	}
	return nil
}

// closeReaders waits for each reader to come back and closes it.
func (s *Store) closeReaders() error {
	var errs []error
	for range len(s.readers) {
		errs = append(errs, (<-s.readers).conn.close())
	}
	return errors.Join(errs...)
}

func (s *Store) borrow() (*reader, error) {
	select {
	case <-s.keeper.done:
		return nil, ErrClosed
	default:
	}
	select {
	case r := <-s.readers:
		return r, nil
	case <-s.keeper.done:
		return nil, ErrClosed
	}
}

func (s *Store) giveBack(r *reader) { s.readers <- r }

func rowOf(cols []driver.Value) *Row {
	r := &Row{ID: ID(cols[0].(int64)), Create: cols[2].(int64), Version: cols[3].(int64), Lease: cols[4].(int64)}
	key, _ := cols[1].([]byte)
	r.Key = stringOf(key)
	r.Value, _ = cols[5].([]byte)
	return r
}

// missing names a row still to be read and where it goes.
type missing struct {
	id  ID
	pos int
}

// denseRatio: when the wanted rows lie so close that at most this many
// revisions pass per wanted row, one scan beats one seek per row.
const denseRatio = 2

// fetchChunk bounds how long one statement holds its snapshot.
const fetchChunk = 512

// fetch reads the missing rows into out. A row that is gone means that a
// compaction overtook the reader: ErrCompacted.
func (s *Store) fetch(want []missing, out []*Row) error {
	rest := want[:0]
	for _, m := range want {
		if r := s.cache.get(m.id); r != nil {
			out[m.pos] = r
		} else {
			rest = append(rest, m)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	slices.SortFunc(rest, func(a, b missing) int { return int(min(max(a.id-b.id, -1), 1)) })
	r, err := s.borrow()
	if err != nil {
		return err
	}
	defer s.giveBack(r)
	for chunk := range slices.Chunk(rest, fetchChunk) {
		if err := s.fetchChunk(r, chunk, out); err != nil {
			return err
		}
	}
	for _, m := range rest {
		if out[m.pos] == nil {
			return ErrCompacted
		}
	}
	return nil
}

func (s *Store) fetchChunk(r *reader, want []missing, out []*Row) error {
	first, last := want[0].id, want[len(want)-1].id
	if len(want) > 8 && last.Rev()-first.Rev() < denseRatio*int64(len(want)) {
		i := 0
		return r.scan.query(func(cols []driver.Value) error {
			for i < len(want) && int64(want[i].id) < cols[0].(int64) {
				i++
			}
			if i < len(want) && int64(want[i].id) == cols[0].(int64) {
				row := rowOf(cols)
				s.cache.add(row)
				out[want[i].pos] = row
			}
			return nil
		}, int64(first), int64(last)+1)
	}
	for _, m := range want {
		err := r.get.query(func(cols []driver.Value) error {
			row := rowOf(cols)
			s.cache.add(row)
			out[m.pos] = row
			return errStop
		}, int64(m.id))
		if err != nil {
			return err
		}
	}
	return nil
}
