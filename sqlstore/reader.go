package sqlstore

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// reader is one read connection with its statements. No call holds a SQLite
// snapshot longer than one statement, so checkpoints are never starved.
type reader struct {
	pool *pool
	conn *conn
	get  *stmt
	scan *stmt
	// Of changes, see change.
	change, changeValue, valueSize *stmt
}

// pool is the read connections to one file. When the store changes to another
// file the pool is retired: idle readers are closed at once, those at work when
// they come back. Nobody waits for them, they read what has been true.
type pool struct {
	free    chan *reader
	retired chan struct{} // closed when another pool, or none, has taken its place
	reading *sync.WaitGroup
}

func (s *Store) openPool() (*pool, error) {
	p := &pool{
		free:    make(chan *reader, s.cfg.ReaderConns),
		retired: make(chan struct{}),
		reading: &s.reading,
	}
	for range s.cfg.ReaderConns {
		if err := p.add(s.cfg.Path); err != nil {
			p.retire()
			return nil, fmt.Errorf("open %s for reading: %w", s.cfg.Path, err)
		}
	}
	return p, nil
}

func (p *pool) add(path string) error {
	c, err := openReadOnly(path, readerPragmas)
	if err != nil {
		return err
	}
	r := &reader{pool: p, conn: c}
	for _, s := range []struct {
		to   **stmt
		sql  string
		cols int
	}{
		{&r.get, sqlGetRow, rowCols}, {&r.scan, sqlScanRows, rowCols},
		{&r.change, sqlChange, changeCols}, {&r.changeValue, sqlChangeValue, changeCols + 1}, {&r.valueSize, sqlValueSize, 1},
	} {
		if *s.to, err = c.prepare(s.sql, s.cols); err != nil {
			return errors.Join(err, c.close())
		}
	}
	p.reading.Add(1)
	p.free <- r
	return nil
}

// retire is called once, when nobody can find the pool any more but who has
// found it before.
func (p *pool) retire() {
	close(p.retired)
	p.drain()
}

// drain closes the idle readers of a retired pool. A failure to close a
// connection that has only read is nobody's loss.
func (p *pool) drain() {
	for {
		select {
		case r := <-p.free:
			_ = r.conn.close()
			p.reading.Done()
		default:
			return
		}
	}
}

func (s *Store) borrow() (*reader, error) {
	for {
		p := s.readers.Load()
		if p == nil {
			return nil, ErrClosed
		}
		select {
		case r := <-p.free:
			return r, nil
		case <-p.retired:
		}
	}
}

// giveBack drains after putting the reader back, retire after closing retired:
// one of the two closes it.
func (s *Store) giveBack(r *reader) {
	p := r.pool
	p.free <- r
	select {
	case <-p.retired:
		p.drain()
	default:
	}
}

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
