package sqlstore

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"
)

// Hash is the result of HashKV.
type Hash struct {
	Sum   uint32
	Floor int64 // compaction floor it was computed over, -1 if never compacted
	Rev   int64 // revision hashed
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	emptyHash  = crc32.Checksum([]byte("key"), castagnoli)
)

// HashKV computes etcd's hash over the history up to rev (0: the newest
// published), so that limpet and etcd holding the same history answer the same
// number: CRC-32C over "key", then for each row that a compaction would keep,
// ascending, etcd's 17-byte revision key (18 with the tombstone's t) and the
// marshalled mvccpb.KeyValue (etcd kvHasher.WriteKeyValue).
func (s *Store) HashKV(ctx context.Context, rev int64) (Hash, error) {
	began, asked := time.Now(), rev
	if rev == 0 {
		rev = s.Rev()
	}
	floor := s.Floor()
	if rev < 0 { // etcd hashes nothing then, and says so
		return Hash{Sum: emptyHash, Floor: floor, Rev: rev}, nil
	}
	v, err := s.At(rev)
	if asked == 0 && IsCompacted(err) {
		// The newest revision was passed by an adoption.
		return s.HashKV(ctx, asked)
	}
	if err != nil {
		return Hash{}, err
	}
	keep := v.liveBelow(floor)
	h := hasher{sum: emptyHash, floor: floor, keep: keep}
	if v.empty() {
		// etcd then keeps whatever is still there.
		h.kept = s.retains
	}
	span := Span{}
	for from := int64(0); from <= rev; {
		if err := ctx.Err(); err != nil {
			return Hash{}, err
		}
		commits, through, err := s.historyAny(span, from, rev)
		if err != nil {
			return Hash{}, err
		}
		for _, c := range commits {
			for i := range c.Rows {
				h.add(&c.Rows[i])
			}
		}
		from = through + 1
	}
	if s.Floor() != floor {
		// A compaction came between: its rows may be half gone.
		return s.HashKV(ctx, asked)
	}
	if s.cfg.Observe.Hash != nil {
		s.cfg.Observe.Hash(time.Since(began))
	}
	return Hash{Sum: h.sum, Floor: floor, Rev: rev}, nil
}

// historyAny is History without the floor check: rows below the floor are
// filtered by the hasher.
func (s *Store) historyAny(span Span, from, to int64) ([]*Commit, int64, error) {
	s.mu.RLock()
	first := s.tail.first(s.current.Load())
	if from >= first {
		defer s.mu.RUnlock()
		var commits []*Commit
		through := s.recent(from, to, &commits)
		return commits, through, nil
	}
	s.mu.RUnlock()
	return s.readHistory(span, from, min(to, first-1))
}

// liveBelow lists the rows at or below floor that are visible in the view.
func (v View) liveBelow(floor int64) map[ID]bool {
	keep := make(map[ID]bool)
	if floor < 0 {
		return keep
	}
	for from, more := "", true; more; {
		from, more = v.visit(from, func(id ID) {
			if id.Rev() <= floor {
				keep[id] = true
			}
		})
	}
	return keep
}

// empty reports whether no key is visible in the view.
func (v View) empty() bool {
	found := false
	for from, more := "", true; more && !found; {
		from, more = v.visit(from, func(ID) { found = true })
	}
	return !found
}

func (v View) visit(from string, fn func(ID)) (next string, more bool) {
	v.s.mu.RLock()
	defer v.s.mu.RUnlock()
	n := 0
	v.s.index.tree.Ascend(from, func(key string, e *entry) bool {
		if n == indexChunk {
			next, more = key, true
			return false
		}
		n++
		if ver, ok := e.at(v.rev); ok {
			fn(ver.id)
		}
		return true
	})
	return next, more
}

type hasher struct {
	sum   uint32
	floor int64
	keep  map[ID]bool
	kept  func(*Row) bool // replaces keep, if set
	buf   []byte
}

func (h *hasher) add(r *Row) {
	if r.ID.Rev() <= h.floor && !h.keeps(r) {
		return
	}
	if r.ID.Rev() == h.floor && r.Tombstone() {
		return
	}
	b := binary.BigEndian.AppendUint64(h.buf[:0], uint64(r.ID.Rev()))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(r.ID.Sub()))
	if r.Tombstone() {
		b = append(b, 't')
	}
	b = appendKeyValue(b, r)
	h.sum = crc32.Update(h.sum, castagnoli, b)
	h.buf = b
}

func (h *hasher) keeps(r *Row) bool {
	if h.kept != nil {
		return h.kept(r)
	}
	return h.keep[r.ID]
}

// retains reports whether compaction has left the row.
func (s *Store) retains(r *Row) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.index.get(r.Key)
	if e == nil {
		return false
	}
	return e.head.id == r.ID || slices.ContainsFunc(e.older(), func(m mark) bool { return m.id() == r.ID })
}

// appendKeyValue is the protobuf encoding of mvccpb.KeyValue: key 1,
// create_revision 2, mod_revision 3, version 4, value 5, lease 6, zero fields
// left out; a tombstone carries its key alone.
func appendKeyValue(b []byte, r *Row) []byte {
	bytes := func(tag byte, v string) {
		if len(v) > 0 {
			b = append(b, tag)
			b = binary.AppendUvarint(b, uint64(len(v)))
			b = append(b, v...)
		}
	}
	number := func(tag byte, n int64) {
		if n != 0 {
			b = append(b, tag)
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	bytes(0x0a, r.Key)
	if r.Tombstone() {
		return b
	}
	number(0x10, r.Create)
	number(0x18, r.ID.Rev())
	number(0x20, r.Version)
	bytes(0x2a, stringOf(r.Value))
	number(0x30, r.Lease)
	return b
}
