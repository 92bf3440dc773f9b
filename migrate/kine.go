package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"

	_ "modernc.org/sqlite" // the driver, whose name is sqlite

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
)

const (
	// kineCompactKey is the row in which kine keeps, as prev_revision, up to
	// where it has compacted.
	kineCompactKey = "compact_rev_key"
	// kineFiller and its id is the name of a row, a deletion, that stands for an id
	// which no write came to use.
	kineFiller = "gap-"
	// kineColumns are those of the table that kine's driver makes (kine
	// pkg/drivers/sqlite).
	kineColumns = "id, name, created, deleted, create_revision, prev_revision, lease, value, old_value"
)

// kine is the SQLite database of a kine that does not run, k3s's own datastore.
// Each row is one revision, whose number is its id:
//
//	created  deleted  create_revision  prev_revision     value
//	   1        0     NULL or 0        0, or a deletion  a key begins; it was created by this row
//	   0        0     of its creation  the one before    an update
//	   0        1     of its creation  the one before    a deletion, with the value that went
//
// A compaction removes the rows that a newer one at or below its revision has
// replaced, and all deletions up to there, as etcd does.
type kine struct {
	path  string
	db    *sql.DB
	tx    *sql.Tx // one view for all readings
	stamp string  // what the files looked like when they were opened
	wal   bool    // SQLite looks at the files beside it
	rev   int64
	floor int64
	past  *kinePast // of the last reading; nil: there was none
}

// OpenKine opens a database of kine's. k3s must not run: ErrInUse if it does.
func OpenKine(path string) (Source, error) {
	k := &kine{path: path}
	if err := k.open(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *kine) Kind() string { return "kine" }

func (k *kine) open() error {
	if err := k.unused(); err != nil {
		return err
	}
	var err error
	if k.stamp, err = stampOf(k.path, "-wal", "-journal"); err != nil {
		return err
	}
	dsn, err := k.dsn()
	if err != nil {
		return err
	}
	if k.db, err = sql.Open("sqlite", dsn); err != nil {
		return err
	}
	k.db.SetMaxOpenConns(1)
	if k.tx, err = k.db.Begin(); err != nil {
		return k.unreadable(err)
	}
	if err := k.checkTable(); err != nil {
		return err
	}
	if err := k.checkPages(); err != nil {
		return err
	}
	return k.locate()
}

// dsn opens the file for reading. Without a WAL nothing else has to be looked
// at, or made beside it. With one, what it holds counts: SQLite then wants to
// make the index of it, -shm.
func (k *kine) dsn() (string, error) {
	how := "mode=ro&immutable=1"
	for _, suffix := range []string{"-wal", "-journal"} {
		info, err := os.Stat(k.path + suffix)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return "", err
		case info.Size() > 0:
			how, k.wal = "mode=ro", true
		}
	}
	return "file:" + url.PathEscape(k.path) + "?" + how + "&_pragma=busy_timeout(2000)&_pragma=query_only(1)&_pragma=cache_size(-4096)", nil
}

// unused is an error if another process has the database open. SQLite holds a
// lock on a range of bytes for as long as a connection in WAL mode is there
// (https://www.sqlite.org/src/file/src/os.h, PENDING_BYTE to SHARED_FIRST +
// SHARED_SIZE). It must be asked before this process opens the file, whose locks
// go when any descriptor of it is closed.
func (k *kine) unused() (err error) {
	f, err := os.Open(k.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: 0x40000000, Len: 512}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return fmt.Errorf("ask who has %s open: %w", k.path, err)
	}
	if lock.Type == syscall.F_UNLCK {
		return nil
	}
	who := "another process"
	if lock.Pid > 0 {
		who = fmt.Sprintf("process %d", lock.Pid)
	}
	return fmt.Errorf("%w: %s has %s open: stop k3s first (systemctl stop k3s)", ErrInUse, who, k.path)
}

func (k *kine) Still() error {
	now, err := stampOf(k.path, "-wal", "-journal")
	if err == nil && now != k.stamp {
		err = fmt.Errorf("%w: %s was written to meanwhile: stop k3s, and import again", ErrInUse, k.path)
	}
	return errors.Join(err, k.unused())
}

// unreadable adds what to do about an error of SQLite's.
func (k *kine) unreadable(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "not a database"):
		return fmt.Errorf("%w: %s is no SQLite database, or a damaged one; k3s keeps its own in /var/lib/rancher/k3s/server/db/state.db (%w)", ErrForeign, k.path, err)
	case strings.Contains(text, "malformed"), strings.Contains(text, "corrupt"):
		return fmt.Errorf("%w: %s: %w; take a backup of the file, or try sqlite3's .recover on a copy", ErrDamaged, k.path, err)
	case strings.Contains(text, "unable to open"), strings.Contains(text, "readonly"):
		return fmt.Errorf("%s was not closed cleanly, and what lies beside it (-wal, -journal) cannot be read in without writing to its folder: run this as root, or start and stop k3s once (%w)", k.path, err)
	}
	return fmt.Errorf("read %s: %w", k.path, err)
}

