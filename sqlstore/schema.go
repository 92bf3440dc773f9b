package sqlstore

import "fmt"

// schemaVersion is PRAGMA user_version. Migrations only go forward; a newer
// file is refused.
const schemaVersion = 1

// ApplicationID is PRAGMA application_id, "LMPT": file(1) and Open recognise a
// limpet database by it.
const ApplicationID = 0x4c4d5054

// The columns stand in the order in which they are needed: a scan that wants
// keys only never reaches the value, nor the overflow pages of a large one.
// Column revision costs no byte: it spells out the high bits of id for people.
const schema = `
CREATE TABLE revisions (
	id              INTEGER PRIMARY KEY,
	key             BLOB    NOT NULL,
	create_revision INTEGER NOT NULL,
	version         INTEGER NOT NULL,
	lease           INTEGER NOT NULL,
	time            INTEGER NOT NULL,
	value           BLOB,
	revision        INTEGER GENERATED ALWAYS AS (id >> 22) VIRTUAL
);
CREATE TABLE records (
	kind TEXT NOT NULL,
	name TEXT NOT NULL,
	data BLOB NOT NULL,
	PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE meta (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) WITHOUT ROWID;
`

const (
	sqlInsertRow    = `INSERT INTO revisions(id, key, create_revision, version, lease, time, value) VALUES (?,?,?,?,?,?,?)`
	sqlDeleteRow    = `DELETE FROM revisions WHERE id = ?`
	sqlPutRecord    = `INSERT INTO records(kind, name, data) VALUES (?,?,?) ON CONFLICT(kind, name) DO UPDATE SET data = excluded.data`
	sqlDeleteRecord = `DELETE FROM records WHERE kind = ? AND name = ?`
	sqlPutMeta      = `INSERT INTO meta(name, value) VALUES (?,?) ON CONFLICT(name) DO UPDATE SET value = excluded.value`
	sqlGetRow       = `SELECT id, key, create_revision, version, lease, value FROM revisions WHERE id = ?`
	sqlScanRows     = `SELECT id, key, create_revision, version, lease, value FROM revisions WHERE id >= ? AND id < ? ORDER BY id`
	sqlScanKey      = `SELECT id, key, create_revision, version, lease, value FROM revisions WHERE id >= ? AND id < ? AND key = ? ORDER BY id`
	sqlScanRange    = `SELECT id, key, create_revision, version, lease, value FROM revisions WHERE id >= ? AND id < ? AND key >= ? AND key < ? ORDER BY id`
	sqlScanFrom     = `SELECT id, key, create_revision, version, lease, value FROM revisions WHERE id >= ? AND id < ? AND key >= ? ORDER BY id`
	sqlAllRows      = `SELECT id, key, create_revision, version, lease, value FROM revisions ORDER BY id`
	sqlScanIndex    = `SELECT id, key, create_revision, version, lease, time FROM revisions ORDER BY id`
	sqlRecords      = `SELECT name, data FROM records WHERE kind = ? ORDER BY name`
	rowCols         = 6
)

// Names in table meta. All are written in the same transaction as the rows
// they speak of (I1).
const (
	metaRevision  = "revision"  // newest revision in the file
	metaApplied   = "applied"   // raft index whose effects the file holds
	metaFloor     = "floor"     // compaction floor, -1 if never compacted
	metaOwner     = "owner"     // member the file belongs to
	metaCompacted = "compacted" // floor to which rows have been removed
)

// writerPragmas configure the keeper's connection.
var writerPragmas = []string{
	// Pages are given back to the file system in steps; must be set before
	// the first table exists.
	"auto_vacuum = INCREMENTAL",
	"journal_mode = WAL",
	// FULL syncs the WAL at each commit. The keeper commits every few seconds
	// or megabytes, off the clients' path, and "flushed" then means durable,
	// which is what the raft log is trimmed by (I3).
	"synchronous = FULL",
	// The keeper checkpoints itself, PASSIVE: a FULL one would wait for readers.
	"wal_autocheckpoint = 0",
	// PASSIVE never shrinks the WAL; this does, when it is reset.
	"journal_size_limit = 4194304",
	// Somebody with the sqlite3 shell may hold the file for a moment. Short,
	// since the keeper tries again anyway, and stopping waits this long.
	"busy_timeout = 1000",
	"temp_store = MEMORY",
	// Appends touch the right edge only: a small cache does.
	"cache_size = -1024",
}

// readerPragmas configure the read connections.
var readerPragmas = []string{
	"busy_timeout = 5000",
	"query_only = 1",
	"cache_size = -1024",
}

// initSchema makes sure that the file is limpet's and of a version this program
// knows, before anything is written to it, and prepares it: pragmas, and the
// tables if it is empty.
func initSchema(c *conn, path string) error {
	app, err := c.int64("PRAGMA application_id")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	version, err := c.int64("PRAGMA user_version")
	if err != nil {
		return err
	}
	tables, err := c.int64("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	switch {
	case tables > 0 && app != ApplicationID:
		return fmt.Errorf("%s is a SQLite database of another program (application_id %#x)", path, app)
	case version > schemaVersion:
		return fmt.Errorf("%s was written by a newer limpet (schema %d, this program knows %d): upgrade this program", path, version, schemaVersion)
	}
	if err := c.set(writerPragmas); err != nil {
		return err
	}
	if tables > 0 {
		return nil
	}
	return c.exec(fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT;",
		schema, ApplicationID, schemaVersion))
}
