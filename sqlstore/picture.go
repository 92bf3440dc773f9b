package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"os"
)

// Picture is what a database file holds that no store has open.
type Picture struct {
	Rev      int64  // newest revision
	Floor    int64  // compaction floor, -1 if it was never compacted
	Applied  uint64 // raft index of its state
	Owner    uint64 // the member whose file it was
	Versions int64  // rows: keys in all their versions
	Bytes    int64  // of the database alone
}

// Inspect reads a file that nobody writes from its first page to its last: its
// header, schema, every page and every row, and changes nothing. What is damaged
// or no limpet database gets ErrImageRefused, and the error says where. Memory
// does not grow with the file. record, if not nil, is told each record. A WAL
// beside the file does not count. tail is how many bytes follow the last page, a
// checksum's, say; less than a page.
//
// It ends with ctx, with that one's error.
//
// SQLite keeps no checksums: what lies inside a key or a value is believed.
func Inspect(ctx context.Context, file string, tail int64, record func(kind, name string, data []byte) error) (*Picture, error) {
	if err := inspectHeader(file, tail); err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	c, err := openStill(file)
	if err != nil {
		return nil, refused(file, err)
	}
	p := &Picture{Bytes: info.Size() - tail}
	if err = errors.Join(p.look(ctx, c, record), c.close()); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, refused(file, err)
	}
	return p, nil
}

func (p *Picture) look(ctx context.Context, c *conn, record func(kind, name string, data []byte) error) error {
	at, err := inspectPosition(c)
	if err != nil {
		return err
	}
	p.Rev, p.Floor, p.Applied, p.Owner = at.rev, at.floor, at.applied, at.owner
	if err := quickCheck(ctx, c); err != nil {
		return err
	}
	if err := scanVersions(ctx, c, at.rev, func([]byte, version, int64) { p.Versions++ }); err != nil {
		return err
	}
	if record == nil {
		return nil
	}
	return c.query("SELECT kind, name, data FROM records ORDER BY kind, name", 3, func(row []driver.Value) error {
		kind, isText := row[0].(string)
		name, isText2 := row[1].(string)
		data, isBlob := row[2].([]byte)
		if !isText || !isText2 || !isBlob {
			return errors.New("table records holds a value of the wrong type")
		}
		return record(kind, name, data)
	})
}

// CountKeys is how many keys there are in the newest state of a file that nobody
// writes. It needs memory for each key, as an open store does.
func CountKeys(file string) (int, error) {
	c, err := openStill(file)
	if err != nil {
		return 0, err
	}
	at, err := readPosition(c)
	if err != nil {
		return 0, errors.Join(err, c.close())
	}
	index, err := scanIndex(c, at.rev)
	if err = errors.Join(err, c.close()); err != nil {
		return 0, err
	}
	return index.live, nil
}
