package sqlstore

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// buildingSuffix is the name of a database that is not whole yet.
const buildingSuffix = ".building"

// builderPragmas: until Publish the file has a name that nobody opens, and one
// that is not whole is written anew. So it needs no journal, and is synced once,
// at the end. Pages that do not fit into the cache go to the file at once, which
// bounds the memory whatever the number of rows.
var builderPragmas = []string{
	"auto_vacuum = INCREMENTAL", // before the first table exists
	"journal_mode = OFF",
	"synchronous = OFF",
	"cache_size = -4096",
	"temp_store = MEMORY",
}

// Builder writes a new database of the history that another store has kept. It
// belongs to one goroutine. Its memory does not grow with the rows, save that
// Finish holds one key index, as the store will.
type Builder struct {
	path   string
	conn   *conn // nil: ended
	insert *stmt
	record *stmt
	last   ID
	whole  bool // Finish has succeeded
}

// Build begins a database that will be at path, where there must be none. What
// an earlier build that was cut short has left goes. In the end, Publish or Discard
// must be called.
func Build(path string) (*Builder, error) {
	switch there, err := exists(path); {
	case err != nil:
		return nil, err
	case there:
		return nil, fmt.Errorf("build %s: %w", path, fs.ErrExist)
	}
	b := &Builder{path: path}
	if err := b.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("build %s: %w", path, err), b.Discard())
	}
	return b, nil
}

func (b *Builder) file() string { return b.path + buildingSuffix }

func (b *Builder) open() error {
	if err := removeIfThere(b.file()); err != nil {
		return err
	}
	f, err := os.OpenFile(b.file(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if b.conn, err = openConn(b.file(), builderPragmas); err != nil {
		return err
	}
	err = b.conn.exec(fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA application_id = %d; PRAGMA user_version = %d;",
		schema, ApplicationID, schemaVersion))
	if err != nil {
		return err
	}
	if b.insert, err = b.conn.prepare(sqlInsertRow, 0); err != nil {
		return err
	}
	b.record, err = b.conn.prepare(sqlPutRecord, 0)
	return err
}

// Add writes one version of a key, by unixMilli, 0 if nobody knows when. Rows
// come in the order of their IDs; what no store can have written is refused. It
// keeps nothing of r.
func (b *Builder) Add(r *Row, unixMilli int64) error {
	if err := b.check(r); err != nil {
		return err
	}
	var value any // NULL for a tombstone
	switch {
	case r.Tombstone():
	case r.Value == nil:
		value = []byte{}
	default:
		value = r.Value
	}
	if err := b.insert.exec(int64(r.ID), r.KeyBytes(), r.Create, r.Version, r.Lease, unixMilli, value); err != nil {
		return fmt.Errorf("write to %s: %w", b.file(), err)
	}
	b.last = r.ID
	return nil
}

func (b *Builder) check(r *Row) error {
	if r.ID <= b.last {
		return fmt.Errorf("the row of revision %d.%d comes after the one of %d.%d", r.ID.Rev(), r.ID.Sub(), b.last.Rev(), b.last.Sub())
	}
	return r.Check()
}

// Check is an error if no store can have written the row.
func (r *Row) Check() error {
	rev := r.ID.Rev()
	switch {
	case rev < Initial:
		return fmt.Errorf("a row of revision %d; revisions begin at %d", rev, Initial)
	case r.Key == "":
		return fmt.Errorf("the row of revision %d.%d has an empty key", rev, r.ID.Sub())
	case r.Tombstone() && (r.Create != 0 || r.Lease != 0 || len(r.Value) > 0):
		return fmt.Errorf("the deletion of %q in revision %d has create_revision %d, lease %d and %d bytes of value, want none", r.Key, rev, r.Create, r.Lease, len(r.Value))
	case !r.Tombstone() && (r.Version < 0 || r.Create < 1 || r.Create > rev):
		return fmt.Errorf("the row of %q in revision %d has create_revision %d and version %d", r.Key, rev, r.Create, r.Version)
	}
	return nil
}

// SetRecord writes a record beside the keys; one of that name is replaced.
func (b *Builder) SetRecord(kind, name string, data []byte) error {
	if err := b.record.exec(kind, name, data); err != nil {
		return fmt.Errorf("write to %s: %w", b.file(), err)
	}
	return nil
}

// Finish says where in time the history ends, and from which revision on it is
// whole, -1 for all of it. Below floor there may be more rows than a compaction
// would leave; the store removes them when it is opened. The database is synced,
// and read from its first page to its last, as an image of another member would
// be. Then only Rows, Publish and Discard may be called.
func (b *Builder) Finish(rev, floor int64) error {
	if err := b.finish(rev, floor); err != nil {
		return fmt.Errorf("build %s: %w", b.path, err)
	}
	return nil
}

func (b *Builder) finish(rev, floor int64) error {
	if newest := max(b.last.Rev(), Initial); rev < newest || floor < -1 || floor > rev {
		return fmt.Errorf("revision %d, floor %d, and the newest row is of %d", rev, floor, newest)
	}
	if rev > MaxRevision {
		return fmt.Errorf("revision %d is beyond the largest to begin with, %d", rev, int64(MaxRevision))
	}
	for name, value := range map[string]int64{
		metaOwner: 0, metaRevision: rev, metaApplied: 0, metaFloor: floor, metaCompacted: -1,
	} {
		if err := b.conn.exec(sqlPutMeta, name, value); err != nil {
			return err
		}
	}
	if err := b.conn.exec("COMMIT"); err != nil {
		return err
	}
	if err := b.close(); err != nil {
		return err
	}
	if err := syncFile(b.file()); err != nil {
		return err
	}
	_, _, err := inspect(b.file(), position{rev: rev, floor: floor})
	b.whole = err == nil
	return err
}

// Rows calls fn for each row of the finished database, as ReadFile does.
func (b *Builder) Rows(fn func(*Row) error) error { return ReadFile(b.file(), fn) }

// Publish gives the finished database its name, in one durable step.
func (b *Builder) Publish() error {
	if !b.whole {
		return fmt.Errorf("build %s: it was not finished", b.path)
	}
	b.whole = false
	if err := os.Rename(b.file(), b.path); err != nil {
		return err
	}
	return syncFolder(b.path)
}

func (b *Builder) close() error {
	if b.conn == nil {
		return nil
	}
	c := b.conn
	b.conn = nil
	return c.close()
}

// Discard ends a build that shall not be finished, and removes what it has
// written. After Publish it does nothing.
func (b *Builder) Discard() error { return errors.Join(b.close(), removeIfThere(b.file())) }

// ReadFile calls fn for each row of a database that nobody writes, such as a
// built one or an image, in the order of their IDs. The row is fn's until it
// returns. It changes nothing.
func ReadFile(path string, fn func(*Row) error) error {
	c, err := openStill(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	err = inspectSchema(c)
	if err == nil {
		err = c.query(sqlAllRows, rowCols, func(cols []driver.Value) error {
			if _, _, err := versionOf(cols[:5]); err != nil {
				return err
			}
			return fn(rowOf(cols))
		})
	}
	if err = errors.Join(err, c.close()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
