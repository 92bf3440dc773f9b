package sqlstore

import "unsafe"

// subBits is the room for the changes of one revision inside a row id. 22 bits
// allow 4 194 303 changes in one transaction and leave 41 bits, that is 2e12
// revisions: 69 years at a thousand a second.
const subBits = 22

// MaxRevision is the newest revision that a store may be made with, by Bump or Build:
// half of those that fit into the ID of a row, so that a trillion are left to come.
const MaxRevision = 1 << 40

// MaxChanges is the largest number of keys that one revision can change.
const MaxChanges = 1<<subBits - 1

// Initial is the revision of an empty store, as in etcd.
const Initial = 1

// rowOverhead is what a row costs in memory beside its key and value.
const rowOverhead = 96

// ID names one row: the revision in the high bits, the position of the change
// within its revision in the low 22. IDs order changes as they happened, and
// are the primary key of table revisions.
type ID int64

// MakeID packs a revision and the position of a change within it.
func MakeID(rev int64, sub int) ID { return ID(rev<<subBits | int64(sub)) }

// Rev is the revision of the change.
func (id ID) Rev() int64 { return int64(id) >> subBits }

// Sub is the position of the change within its revision, from 0.
func (id ID) Sub() int64 { return int64(id) & MaxChanges }

// Row is one version of one key. Rows are immutable once their commit is
// published; callers must not modify Key or Value.
type Row struct {
	ID      ID
	Create  int64 // revision in which the key was (re)created; 0 for a tombstone
	Version int64 // number of puts since creation, from 1; 0 marks a tombstone
	Lease   int64 // lease id, 0 for none
	Key     string
	Value   []byte
}

// Tombstone reports whether the row records a deletion.
func (r *Row) Tombstone() bool { return r.Version == 0 }

// KeyBytes is Key as bytes, sharing its memory: read only. It is never nil, which
// SQLite would take for NULL.
func (r *Row) KeyBytes() []byte {
	if r.Key == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(r.Key), len(r.Key))
}

func (r *Row) size() int64 { return int64(len(r.Key)+len(r.Value)) + rowOverhead }

// Commit is all changes of one revision, in the order in which they happened.
// It is immutable once published.
type Commit struct {
	Rev  int64
	Time int64 // the proposer's wall clock, Unix milliseconds; 0 when read back from disk
	Rows []Row
	// Prev[i] is the id of the version that Rows[i] replaced, 0 if there was
	// none (the key was absent). Nil for commits read back from disk.
	Prev []ID
}

func (c *Commit) size() int64 {
	n := int64(64)
	for i := range c.Rows {
		n += c.Rows[i].size() + 8
	}
	return n
}
