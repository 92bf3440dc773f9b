package witness

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Check lists what the clients heard that does not fit the History. No client may be calling.
func (l *Ledger) Check(h *History) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	if h.To < l.top {
		wrong = append(wrong, fmt.Sprintf("the history ends at revision %d, %d was heard of", h.To, l.top))
	}
	for _, c := range l.calls {
		if c.answered {
			wrong = append(wrong, c.checkOrder()...)
			wrong = append(wrong, c.checkReads(h)...)
		}
	}
	return append(wrong, l.checkWritesLocked(h)...)
}

// checkOrder keeps real time: what was heard of before the Call lies before it.
func (c *Call) checkOrder() []string {
	switch {
	case c.changed && c.rev <= c.floor:
		return []string{fmt.Sprintf("%v took effect at revision %d, %d had been heard of before", c, c.rev, c.floor)}
	case !c.Serializable && c.rev < c.floor:
		return []string{fmt.Sprintf("%v was answered from revision %d, %d had been heard of before", c, c.rev, c.floor)}
	}
	return nil
}

func (c *Call) checkReads(h *History) []string {
	var wrong []string
	for _, r := range c.reads {
		if want := h.at(r.key, c.rev); !proto.Equal(r.kv, want) {
			wrong = append(wrong, fmt.Sprintf("%v read %s at revision %d as %v, it was %v", c, r.key, c.rev, r.kv, want))
		}
	}
	if e := c.expected; e != nil {
		found := c.rev
		if c.changed {
			found-- // the revision is its own
		}
		if kv := h.at(e.key, found); c.changed != (kv.GetModRevision() == e.mod) {
			wrong = append(wrong, fmt.Sprintf("%v at revision %d: took effect %v, wanted %s at %d, it was %v", c, c.rev, c.changed, e.key, e.mod, kv))
		}
	}
	return wrong
}

// checkWritesLocked finds for each revision the write that explains it.
func (l *Ledger) checkWritesLocked(h *History) []string {
	var wrong []string
	acked, open := map[int64]*Call{}, map[string][]*Call{}
	for _, c := range l.calls {
		switch {
		case c.changed && acked[c.rev] != nil:
			wrong = append(wrong, fmt.Sprintf("revision %d was acknowledged to %v and to %v", c.rev, acked[c.rev], c))
		case c.changed:
			acked[c.rev] = c
		case !c.answered && len(c.Effects) > 0:
			open[fmt.Sprint(c.Effects)] = append(open[fmt.Sprint(c.Effects)], c)
		}
	}
	byRev := effects(h.inRange(l.prefix, 0))
	for _, rev := range slices.Sorted(maps.Keys(byRev)) {
		got := byRev[rev]
		what := fmt.Sprint(got)
		switch c := acked[rev]; {
		case c != nil:
			if what != fmt.Sprint(c.Effects) {
				wrong = append(wrong, fmt.Sprintf("revision %d holds %v, acknowledged was %v", rev, got, c))
			}
		case len(open[what]) == 0:
			wrong = append(wrong, fmt.Sprintf("revision %d holds %v, which nobody wrote, or which is there already", rev, got))
		case rev <= open[what][0].floor:
			// Only deletions of one key can be taken for each other, and of those the first sent
			// has the best claim to the first revision.
			c := open[what][0]
			wrong = append(wrong, fmt.Sprintf("%v, unanswered, stands at revision %d, %d had been heard of before it was sent", c, rev, c.floor))
		default:
			open[what] = open[what][1:]
		}
		delete(acked, rev)
	}
	for _, rev := range slices.Sorted(maps.Keys(acked)) {
		wrong = append(wrong, fmt.Sprintf("%v was acknowledged at revision %d and is not in the history", acked[rev], rev))
	}
	return wrong
}

// CheckKept lists acknowledged writes that a state, which came after all of them, does not follow
// from. It sees the newest write of each key; no client may be calling.
func (l *Ledger) CheckKept(kvs []*mvccpb.KeyValue) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest, maybe := l.byKeyLocked()
	held := map[string]*mvccpb.KeyValue{}
	for _, kv := range kvs {
		if strings.HasPrefix(string(kv.Key), l.prefix) {
			held[string(kv.Key)] = kv
			if newest[string(kv.Key)] == nil {
				newest[string(kv.Key)] = new(stand) // nobody was told of it
			}
		}
	}
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		if n, kv := newest[key], held[key]; !n.explains(kv) && !slices.ContainsFunc(maybe[key], func(e Effect) bool { return e.after(n.rev, kv) }) {
			is := "gone"
			if kv != nil {
				is = fmt.Sprintf("%s of revision %d", kv.Value, kv.ModRevision)
			}
			wrong = append(wrong, fmt.Sprintf("%s is %s, acknowledged last was %+v at revision %d", key, is, n.effect, n.rev))
		}
	}
	return wrong
}

// stand is what a key was left with at a revision; before its first write that is 0.
type stand struct {
	rev    int64
	effect Effect
}

func (s *stand) explains(kv *mvccpb.KeyValue) bool {
	if kv == nil {
		return s.rev == 0 || s.effect.Deleted
	}
	return s.rev == kv.ModRevision && !s.effect.Deleted && s.effect.Value == string(kv.Value)
}

// after tells whether the effect, at a revision above rev, leaves kv.
func (e Effect) after(rev int64, kv *mvccpb.KeyValue) bool {
	if kv == nil {
		return e.Deleted
	}
	return !e.Deleted && kv.ModRevision > rev && e.Value == string(kv.Value)
}

// byKeyLocked gives for each key the acknowledged write with the highest revision, and those that
// nobody has answered.
func (l *Ledger) byKeyLocked() (newest map[string]*stand, maybe map[string][]Effect) {
	newest, maybe = map[string]*stand{}, map[string][]Effect{}
	for _, c := range l.calls {
		for _, e := range c.Effects {
			switch n := newest[e.Key]; {
			case !c.answered:
				maybe[e.Key] = append(maybe[e.Key], e)
			case c.changed && (n == nil || c.rev > n.rev):
				newest[e.Key] = &stand{c.rev, e}
			}
		}
	}
	return newest, maybe
}

// effects groups events by revision.
func effects(events []*mvccpb.Event) map[int64][]Effect {
	byRev := map[int64][]Effect{}
	for _, e := range events {
		rev := e.Kv.ModRevision
		byRev[rev] = append(byRev[rev], Effect{Key: string(e.Kv.Key), Value: string(e.Kv.Value), Deleted: e.Type == mvccpb.Event_DELETE})
	}
	return byRev
}
