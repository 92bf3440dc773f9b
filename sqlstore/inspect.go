package sqlstore

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// inspect reads a database that nobody writes from its first page to its last,
// and says why it cannot take the place of one at position ours: what is wrong
// comes wrapped with ErrImageRefused, the disk's errors do not. It changes
// nothing. Its index is the one thing of size it makes, and comes last.
//
// SQLite keeps no checksums: what lies inside a key or a value is believed.
// Whoever carried the image here must have compared its hash.
func inspect(file string, ours position) (*keyIndex, position, error) {
	if err := inspectHeader(file, 0); err != nil {
		return nil, position{}, err
	}
	c, err := openStill(file)
	if err != nil {
		return nil, position{}, refused(file, err)
	}
	index, at, err := inspectContent(c, ours)
	if err = errors.Join(err, c.close()); err != nil {
		return nil, position{}, refused(file, err)
	}
	return index, at, nil
}

// newestFormat is SQLite's: 2 has a WAL.
const newestFormat = 2

func refused(file string, why error) error {
	return fmt.Errorf("%w: %s: %w", ErrImageRefused, file, why)
}

// inspectHeader compares the file with its own first hundred bytes
// (https://www.sqlite.org/fileformat.html#the_database_header):
//
//	offset  size  is
//	 0      16    "SQLite format 3" and a zero byte
//	16       2    page size, big-endian
//	18       1    format to write, 1 or 2; SQLite does not write a newer one
//	19       1    format to read
//	28       4    pages in the file, big-endian
//
// and then has tail bytes that are not the database's.
func inspectHeader(file string, tail int64) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var h [100]byte
	switch _, err := io.ReadFull(f, h[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return refused(file, fmt.Errorf("%d bytes are no SQLite database", info.Size()))
	case err != nil:
		return err
	}
	if string(h[:16]) != "SQLite format 3\x00" {
		return refused(file, errors.New("it does not begin as a SQLite database does"))
	}
	if n := binary.BigEndian.Uint16(h[16:]); n != pageSize {
		return refused(file, fmt.Errorf("its pages have %d bytes, not %d", n, pageSize))
	}
	if h[18] > newestFormat || h[19] > newestFormat {
		return refused(file, fmt.Errorf("its format is %d to write and %d to read, want at most %d", h[18], h[19], newestFormat))
	}
	if n := int64(binary.BigEndian.Uint32(h[28:])) * pageSize; n != info.Size()-tail {
		return refused(file, fmt.Errorf("it has %d bytes, and its header speaks of %d", info.Size()-tail, n))
	}
	return nil
}

func inspectContent(c *conn, ours position) (*keyIndex, position, error) {
	at, err := inspectPosition(c)
	if err != nil {
		return nil, at, err
	}
	if at.applied < ours.applied || at.rev < ours.rev || at.floor < ours.floor {
		return nil, at, fmt.Errorf("it is older (%v) than what it would replace (%v)", at, ours)
	}
	if err := quickCheck(context.Background(), c); err != nil {
		return nil, at, err
	}
	index, err := scanIndex(c, at.rev)
	return index, at, err
}

// inspectPosition checks the schema and what the file says of itself.
func inspectPosition(c *conn) (position, error) {
	if err := inspectSchema(c); err != nil {
		return position{}, err
	}
	at, err := readPosition(c)
	switch {
	case err != nil:
		return at, err
	case !at.stamped:
		return at, errors.New("it was never written to by a member")
	case at.compacted < -1, at.compacted > at.floor, at.floor > at.rev, at.rev < Initial, at.rev >= 2*MaxRevision:
		return at, fmt.Errorf("it says of itself: %v, compacted %d", at, at.compacted)
	}
	return at, nil
}

func inspectSchema(c *conn) error {
	app, err := c.int64("PRAGMA application_id")
	if err != nil {
		return err
	}
	version, err := c.int64("PRAGMA user_version")
	switch {
	case err != nil:
		return err
	case app != ApplicationID:
		return fmt.Errorf("it is a database of another program (application_id %#x)", app)
	case version != schemaVersion:
		return fmt.Errorf("its schema is %d, this program knows %d", version, schemaVersion)
	}
	for _, sql := range []string{
		sqlInsertRow, sqlDeleteRow, sqlPutRecord, sqlDeleteRecord, sqlPutMeta,
		sqlGetRow, sqlScanRows, sqlScanKey, sqlScanIndex, sqlRecords,
	} {
		if _, err := c.prepare(sql, 0); err != nil {
			return err
		}
	}
	return nil
}

// quickCheck reads every page, those of large values too, which the scan of
// the index passes over.
func quickCheck(ctx context.Context, c *conn) error {
	return c.queryUntil(ctx, "PRAGMA quick_check(1)", 1, func(row []driver.Value) error {
		text, _ := row[0].(string)
		if text != "ok" {
			return fmt.Errorf("quick_check: %s", strings.ReplaceAll(text, "\n", " "))
		}
		return nil
	})
}
