package crash

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// History is what one watcher of everything saw, revision by revision. It has one owner.
type History struct {
	first, last int64
	events      map[int64][]Effect
	wrong       []string
}

// NewHistory starts before revision first.
func NewHistory(first int64) *History {
	return &History{first: first, last: first - 1, events: map[int64][]Effect{}}
}

// Last is the last revision seen.
func (h *History) Last() int64 { return h.last }

// Wrong is what broke the rules: each revision once, in order, none left out.
func (h *History) Wrong() []string { return h.wrong }

// Add takes one watch response.
func (h *History) Add(events []*clientv3.Event) {
	for i, e := range events {
		rev := e.Kv.ModRevision
		inside := i > 0 && events[i-1].Kv.ModRevision == rev
		if want := h.last + 1; !inside && rev != want {
			h.wrong = append(h.wrong, fmt.Sprintf("a response goes on at revision %d, want %d", rev, want))
		}
		effect := Effect{Key: string(e.Kv.Key), Deleted: e.Type == clientv3.EventTypeDelete}
		if !effect.Deleted {
			effect.Value, effect.Lease = string(e.Kv.Value), e.Kv.Lease
		}
		h.events[rev] = append(h.events[rev], effect)
		h.last = max(h.last, rev)
	}
}

// Compare lists where other, over the revisions both saw, saw something else.
func (h *History) Compare(other *History) []string {
	var wrong []string
	for rev := max(h.first, other.first); rev <= min(h.last, other.last); rev++ {
		if a, b := fmt.Sprint(h.events[rev]), fmt.Sprint(other.events[rev]); a != b {
			wrong = append(wrong, fmt.Sprintf("revision %d was seen as %s and as %s", rev, a, b))
		}
	}
	return wrong
}
