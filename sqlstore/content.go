package sqlstore

import (
	"context"
	"database/sql/driver"
	"fmt"
)

// position is what table meta says: where in time the file stands.
type position struct {
	rev       int64
	applied   uint64
	floor     int64
	compacted int64
	owner     uint64
	stamped   bool // the file says whose it is: it has been flushed to
}

// String implements fmt.Stringer.
func (p position) String() string {
	return fmt.Sprintf("applied %d, revision %d, floor %d", p.applied, p.rev, p.floor)
}

func readPosition(c *conn) (position, error) {
	meta := map[string]int64{metaRevision: Initial, metaFloor: -1, metaCompacted: -1}
	err := c.query("SELECT name, value FROM meta", 2, func(row []driver.Value) error {
		name, isText := row[0].(string)
		value, isNumber := row[1].(int64)
		if !isText || !isNumber {
			return fmt.Errorf("table meta holds %v = %v", row[0], row[1])
		}
		meta[name] = value
		return nil
	})
	owner, stamped := meta[metaOwner]
	return position{
		rev: meta[metaRevision], applied: uint64(meta[metaApplied]),
		floor: meta[metaFloor], compacted: meta[metaCompacted],
		owner: uint64(owner), stamped: stamped,
	}, err
}

// scanIndex builds the key index by one sequential scan of the revisions.
func scanIndex(c *conn, rev int64) (*keyIndex, error) {
	x := newKeyIndex()
	entries := make(map[string]*entry)
	err := scanVersions(context.Background(), c, rev, func(key []byte, v version, unixMilli int64) {
		x.times.add(v.id.Rev(), unixMilli)
		e := entries[string(key)]
		if e == nil {
			e = &entry{key: string(key), head: v}
			entries[e.key] = e
			return
		}
		if e.past == nil {
			e.past = new(past)
		}
		e.past.older = append(e.past.older, e.head.mark())
		e.head = v
	})
	if err != nil {
		return nil, err
	}
	x.load(entries)
	return x, nil
}

// scanVersions calls fn for each row of the revisions, and refuses rows that no
// Writer makes at or before revision rev: the file may be damaged, and SQLite
// keeps no checksums.
func scanVersions(ctx context.Context, c *conn, rev int64, fn func(key []byte, v version, unixMilli int64)) error {
	err := c.queryUntil(ctx, sqlScanIndex, 6, func(row []driver.Value) error {
		key, v, err := versionOf(row)
		if err != nil {
			return err
		}
		if v.id.Rev() > rev {
			return fmt.Errorf("a row of revision %d in a file of revision %d", v.id.Rev(), rev)
		}
		at, _ := row[5].(int64) // nothing is decided by it
		fn(key, v, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the revisions: %w", err)
	}
	return nil
}

// versionOf reads a row of sqlScanIndex; SQLite would store anything anywhere.
func versionOf(row []driver.Value) (key []byte, v version, err error) {
	id, ok := row[0].(int64)
	key, isBlob := row[1].([]byte)
	create, isCreate := row[2].(int64)
	n, isVersion := row[3].(int64)
	lease, isLease := row[4].(int64)
	v = version{id: ID(id), create: create, version: n, lease: lease}
	switch {
	case !ok || !isBlob || !isCreate || !isVersion || !isLease:
		return nil, v, fmt.Errorf("row %v holds a value of the wrong type", row[0])
	case v.id.Rev() < Initial, create < 0, create > v.id.Rev(), n < 0, n > 0 && create == 0:
		return nil, v, fmt.Errorf("row %d holds create_revision %d, version %d", id, create, n)
	}
	return key, v, nil
}
