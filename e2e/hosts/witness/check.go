package witness

import (
	"fmt"
	"maps"
	"slices"

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

// effects groups events by revision.
func effects(events []*mvccpb.Event) map[int64][]Effect {
	byRev := map[int64][]Effect{}
	for _, e := range events {
		rev := e.Kv.ModRevision
		byRev[rev] = append(byRev[rev], Effect{Key: string(e.Kv.Key), Value: string(e.Kv.Value), Deleted: e.Type == mvccpb.Event_DELETE})
	}
	return byRev
}
