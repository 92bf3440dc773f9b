package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sliceRows is how many rows one slice of a compaction removes: one short
	// SQLite transaction, some ten milliseconds, in which nobody waits.
	sliceRows = 2000
	// sliceKeys is how many keys are pruned under one hold of the lock.
	sliceKeys = 256
	// checkpointBytes bounds the SQLite WAL: after this much payload its pages
	// are moved into the database file.
	checkpointBytes = 4 << 20
	// checkpointFlushes bounds it when flushes are small.
	checkpointFlushes = 64
	// vacuumPages is how many pages one step gives back to the file system.
	vacuumPages = 256
	// vacuumFree: pages are given back once a quarter of the file, and at
	// least 4 MiB, is free; below that, coming rows will use them.
	vacuumFree = 1024
	retryAfter = time.Second
	// closePatience is how long the last flush waits for the file.
	closePatience = 500 * time.Millisecond
	pageSize      = 4096
)

type wakeReason int

const (
	wakeAge     wakeReason = iota // something waits; flush when it is old enough
	wakeFlush                     // much waits; flush now
	wakeCompact                   // the floor has risen
)

// keeper is the one goroutine that writes SQLite (I2): flushes, compaction in
// slices, checkpoints, and giving pages back.
type keeper struct {
	s *Store
	pen

	kick    chan struct{} // holds one; "look at your flags"
	urgent  atomic.Bool   // flush without waiting for age
	tasks   chan func()   // run between other work
	quit    chan struct{} // closed by stop
	leave   chan struct{} // closed by Interrupt: nobody waits for the disk any more
	leaving sync.Once
	done    chan struct{} // closed when the goroutine has ended
	stopped sync.Once
	closing error // result of stop, set before done is closed

	compacted atomic.Int64 // floor to which rows have been removed
	size      atomic.Int64 // bytes of the database file's pages
	inUse     atomic.Int64 // the same without free pages
	rows      atomic.Int64
	err       atomic.Pointer[error]

	sinceCheckpoint struct {
		bytes   int64
		flushes int
	}
	flushed int64     // compaction floor that the file holds
	retryAt time.Time // after a failure: not before
	garbage []ID      // rows pruned from the index, still in the file
	work    []*entry  // entries the running compaction has yet to visit
	working int64     // floor of the running compaction, 0 if none runs
	began   time.Time
	removed int
	lost    error // the file is another one than memory speaks of: nothing may be written

	// mu guards changed, which is closed and replaced at each step of
	// progress, for those who wait for one.
	mu      sync.Mutex
	changed chan struct{}
}