func (k *kine) checkTable() error {
	var app int64
	if err := k.tx.QueryRow("PRAGMA application_id").Scan(&app); err != nil {
		return k.unreadable(err)
	}
	if app == sqlstore.ApplicationID {
		return fmt.Errorf("%w: %s is a database of limpet's own: start limpet with its data directory, or restore a snapshot with limpet snapshot restore", ErrForeign, k.path)
	}
	var n int
	if err := k.tx.QueryRow("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'kine'").Scan(&n); err != nil {
		return k.unreadable(err)
	}
	if n == 0 {
		return fmt.Errorf("%w: %s has no table kine, so it is not k3s's: that is /var/lib/rancher/k3s/server/db/state.db", ErrForeign, k.path)
	}
	// The names stand there as columns: SQLite would take one in quotes for a text.
	rows, err := k.tx.Query("SELECT " + kineColumns + " FROM kine LIMIT 0")
	if err != nil {
		return fmt.Errorf("%w: the table kine in %s is not kine's: %w", ErrForeign, k.path, err)
	}
	return errors.Join(rows.Err(), rows.Close())
}

// checkPages reads every page, so that a damaged file is refused before
// anything comes of it.
func (k *kine) checkPages() error {
	if err := k.checkSize(); err != nil {
		return err
	}
	var text string
	if err := k.tx.QueryRow("PRAGMA quick_check(1)").Scan(&text); err != nil {
		return k.unreadable(err)
	}
	if text != "ok" {
		return k.unreadable(fmt.Errorf("database disk image is malformed: %s", strings.ReplaceAll(text, "\n", " ")))
	}
	return nil
}

// checkSize refuses a file that ends within a page: SQLite would read zeroes. A
// WAL may be about to mend that.
func (k *kine) checkSize() error {
	var page int64
	if err := k.tx.QueryRow("PRAGMA page_size").Scan(&page); err != nil {
		return k.unreadable(err)
	}
	info, err := os.Stat(k.path)
	if err == nil && info.Size()%page != 0 && !k.wal {
		err = fmt.Errorf("%w: %s has %d bytes, which is no number of pages of %d: it is cut short; copy it again", ErrDamaged, k.path, info.Size(), page)
	}
	return err
}

// locate finds where in time the database stands. Ids are never used again
// (AUTOINCREMENT): one that was given out counts although its row is gone.
func (k *kine) locate() error {
	var newest, given, compacted sql.NullInt64
	for _, q := range []struct {
		sql string
		to  *sql.NullInt64
	}{
		{"SELECT MAX(id) FROM kine", &newest},
		{"SELECT MAX(prev_revision) FROM kine WHERE name = '" + kineCompactKey + "'", &compacted},
		{"SELECT seq FROM sqlite_sequence WHERE name = 'kine'", &given},
	} {
		err := k.tx.QueryRow(q.sql).Scan(q.to)
		if err != nil && !errors.Is(err, sql.ErrNoRows) && !strings.Contains(err.Error(), "no such table: sqlite_sequence") {
			return k.unreadable(err)
		}
	}
	k.rev, k.floor = max(newest.Int64, given.Int64, sqlstore.Initial), -1
	if compacted.Int64 > 0 {
		k.floor = compacted.Int64
	}
	if k.rev > sqlstore.MaxRevision {
		return fmt.Errorf("%w: %s speaks of revision %d, which no kine reaches; the largest that can be taken over is %d", ErrDamaged, k.path, k.rev, int64(sqlstore.MaxRevision))
	}
	if k.floor > k.rev {
		return fmt.Errorf("%w: %s is compacted at revision %d, and its newest is %d", ErrDamaged, k.path, k.floor, k.rev)
	}
	return nil
}

func (k *kine) Extent() (rev, floor int64) { return k.rev, k.floor }

