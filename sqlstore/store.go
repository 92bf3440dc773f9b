package sqlstore

import (
	"database/sql/driver"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Config says where the store lives and how much memory it may use. Zero
// fields mean the default in the comment.
type Config struct {
	Path string // the SQLite file; its folder must exist
	// Owner is the member the file belongs to, written when it is created: the
	// file goes with that member's log, and is refused by any other. 0: nobody.
	Owner uint64

	FlushBytes  int64         // flush when this much waits; 2 MiB
	FlushAge    time.Duration // flush when the oldest change is this old; 10 s
	MaxPending  int64         // bytes that may wait; beyond it apply blocks; 32 MiB
	TailBytes   int64         // recent history kept in memory; 2 MiB
	CacheBytes  int64         // rows read from disk kept in memory; 16 MiB
	ReaderConns int           // SQLite read connections; 2

	Logger *slog.Logger
	// Observe, if set, is told how long each step on disk took. It must not block.
	Observe Observer
}

// Observer receives durations of the keeper's work; any field may be nil.
type Observer struct {
	Flush      func(took time.Duration, rows int)
	Compaction func(took time.Duration, rows int)
	Slice      func(took time.Duration) // one slice of a compaction
	Hash       func(took time.Duration)
	Image      func(took time.Duration)
	Defragment func(took time.Duration)
}

func (c Config) withDefaults() Config {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.FlushBytes, 2<<20)
	def(&c.MaxPending, 32<<20)
	def(&c.TailBytes, 2<<20)
	def(&c.CacheBytes, 16<<20)
	if c.FlushAge == 0 {
		c.FlushAge = 10 * time.Second
	}
	if c.ReaderConns == 0 {
		c.ReaderConns = 2
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Store is the MVCC store. Reading methods may be called from any goroutine;
// the Writer belongs to one.
type Store struct {
	cfg   Config
	log   *slog.Logger
	cache *rowCache
	// readers is nil once the store is closed; reading counts the read
	// connections of this pool and of retired ones.
	readers atomic.Pointer[pool]
	reading sync.WaitGroup
	keeper  *keeper
	writer  *Writer
	opened  Moment // its revision then, and when that was

	// current is the newest published revision, floor the compaction floor
	// (-1: never compacted). Both only grow, and change only under mu.
	current atomic.Int64
	floor   atomic.Int64
	applied atomic.Uint64 // raft index of the published state
	durable atomic.Uint64 // raft index of the state in SQLite, synced
	// arrivals are those who wait for applied to reach their index.
	arrivals arrivals

	// mu guards index, tail and staged. It is held for short steps in memory
	// only, never across disk.
	mu     sync.RWMutex
	index  *keyIndex
	tail   tail
	staged staged
}

// staged is what the next flush must write beside rows: the newest value of
// each record changed since the last flush. Guarded by Store.mu.
type staged struct {
	records map[recordKey][]byte // nil value: delete
	pending int64                // bytes of all that was put into records since, and is not in SQLite
	since   time.Time            // when the oldest unflushed change was published; zero if none
}

type recordKey struct{ kind, name string }

func (k recordKey) size() int64 { return int64(len(k.kind) + len(k.name)) }

// Open opens or creates the store and rebuilds the key index by one
// sequential scan.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	s := &Store{
		cfg:   cfg,
		log:   cfg.Logger,
		cache: newRowCache(cfg.CacheBytes),
	}
	s.arrivals.next.Store(nobodyWaits)
	if err := settle(cfg.Path); err != nil {
		return nil, fmt.Errorf("finish what a crash left of an adoption: %w", err)
	}
	// SQLite gives its other files the mode of this one.
	if f, err := os.OpenFile(cfg.Path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("unable to open %s: %w", cfg.Path, err)
	} else if err := f.Close(); err != nil {
		return nil, err
	}
	c, err := openConn(cfg.Path, nil) // newKeeper sets the pragmas once it knows the file
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	s.keeper, err = newKeeper(s, c)
	if err != nil {
		_ = c.close()
		return nil, err
	}
	s.opened = Moment{Rev: s.current.Load(), Time: time.Now().UnixMilli()}
	s.writer = &Writer{s: s, rev: s.current.Load(), floor: s.floor.Load()}
	s.keeper.start()
	return s, nil
}

