package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Adopt replaces the whole content of the store by the database at image, a
// complete and synced image of another member's store, in the same file system.
// Only the goroutine that owns the Writer may call it, between batches: nothing
// is open, nothing unpublished. What is published and not yet written is given
// up, since the image holds it.
//
// Readers go on meanwhile. Every member has the same rows under the same ids,
// so a View taken before stays right, or answers ErrCompacted if the image's
// floor has passed it, even the newest. An Image begun before ends as the
// database before.
//
// An image that is damaged, or older than the store, or no limpet database of
// this schema gets ErrImageRefused, and nothing has changed, the image
// included. Any other error may come from half-way: the image then no longer
// has its name, and Adopt, or AdoptFile before the next Open, with the same
// arguments goes on. If the store can only go on after closing it and opening
// it again, Err says so.
//
// The time goes into reading the image, 0.5 s for 100 MB of 100 000 rows
// (BenchmarkAdopt), and from the scan of its keys to the end memory holds two
// key indexes: 160 bytes a key more. The files change places between two steps
// of the keeper, in milliseconds.
func (s *Store) Adopt(image string) error {
	began := time.Now()
	a := adoption{path: s.cfg.Path, image: image, owner: s.cfg.Owner}
	ours := position{rev: s.Rev(), applied: s.Applied(), floor: s.Floor()}
	index, at, err := a.prepare(ours)
	if err != nil {
		return fmt.Errorf("adopt %s: %w", image, err)
	}
	if err := s.keeper.do(context.Background(), func() error { return s.keeper.adopt(a, index, at) }); err != nil {
		return fmt.Errorf("adopt %s: %w", image, err)
	}
	s.writer.rev, s.writer.floor = at.rev, at.floor
	s.arrivals.reached(at.applied)
	s.log.Info("adopted another member's database", "applied", at.applied, "rev", at.rev, "floor", at.floor,
		"behind", at.applied-ours.applied, "took", time.Since(began))
	return nil
}

// AdoptFile does the same to a store that is not open, or goes on where a crash
// ended an Adopt with the same arguments. If it had come to its end already,
// there is no image any more and nothing to do. A database at path that cannot
// be read is no reason to refuse an image.
func AdoptFile(path, image string, owner uint64) error {
	a := adoption{path: path, image: image, owner: owner}
	if err := a.replace(); err != nil {
		return fmt.Errorf("adopt %s: %w", image, err)
	}
	return nil
}

func (a adoption) replace() error {
	if err := settle(a.path); err != nil {
		return err
	}
	if done, err := a.done(); done || err != nil {
		return err
	}
	if _, _, err := a.prepare(positionOf(a.path)); err != nil {
		return err
	}
	if err := a.clear(); err != nil {
		return err
	}
	if _, err := a.moveIn(); err != nil {
		return err
	}
	return a.tidy()
}

// done reports whether no image is left and the database is there.
func (a adoption) done() (bool, error) {
	fresh, begun, err := a.waiting()
	if fresh || begun || err != nil {
		return false, err
	}
	there, err := exists(a.path)
	if err == nil && !there {
		err = fmt.Errorf("neither an image nor %s: %w", a.path, fs.ErrNotExist)
	}
	return there, err
}

// positionOf reads where a closed database stands; one that cannot tell stands
// at the beginning. As its only connection, it moves the WAL into the file.
func positionOf(path string) position {
	nowhere := position{rev: Initial, floor: -1}
	if there, err := exists(path); err != nil || !there {
		return nowhere
	}
	c, err := openConn(path, []string{"busy_timeout = 1000"})
	if err != nil {
		return nowhere
	}
	at, err := readPosition(c)
	if errors.Join(err, c.close()) != nil {
		return nowhere
	}
	return at
}

// prepare does all that leaves the database at path alone: it checks the image,
// takes it in and makes it our own. An image that a crash left half-way may
// have a WAL; it is checked when that has gone into the file.
func (a adoption) prepare(ours position) (*keyIndex, position, error) {
	if err := settle(a.path); err != nil {
		return nil, position{}, err
	}
	fresh, begun, err := a.waiting()
	switch {
	case err != nil:
		return nil, position{}, err
	case fresh:
		index, at, err := inspect(a.image, ours)
		if err != nil {
			return nil, at, err
		}
		if err := a.stage(); err != nil {
			return nil, at, err
		}
		return index, at, a.own()
	case begun:
		if err := a.own(); err != nil {
			return nil, position{}, err
		}
		return inspect(a.next(), ours)
	}
	return nil, position{}, fs.ErrNotExist
}

// adopt changes the files, the connections and the state in memory over to the
// image, at position at, of which index is the index. It is a step of the
// keeper: nothing else writes SQLite meanwhile, and no snapshot begins.
func (k *keeper) adopt(a adoption, index *keyIndex, at position) error {
	if k.lost != nil {
		return k.lost
	}
	if err := a.clear(); err != nil {
		return errors.Join(err, settle(a.path))
	}
	moved, err := a.moveIn()
	if !moved {
		return errors.Join(err, settle(a.path))
	}
	var (
		p       pen
		readers *pool
	)
	if err == nil {
		p, readers, err = k.s.openFiles()
	}
	if err != nil {
		k.lost = fmt.Errorf("%s has become another member's database, and the store has not: close it and open it again: %w", a.path, err)
		k.fail(k.lost)
		return k.lost
	}
	before := k.pen
	k.pen = p
	k.s.become(index, at, readers).retire()
	k.startOver(at)
	// This connection is to a file without a name: SQLite notices
	// (SQLITE_FCNTL_HAS_MOVED) and leaves the WAL beside the name alone.
	if err := errors.Join(before.conn.close(), a.tidy(), k.measure()); err != nil {
		k.s.log.Warn("the database adopted is in use; files of the one before may be left beside it until the next start", "error", err)
	}
	return nil
}

// openFiles opens the connections to the file that has come to be at the path.
func (s *Store) openFiles() (p pen, readers *pool, err error) {
	c, err := openConn(s.cfg.Path, nil)
	if err != nil {
		return pen{}, nil, err
	}
	if p, err = newPen(c, s.cfg.Path); err == nil {
		readers, err = s.openPool()
	}
	if err != nil {
		return pen{}, nil, errors.Join(err, c.close())
	}
	return p, readers, nil
}

// startOver forgets the work on the file before. Rows below the image's floor
// that its sender had not removed yet are on the new index's list.
func (k *keeper) startOver(at position) {
	k.working, k.work, k.garbage = 0, nil, nil
	k.flushed = at.floor
	k.compacted.Store(at.compacted)
	k.sinceCheckpoint.bytes, k.sinceCheckpoint.flushes = 0, 0
	k.retryAt = time.Time{}
	k.progress()
}
