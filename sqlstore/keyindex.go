package sqlstore

import (
	"slices"
	"sort"

	"github.com/tidwall/btree"
)

// mark names an older version inside an entry: the row id, negative if the row
// is a tombstone, so that counting at an old revision reads no row.
type mark int64

func (m mark) id() ID {
	if m < 0 {
		return ID(-m)
	}
	return ID(m)
}

func (m mark) tombstone() bool { return m < 0 }

// entry is what the index knows of one key. The newest version is spelled out,
// so that counts, keys-only lists, compares and lease questions about the
// present never read a row.
//
// Worked example. Key "a" put in revision 2 and 5, deleted in 7, put in 9:
//
//	head  = {ID 9, Create 9, Version 1}
//	older = [2, 5, -7]
//
// A view at 8 finds -7, the newest mark at or below 8: a tombstone, so "a" is
// absent. After compaction to 6: older = [5, -7], since 5 is what a view at 6
// must find.
//
// There is one entry per key in memory, so its size counts: 64 bytes and the
// key.
type entry struct {
	key  string
	head version
	// past holds what a compaction may find something to do with. Nil, as for
	// a key that was put once, means: no older version, not a tombstone.
	past *past
}

// past is the rest of an entry that is on keyIndex.touched.
type past struct {
	older []mark // ascending
}

func (e *entry) older() []mark {
	if e.past == nil {
		return nil
	}
	return e.past.older
}

type version struct {
	id      ID
	create  int64
	version int64 // 0: tombstone
	lease   int64
}

func (v version) mark() mark {
	if v.version == 0 {
		return mark(-v.id)
	}
	return mark(v.id)
}

// at finds the version visible at rev. Found in head, v is complete; found
// among the older ones, only v.id is known and the row must be read. ok is
// false if the key is absent at rev.
func (e *entry) at(rev int64) (v version, ok bool) {
	if e.head.id.Rev() <= rev {
		return e.head, e.head.version != 0
	}
	older := e.older()
	for i := len(older) - 1; i >= 0; i-- {
		if m := older[i]; m.id().Rev() <= rev {
			return version{id: m.id()}, !m.tombstone()
		}
	}
	return version{}, false
}

// keyIndex maps each key that has any retained version to its entry, in key
// order. It is guarded by Store.mu.
type keyIndex struct {
	tree btree.Map[string, *entry]
	// touched lists the entries that have, or may have, something to compact:
	// more than one version, or a tombstone as the newest. Compaction walks
	// only these instead of all keys.
	touched []*entry
	live    int // keys whose newest version is not a tombstone
	// leased maps a lease to the keys whose newest version carries it.
	leased map[int64]map[string]struct{}
	times  times
}

func newKeyIndex() *keyIndex {
	return &keyIndex{leased: make(map[int64]map[string]struct{})}
}

func (x *keyIndex) get(key string) *entry {
	e, _ := x.tree.Get(key)
	return e
}

// add records v as the newest version of key and returns the version before.
func (x *keyIndex) add(key string, v version) (prev version) {
	e := x.get(key)
	if e == nil {
		e = &entry{key: key, head: v}
		x.tree.Set(key, e)
	} else {
		prev = e.head
		if e.past == nil {
			e.past = new(past)
			x.touched = append(x.touched, e)
		}
		e.past.older = append(e.past.older, prev.mark())
		e.head = v
	}
	if v.version != 0 && prev.version == 0 {
		x.live++
	} else if v.version == 0 && prev.version != 0 {
		x.live--
	}
	if prev.lease != v.lease {
		x.detach(prev.lease, e.key)
		x.attach(v.lease, e.key)
	}
	return prev
}

func (x *keyIndex) attach(lease int64, key string) {
	if lease == 0 {
		return
	}
	keys := x.leased[lease]
	if keys == nil {
		keys = make(map[string]struct{})
		x.leased[lease] = keys
	}
	keys[key] = struct{}{}
}

func (x *keyIndex) detach(lease int64, key string) {
	if lease == 0 {
		return
	}
	delete(x.leased[lease], key)
	if len(x.leased[lease]) == 0 {
		delete(x.leased, lease)
	}
}

// firstKept is the first of a key's n marks, ascending, that stays when it is
// compacted to floor; n if none does.
//
// The newest version at or below floor stays, for views at floor itself; if it
// is a tombstone it stays only when it happened exactly at floor, where a watch
// may still ask for it (etcd keyIndex.compact and its keep rule). Of a
// transaction that changed the key twice at floor, all rows stay.
func firstKept(n int, at func(int) mark, floor int64) int {
	i := sort.Search(n, func(i int) bool { return at(i).id().Rev() >= floor })
	if i < n && at(i).id().Rev() == floor || i == 0 || at(i-1).tombstone() {
		return i
	}
	return i - 1
}

// prune removes from e what a compaction to floor makes unreachable and
// appends the ids of the removed rows to garbage. It reports whether e still
// has anything for a later compaction, and so stays touched.
func (x *keyIndex) prune(e *entry, floor int64, garbage []ID) (rest []ID, more bool) {
	all := append(e.older(), e.head.mark())
	keep := firstKept(len(all), func(i int) mark { return all[i] }, floor)
	for _, m := range all[:keep] {
		garbage = append(garbage, m.id())
	}
	if keep == len(all) {
		x.tree.Delete(e.key)
		e.past = nil
		return garbage, false
	}
	if keep > 0 {
		// A fresh slice, so that the memory of long histories is given back.
		e.past.older = append([]mark(nil), all[keep:len(all)-1]...)
	}
	if len(e.past.older) == 0 && e.head.version != 0 {
		e.past = nil
	}
	return garbage, e.past != nil
}

// load takes over the entries of a freshly scanned file.
func (x *keyIndex) load(entries map[string]*entry) {
	keys := make([]string, 0, len(entries))
	for k := range entries {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		e := entries[k]
		x.tree.Load(k, e)
		if e.head.version != 0 {
			x.live++
			x.attach(e.head.lease, k)
		}
		if e.past == nil && e.head.version == 0 {
			e.past = new(past) // a tombstone kept because it is the floor
		}
		if e.past != nil {
			e.past.older = slices.Clip(e.past.older)
			x.touched = append(x.touched, e)
		}
	}
}