func (k *kine) Rows(ctx context.Context, fn func(*sqlstore.Row) error) (err error) {
	rows, err := k.tx.QueryContext(ctx, "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine ORDER BY id")
	if err != nil {
		return k.unreadable(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	k.past = newKinePast()
	var value sql.RawBytes
	for rows.Next() {
		var r kineRow
		if err := rows.Scan(&r.id, &r.name, &r.created, &r.deleted, &r.create, &r.prev, &r.lease, &value); err != nil {
			return fmt.Errorf("%w: %s: the row after id %d holds a value of the wrong type: %w", ErrDamaged, k.path, k.past.last, err)
		}
		r.value = value
		row, err := k.past.take(&r)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, k.path, err)
		}
		if row == nil {
			continue
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return k.unreadable(err)
	}
	return nil
}

func (k *kine) Leases() (map[int64]int64, error) { return k.past.leases(), nil }

func (k *kine) Rules() (*auth.Rules, error) { return nil, nil }

func (k *kine) Notes() []string {
	var notes []string
	if n := k.past.fillers; n > 0 {
		notes = append(notes, fmt.Sprintf("%d rows of kine's own that fill revisions without a change were left out", n))
	}
	if n := len(k.past.leases()); n > 0 {
		notes = append(notes, "kine keeps for how long a key lives, not since when: keys with a time to live begin it anew when limpet starts")
	}
	return notes
}

func (k *kine) Close() error {
	var errs []error
	if k.tx != nil {
		errs = append(errs, k.tx.Rollback())
	}
	if k.db != nil {
		errs = append(errs, k.db.Close())
	}
	k.tx, k.db = nil, nil
	return errors.Join(errs...)
}

// kineRow is one row of table kine.
type kineRow struct {
	id                  int64
	name                []byte
	created, deleted    sql.NullBool
	create, prev, lease sql.NullInt64
	value               []byte
}

// kinePast is what earlier rows tell about the coming ones: kine stores neither
// a key's version nor leases.
type kinePast struct {
	last    int64
	fillers int64
	alive   map[string]*kineKey
	leased  map[int64]int64 // by time to live: how many rows had it
}

// kineKey is a key that exists.
type kineKey struct{ create, version, lease int64 }

func newKinePast() *kinePast {
	return &kinePast{alive: make(map[string]*kineKey), leased: make(map[int64]int64)}
}

// take makes our row of one of kine's; nil: it is none of a client's.
func (p *kinePast) take(r *kineRow) (*sqlstore.Row, error) {
	if r.id <= p.last {
		return nil, fmt.Errorf("row %d comes after row %d", r.id, p.last)
	}
	p.last = r.id
	switch {
	case string(r.name) == kineCompactKey:
		return nil, nil
	case r.deleted.Bool && string(r.name) == fmt.Sprint(kineFiller, r.id):
		p.fillers++
		return nil, nil
	case len(r.name) == 0:
		return nil, fmt.Errorf("row %d has no name", r.id)
	case r.deleted.Bool:
		delete(p.alive, string(r.name))
		return &sqlstore.Row{ID: sqlstore.MakeID(r.id, 0), Key: string(r.name)}, nil
	case r.create.Int64 > r.id || r.create.Int64 < 0 || r.lease.Int64 < 0 || r.lease.Int64 > txn.MaxLeaseTTL:
		return nil, fmt.Errorf("row %d holds create_revision %d, lease %d", r.id, r.create.Int64, r.lease.Int64)
	}
	key := p.next(r)
	return &sqlstore.Row{
		ID: sqlstore.MakeID(r.id, 0), Create: key.create, Version: key.version, Lease: key.lease, Key: string(r.name), Value: r.value,
	}, nil
}

// next is the key after row r. A version counts the changes since the key was
// created; where a compaction has taken some of them, the first row that is left
// counts as the second one. A row that does not know its creation, as after a
// hole, has its key begin with what is known of it.
func (p *kinePast) next(r *kineRow) *kineKey {
	key := p.alive[string(r.name)]
	switch {
	case key == nil || r.created.Bool:
		key = &kineKey{create: r.id, version: 1}
		p.alive[string(r.name)] = key
		if !r.created.Bool {
			key.version = 2
			switch {
			case r.create.Int64 > 0:
				key.create = r.create.Int64
			case r.prev.Int64 > 0 && r.prev.Int64 < r.id:
				key.create = r.prev.Int64
			}
		}
	case r.create.Int64 > key.create: // the row that created it again is gone
		key.create, key.version = r.create.Int64, 2
	default:
		key.version++
	}
	key.lease = p.lease(r.lease.Int64)
	return key
}

// leaseKeys is how many rows share a lease: as many keys at most go in one
// revision when its time is up.
const leaseKeys = 1000

// lease makes an ID of a time to live, which is all that kine keeps. The first
// thousand rows with it get its own number, as kine's clients do.
//
//	bits 62..34  which thousand
//	bits 33..0   time to live in seconds, at most txn.MaxLeaseTTL
func (p *kinePast) lease(ttl int64) int64 {
	if ttl == 0 {
		return 0
	}
	n := p.leased[ttl]
	p.leased[ttl]++
	return n/leaseKeys<<34 | ttl
}

// leases are those that keys have which exist.
func (p *kinePast) leases() map[int64]int64 {
	leases := make(map[int64]int64)
	if p == nil {
		return leases
	}
	for _, key := range p.alive {
		if key.lease != 0 {
			leases[key.lease] = key.lease & (1<<34 - 1)
		}
	}
	return leases
}
