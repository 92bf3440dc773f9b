package migrate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/maphash"

	"limpet/sqlstore"
)

// tally counts and hashes rows in their order. Two histories with equal tallies
// are the same.
type tally struct {
	seed maphash.Seed
	live map[uint64]struct{} // hashes of the keys that exist, in eight bytes each
	rows int64
	sum  hash.Hash
	buf  []byte
	huge int64 // values that no client can write in etcd's default limits
}

// hugeValue is etcd's default bound of a request, --max-request-bytes.
const hugeValue = 1536 * 1024

// newTally begins a count; those to be compared have one seed.
func newTally(seed maphash.Seed) *tally {
	return &tally{seed: seed, live: make(map[uint64]struct{}), sum: sha256.New()}
}

// add takes a row in. What is hashed of it:
//
//	id, create_revision, version, lease, length of the key, of the value   8 bytes each, big-endian
//	the key, the value
func (t *tally) add(r *sqlstore.Row) {
	t.rows++
	id := maphash.String(t.seed, r.Key)
	if r.Tombstone() {
		delete(t.live, id)
	} else {
		t.live[id] = struct{}{}
	}
	if len(r.Value) > hugeValue {
		t.huge++
	}
	b := t.buf[:0]
	for _, n := range []int64{int64(r.ID), r.Create, r.Version, r.Lease, int64(len(r.Key)), int64(len(r.Value))} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	t.buf = append(b, r.Key...)
	t.sum.Write(t.buf)
	t.sum.Write(r.Value)
}

func (t *tally) keys() int64 { return int64(len(t.live)) }

func (t *tally) hash() string { return hex.EncodeToString(t.sum.Sum(nil)) }