// Writer is the store's only writer. It belongs to one goroutine at a time.
func (s *Store) Writer() *Writer { return s.writer }

// Rev is the newest published revision.
func (s *Store) Rev() int64 { return s.current.Load() }

// Floor is the compaction floor: the oldest revision that can be read; -1
// if the store was never compacted.
func (s *Store) Floor() int64 { return s.floor.Load() }

// Applied is the raft index of the published state, Durable that of the state
// synced in SQLite. Invariant (I3): Durable <= Applied.
func (s *Store) Applied() uint64 { return s.applied.Load() }

// Durable is the highest raft index whose effects are synced in SQLite.
func (s *Store) Durable() uint64 { return s.durable.Load() }

// load fills the index and the counters from the file.
func (s *Store) load(c *conn) (position, error) {
	at, err := readPosition(c)
	if err != nil {
		return at, err
	}
	if at.stamped && at.owner != s.cfg.Owner {
		return at, fmt.Errorf("%s belongs to member %x, not to %x: a database goes with its member's raft log; restore the whole data directory", s.cfg.Path, at.owner, s.cfg.Owner)
	}
	index, err := scanIndex(c, at.rev)
	if err != nil {
		return at, err
	}
	readers, err := s.openPool()
	if err != nil {
		return at, err
	}
	s.become(index, at, readers)
	return at, nil
}

// become makes the content of a file, of which index is the index and at the
// position, the state of the store, and returns the readers of the file before.
// All of it changes at once: whoever has looked at index or tail under mu, and
// borrows a reader after that, gets one of the same file or of a newer one.
func (s *Store) become(index *keyIndex, at position, readers *pool) (before *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index = index
	s.tail = tail{maxBytes: s.cfg.TailBytes, flushed: at.rev}
	s.staged = staged{records: make(map[recordKey][]byte)}
	s.current.Store(at.rev)
	s.floor.Store(at.floor)
	s.applied.Store(at.applied)
	s.durable.Store(at.applied)
	return s.readers.Swap(readers)
}

// Records calls fn for each stored record of kind, by name. It reads the file
// and is meant for the time before the first write.
func (s *Store) Records(kind string, fn func(name string, data []byte) error) error {
	r, err := s.borrow()
	if err != nil {
		return err
	}
	defer s.giveBack(r)
	return r.conn.query(sqlRecords, 2, func(row []driver.Value) error {
		data, _ := row[1].([]byte)
		return fn(row[0].(string), data)
	}, kind)
}

// LeaseKeys lists the keys attached to a lease in the newest applied state,
// in no order.
func (s *Store) LeaseKeys(lease int64) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]string, 0, len(s.index.leased[lease]))
	for k := range s.index.leased[lease] {
		keys = append(keys, k)
	}
	return keys
}

// Stats is a picture of the store for metrics and status.
type Stats struct {
	Keys      int   // live keys
	Pending   int64 // bytes not yet in SQLite
	Size      int64 // bytes of the database: pages and what waits to be written
	SizeInUse int64 // the same without free pages
	Rows      int64 // rows written by the keeper since start
	FileBytes int64 // bytes of the database's pages alone
}

// Stats returns the current figures.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	st := Stats{Keys: s.index.live, Pending: s.pendingLocked()}
	s.mu.RUnlock()
	st.FileBytes = s.keeper.size.Load()
	st.Size = st.FileBytes + st.Pending
	st.SizeInUse = s.keeper.inUse.Load() + st.Pending
	st.Rows = s.keeper.rows.Load()
	return st
}

// pendingLocked is how many bytes wait for the disk.
func (s *Store) pendingLocked() int64 { return s.tail.pending + s.staged.pending }

// Err is the error that keeps the keeper from writing, nil while all is well.
// The keeper goes on trying.
func (s *Store) Err() error {
	if p := s.keeper.err.Load(); p != nil {
		return *p
	}
	return nil
}

// Close flushes what is published and closes the file. It is safe to call
// twice; the Writer must have stopped.
func (s *Store) Close() error {
	return s.keeper.stop()
}

// stringOf views immutable bytes as a string without copying.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
