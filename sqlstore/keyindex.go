package sqlstore

import (
	"slices"

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
type entry struct {
	key   string
	head  version
	older []mark // ascending
	dirty bool   // on keyIndex.touched
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
	for i := len(e.older) - 1; i >= 0; i-- {
		if m := e.older[i]; m.id().Rev() <= rev {
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
		e.older = append(e.older, prev.mark())
		e.head = v
	}
	if !e.dirty && (len(e.older) > 0 || v.version == 0) {
		e.dirty = true
		x.touched = append(x.touched, e)
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

// prune removes from e what a compaction to floor makes unreachable and
// appends the ids of the removed rows to garbage. It reports whether e still
// has anything for a later compaction.
//
// The newest version at or below floor stays, for views at floor itself; if it
// is a tombstone it stays only when it happened exactly at floor, where a watch
// may still ask for it (etcd keyIndex.compact and its keep rule).
func (x *keyIndex) prune(e *entry, floor int64, garbage []ID) (rest []ID, more bool) {
	all := append(e.older, e.head.mark())
	keep := 0 // first index that stays
	for keep+1 < len(all) && all[keep+1].id().Rev() <= floor {
		keep++
	}
	if m := all[keep]; m.tombstone() && m.id().Rev() < floor {
		keep++
	}
	for _, m := range all[:keep] {
		garbage = append(garbage, m.id())
	}
	if keep == len(all) {
		x.tree.Delete(e.key)
		e.older = nil
		return garbage, false
	}
	if keep > 0 {
		// A fresh slice, so that the memory of long histories is given back.
		e.older = append([]mark(nil), all[keep:len(all)-1]...)
	}
	return garbage, len(e.older) > 0 || e.head.version == 0
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
		if len(e.older) > 0 || e.head.version == 0 {
			e.older = slices.Clip(e.older)
			e.dirty = true
			x.touched = append(x.touched, e)
		}
	}
}