func newKeeper(s *Store, c *conn) (*keeper, error) {
	k := &keeper{
		s:       s,
		kick:    make(chan struct{}, 1),
		tasks:   make(chan func()),
		quit:    make(chan struct{}),
		leave:   make(chan struct{}),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	var err error
	if k.pen, err = newPen(c, s.cfg.Path); err != nil {
		return nil, err
	}
	at, err := s.load(c)
	if err != nil {
		return nil, err
	}
	k.compacted.Store(at.compacted)
	k.flushed = at.floor
	if err := k.measure(); err != nil {
		s.readers.Swap(nil).retire()
		return nil, err
	}
	return k, nil
}

func (k *keeper) start() {
	// Owner: Store; ends when stop closes quit.
	go k.run()
}

// Interrupt ends all waiting for the disk, of Publish, WaitDurable and
// WaitCompacted, because the member is about to stop: what the file does not
// hold is in the raft log. The store still takes changes; Close comes next.
func (s *Store) Interrupt() { s.keeper.leaving.Do(func() { close(s.keeper.leave) }) }

// stop flushes, closes the connections and waits for the goroutine.
func (k *keeper) stop() error {
	k.stopped.Do(func() { close(k.quit) })
	<-k.done
	return k.closing
}

func (k *keeper) wake(why wakeReason) {
	if why == wakeFlush {
		k.urgent.Store(true)
	}
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *keeper) run() {
	defer close(k.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := k.step()
		timer.Reset(wait)
		select {
		case <-k.quit:
			k.closing = k.shutdown()
			return
		case task := <-k.tasks:
			task()
		case <-k.kick:
		case <-timer.C:
		}
	}
}

// step does what is due and returns when to look again at the latest.
func (k *keeper) step() time.Duration {
	if k.lost != nil {
		k.err.Store(&k.lost)
		return time.Hour
	}
	if wait := time.Until(k.retryAt); wait > 0 {
		return wait
	}
	due := k.dueIn()
	if due <= 0 || k.urgent.Swap(false) {
		if err := k.flush(); err != nil {
			k.fail(fmt.Errorf("write to %s: %w", k.s.cfg.Path, err))
			return retryAfter
		}
		due = k.dueIn()
	}
	if k.compacted.Load() < k.s.floor.Load() || len(k.garbage) > 0 {
		if err := k.compactSlice(); err != nil {
			k.fail(fmt.Errorf("compact %s: %w", k.s.cfg.Path, err))
			return retryAfter
		}
		return 0
	}
	k.err.Store(nil)
	return due
}

func (k *keeper) fail(err error) {
	k.s.log.Error("the database cannot be written; trying again", "error", err)
	k.err.Store(&err)
	k.urgent.Store(true)
	k.retryAt = time.Now().Add(retryAfter)
}

// dueIn is how long the oldest unflushed change may still wait.
func (k *keeper) dueIn() time.Duration {
	k.s.mu.RLock()
	defer k.s.mu.RUnlock()
	if k.s.staged.since.IsZero() {
		return time.Hour
	}
	return k.s.cfg.FlushAge - time.Since(k.s.staged.since)
}

// flush writes everything published to SQLite in one transaction (I1).
func (k *keeper) flush() error {
	if k.lost != nil {
		return k.lost
	}
	s := k.s
	began := time.Now()
	s.mu.Lock()
	rev, applied, floor := s.current.Load(), s.applied.Load(), s.floor.Load()
	commits := s.tail.unflushed(rev)
	records, taken := s.staged.records, s.staged.pending
	s.staged.records = make(map[recordKey][]byte)
	s.staged.since = time.Time{}
	s.mu.Unlock()

	rows, bytes, err := k.write(commits, records, rev, applied, floor)
	if err != nil {
		s.mu.Lock()
		for key, data := range records {
			if _, newer := s.staged.records[key]; !newer {
				s.staged.records[key] = data
			}
		}
		s.staged.since = began
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	s.tail.markFlushed(rev)
	s.staged.pending -= taken
	s.mu.Unlock()
	s.durable.Store(applied)
	k.flushed = floor
	k.rows.Add(int64(rows))
	k.progress()
	if s.cfg.Observe.Flush != nil {
		s.cfg.Observe.Flush(time.Since(began), rows)
	}
	k.sinceCheckpoint.bytes += bytes
	k.sinceCheckpoint.flushes++
	if k.sinceCheckpoint.bytes >= checkpointBytes || k.sinceCheckpoint.flushes >= checkpointFlushes {
		if err := k.checkpoint("PASSIVE"); err != nil {
			return err
		}
	}
	return k.measure()
}

func (k *keeper) write(commits []*Commit, records map[recordKey][]byte, rev int64, applied uint64, floor int64) (rows int, bytes int64, err error) {
	err = k.transaction(func() error {
		for _, c := range commits {
			bytes += c.size()
			rows += len(c.Rows)
			for i := range c.Rows {
				r := &c.Rows[i]
				var value any // NULL for a tombstone
				if !r.Tombstone() {
					value = r.Value
				}
				if err := k.insert.exec(int64(r.ID), r.KeyBytes(), r.Create, r.Version, r.Lease, c.Time, value); err != nil {
					return err
				}
			}
		}
		for key, data := range records {
			bytes += key.size() + int64(len(data))
			var err error
			if data == nil {
				err = k.deleteRecord.exec(key.kind, key.name)
			} else {
				err = k.putRecord.exec(key.kind, key.name, data)
			}
			if err != nil {
				return err
			}
		}
		return errors.Join(
			k.putMeta.exec(metaOwner, int64(k.s.cfg.Owner)),
			k.putMeta.exec(metaRevision, rev),
			k.putMeta.exec(metaApplied, int64(applied)),
			k.putMeta.exec(metaFloor, floor))
	})
	return rows, bytes, err
}

func (k *keeper) transaction(fn func() error) error {
	if err := k.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := fn()
	if err == nil {
		err = k.conn.exec("COMMIT")
	}
	if err != nil {
		// SQLite may have rolled back by itself; then this fails harmlessly.
		_ = k.conn.exec("ROLLBACK")
	}
	return err
}

// compactSlice removes the next rows that lie below the floor. A row goes only
// when the floor that condemns it, and the row that replaces it, are in the
// file: the floor worked to is the one that was flushed, not a newer one that
// was published meanwhile. A crash in between leaves rows that the next start
// finds and removes.
func (k *keeper) compactSlice() error {
	s := k.s
	began := time.Now()
	if k.working == 0 && len(k.garbage) == 0 {
		if err := k.flush(); err != nil {
			return err
		}
		s.mu.Lock()
		k.working = k.flushed
		k.work, s.index.touched = s.index.touched, nil
		s.mu.Unlock()
		k.began, k.removed = began, 0
	}
	for len(k.work) > 0 && len(k.garbage) < sliceRows {
		k.pruneSome()
	}
	if len(k.garbage) > 0 {
		slices.Sort(k.garbage)
		err := k.transaction(func() error {
			for _, id := range k.garbage {
				if err := k.remove.exec(int64(id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		k.removed += len(k.garbage)
		k.sinceCheckpoint.bytes += int64(len(k.garbage)) * 256
		k.garbage = k.garbage[:0]
		if s.cfg.Observe.Slice != nil {
			s.cfg.Observe.Slice(time.Since(began))
		}
	}
	if len(k.work) > 0 {
		return nil
	}
	return k.endCompaction()
}

func (k *keeper) pruneSome() {
	s := k.s
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(sliceKeys, len(k.work))
	for _, e := range k.work[:n] {
		var more bool
		k.garbage, more = s.index.prune(e, k.working, k.garbage)
		if more {
			s.index.touched = append(s.index.touched, e)
		}
	}
	k.work = k.work[n:]
}

func (k *keeper) endCompaction() error {
	if err := k.putMeta.exec(metaCompacted, k.working); err != nil {
		return err
	}
	if err := k.measure(); err != nil { // whoever waits may ask for the sizes next
		return err
	}
	k.s.mu.Lock()
	k.s.index.times.dropBelow(k.working)
	k.s.mu.Unlock()
	took := time.Since(k.began)
	k.s.log.Info("finished scheduled compaction", "compact-revision", k.working, "rows", k.removed, "took", took)
	k.compacted.Store(k.working)
	k.working, k.work, k.garbage = 0, nil, nil
	if k.s.cfg.Observe.Compaction != nil {
		k.s.cfg.Observe.Compaction(took, k.removed)
	}
	k.progress()
	if k.sinceCheckpoint.bytes >= checkpointBytes {
		if err := k.checkpoint("PASSIVE"); err != nil {
			return err
		}
	}
	if free := (k.size.Load() - k.inUse.Load()) / pageSize; free > vacuumFree && free*4 > k.size.Load()/pageSize {
		return k.vacuum(free / 2)
	}
	return nil
}

// vacuum gives up to n free pages back to the file system.
func (k *keeper) vacuum(n int64) error {
	for ; n > 0; n -= vacuumPages {
		// The pragma yields a row for each page; stepping through them is
		// what does the work.
		sql := fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(n, vacuumPages))
		if err := k.conn.exec(sql); err != nil {
			return err
		}
	}
	if err := k.checkpoint("PASSIVE"); err != nil {
		return err
	}
	return k.measure()
}

func (k *keeper) checkpoint(mode string) error {
	k.sinceCheckpoint.bytes, k.sinceCheckpoint.flushes = 0, 0
	return k.conn.exec("PRAGMA wal_checkpoint(" + mode + ")")
}

// shrinkWAL empties the SQLite WAL if nobody reads from it; somebody who does
// is not worth waiting for.
func (k *keeper) shrinkWAL() {
	_ = k.conn.exec("PRAGMA busy_timeout = 100")
	_ = k.checkpoint("TRUNCATE")
	_ = k.conn.exec("PRAGMA busy_timeout = 1000")
}

// measure refreshes the size figures.
func (k *keeper) measure() error {
	pages, err := k.conn.int64("PRAGMA page_count")
	if err != nil {
		return err
	}
	free, err := k.conn.int64("PRAGMA freelist_count")
	if err != nil {
		return err
	}
	k.size.Store(pages * pageSize)
	k.inUse.Store((pages - free) * pageSize)
	return nil
}

// shutdown is the last flush. Rows still waiting for compaction stay; the next
// start finds them.
func (k *keeper) shutdown() error {
	// Another program may hold the file; it does not hold up the member.
	flushErr := k.conn.exec(fmt.Sprintf("PRAGMA busy_timeout = %d", closePatience.Milliseconds()))
	flushErr = errors.Join(flushErr, k.flush())
	k.progress()
	k.s.readers.Swap(nil).retire()
	k.s.reading.Wait()
	// Closing the last connection moves the WAL into the file and removes it.
	return errors.Join(flushErr, k.conn.close())
}

func (k *keeper) progress() {
	k.mu.Lock()
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
}

// await returns when ok() holds, asking again after each step of progress.
func (k *keeper) await(ctx context.Context, ok func() bool) error {
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-k.leave:
			return ErrClosed
		case <-k.done:
			if ok() {
				return nil
			}
			return ErrClosed
		}
	}
}

// waitRoom blocks until less than MaxPending bytes wait for the disk, or the
// store closes.
func (k *keeper) waitRoom() {
	k.wake(wakeFlush)
	_ = k.await(context.Background(), func() bool {
		k.s.mu.RLock()
		defer k.s.mu.RUnlock()
		return k.s.pendingLocked() < k.s.cfg.MaxPending
	})
}

// WaitDurable flushes and returns once the effects of raft entries up to index
// are synced in SQLite.
func (s *Store) WaitDurable(ctx context.Context, index uint64) error {
	return s.keeper.await(ctx, func() bool {
		if s.durable.Load() >= index {
			return true
		}
		s.keeper.wake(wakeFlush)
		return false
	})
}

// WaitCompacted returns once the rows below rev, which must be at or below the
// floor, are gone from the file.
func (s *Store) WaitCompacted(ctx context.Context, rev int64) error {
	return s.keeper.await(ctx, func() bool { return s.keeper.compacted.Load() >= rev })
}

// do runs fn on the keeper's goroutine.
func (k *keeper) do(ctx context.Context, fn func() error) error {
	result := make(chan error, 1)
	select {
	case k.tasks <- func() { result <- fn() }:
		return <-result
	case <-ctx.Done():
		return ctx.Err()
	case <-k.quit:
		return ErrClosed
	}
}

// Defragment flushes, gives all free pages back to the file system and
// shrinks the SQLite WAL. Reads and writes go on meanwhile.
func (s *Store) Defragment(ctx context.Context) error {
	return s.keeper.do(ctx, func() error {
		began := time.Now()
		if err := s.keeper.flush(); err != nil {
			return err
		}
		if err := s.keeper.vacuum((s.keeper.size.Load() - s.keeper.inUse.Load()) / pageSize); err != nil {
			return err
		}
		s.keeper.shrinkWAL()
		if s.cfg.Observe.Defragment != nil {
			s.cfg.Observe.Defragment(time.Since(began))
		}
		return s.keeper.measure()
	})
}
