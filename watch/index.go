package watch

import (
	"cmp"
	"maps"
	"slices"

	"go.etcd.io/etcd/pkg/v3/adt"

	"limpet/sqlstore"
)

// index finds the watchers of a key: by a map for single keys, by an interval
// tree for ranges. Watchers of the same range share one node, so that a
// thousand watchers of one prefix are found in one step. Guarded by Hub.mu.
type index struct {
	keys   map[string]map[*watcher]struct{}
	ranges adt.IntervalTree // of *group
	size   int
}

type group struct {
	watchers map[*watcher]struct{}
}

func newIndex() *index {
	return &index{keys: make(map[string]map[*watcher]struct{}), ranges: adt.NewIntervalTree()}
}

func interval(s sqlstore.Span) adt.Interval {
	// An affine interval's empty end lies past all strings, and so would an
	// empty begin; no key is empty.
	return adt.NewStringAffineInterval(cmp.Or(s.Key, "\x00"), s.End)
}

func (x *index) add(w *watcher) {
	x.size++
	span := w.req.Span
	if span.Single {
		set := x.keys[span.Key]
		if set == nil {
			set = make(map[*watcher]struct{})
			x.keys[span.Key] = set
		}
		set[w] = struct{}{}
		return
	}
	iv := interval(span)
	if node := x.ranges.Find(iv); node != nil {
		node.Val.(*group).watchers[w] = struct{}{}
		return
	}
	x.ranges.Insert(iv, &group{map[*watcher]struct{}{w: {}}})
}

func (x *index) remove(w *watcher) {
	x.size--
	span := w.req.Span
	if span.Single {
		delete(x.keys[span.Key], w)
		if len(x.keys[span.Key]) == 0 {
			delete(x.keys, span.Key)
		}
		return
	}
	iv := interval(span)
	node := x.ranges.Find(iv)
	if node == nil {
		return
	}
	g := node.Val.(*group)
	delete(g.watchers, w)
	if len(g.watchers) == 0 {
		x.ranges.Delete(iv)
	}
}

// all lists the watchers in the index, in no order.
func (x *index) all() []*watcher {
	all := make([]*watcher, 0, x.size)
	for _, set := range x.keys {
		all = slices.AppendSeq(all, maps.Keys(set))
	}
	if x.ranges.Len() == 0 {
		return all
	}
	x.ranges.Visit(interval(sqlstore.Span{}), func(n *adt.IntervalValue) bool {
		all = slices.AppendSeq(all, maps.Keys(n.Val.(*group).watchers))
		return true
	})
	return all
}

// match calls fn for each watcher of key.
func (x *index) match(key string, fn func(*watcher)) {
	for w := range x.keys[key] {
		fn(w)
	}
	if x.ranges.Len() == 0 {
		return
	}
	x.ranges.Visit(adt.NewStringAffinePoint(key), func(n *adt.IntervalValue) bool {
		for w := range n.Val.(*group).watchers {
			fn(w)
		}
		return true
	})
}
