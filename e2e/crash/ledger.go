package crash

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Effect is what one change leaves: a value that names its Op, or nothing.
type Effect struct {
	Key     string
	Value   string
	Lease   int64
	Deleted bool
}

// Op is one write.
type Op struct {
	ID      int
	What    string // for messages
	Effects []Effect

	rev   int64 // at which it was acknowledged or, later, found
	state state
}

type state int

const (
	open  state = iota // sent, nothing heard
	acked              // acknowledged with effects at rev
	void               // acknowledged as changing nothing
	found              // not acknowledged, but seen in the store or in the history
	lost               // not acknowledged, and the next crash's survivors show that it never happened
)

// Ledger is what the clients know. All methods may be called concurrently.
type Ledger struct {
	mu     sync.Mutex // guards the fields below
	ops    []*Op
	acks   int
	top    int64         // the highest revision heard of
	grown  chan struct{} // closed and replaced with every acknowledgement
	leases map[int64]state
}

// NewLedger gives an empty one.
func NewLedger() *Ledger {
	return &Ledger{grown: make(chan struct{}), leases: map[int64]state{}, top: 1}
}

// Begin notes an Op about to be sent. effects is called with the Op's ID, for values that name it.
func (l *Ledger) Begin(what string, effects func(id int) []Effect) *Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	op := &Op{ID: len(l.ops), What: what}
	op.Effects = effects(op.ID)
	l.ops = append(l.ops, op)
	return op
}

// Acked notes the answer: the Op took effect at rev, or, if it has no effects, changed nothing.
func (l *Ledger) Acked(op *Op, rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	op.state, op.rev = acked, rev
	if len(op.Effects) == 0 {
		op.state = void
	}
	l.heardLocked(rev)
}

// Void notes an answer that says nothing was changed.
func (l *Ledger) Void(op *Op, rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	op.state, op.Effects = void, nil
	l.heardLocked(rev)
}

func (l *Ledger) heardLocked(rev int64) {
	l.acks++
	l.top = max(l.top, rev)
	close(l.grown)
	l.grown = make(chan struct{})
}

// LeaseBegun and LeaseAcked note what happens to a lease: granted leases live for longer than the test.
func (l *Ledger) LeaseBegun(id int64) { l.setLease(id, open) }

// LeaseAcked notes that the lease exists (alive) or was revoked.
func (l *Ledger) LeaseAcked(id int64, alive bool) {
	if alive {
		l.setLease(id, acked)
		return
	}
	l.setLease(id, void)
}

func (l *Ledger) setLease(id int64, s state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases[id] = s
}

// Acks is the number of acknowledgements so far, and a channel that is closed at the next one.
func (l *Ledger) Acks() (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks, l.grown
}

// Top is the highest revision that anybody heard of.
func (l *Ledger) Top() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.top
}

// CheckState compares the whole store, read at revision rev after a restart, with what must be in
// it. Ops without an answer are decided by what is found.
func (l *Ledger) CheckState(kvs []*mvccpb.KeyValue, rev int64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	if rev < l.top {
		wrong = append(wrong, fmt.Sprintf("revision went back: store is at %d, %d was heard", rev, l.top))
	}
	l.top = max(l.top, rev)

	have := map[string]*mvccpb.KeyValue{}
	for _, kv := range kvs {
		have[string(kv.Key)] = kv
	}
	last, pending := l.lastLocked()
	for _, key := range slices.Sorted(maps.Keys(last)) {
		if w := l.checkKeyLocked(key, last[key], pending[key], have[key]); w != "" {
			wrong = append(wrong, w)
		}
	}
	for key, kv := range have {
		if _, ok := last[key]; !ok && !l.decideLocked(pending[key], kv) {
			wrong = append(wrong, fmt.Sprintf("%s = %q at %d: nobody wrote it", key, kv.Value, kv.ModRevision))
		}
	}
	l.settleLocked(have, rev)
	return wrong
}

// change is one Op's effect on one key.
type change struct {
	op     *Op
	effect Effect
}

// lastLocked gives for each key the last change that is certain, and those that are open.
func (l *Ledger) lastLocked() (last map[string]change, pending map[string][]change) {
	last, pending = map[string]change{}, map[string][]change{}
	for _, op := range l.ops {
		for _, e := range op.Effects {
			switch {
			case op.state == open:
				pending[e.Key] = append(pending[e.Key], change{op, e})
			case (op.state == acked || op.state == found) && (last[e.Key].op == nil || op.rev >= last[e.Key].op.rev):
				last[e.Key] = change{op, e}
			}
		}
	}
	return last, pending
}

func (l *Ledger) checkKeyLocked(key string, want change, pending []change, kv *mvccpb.KeyValue) string {
	switch {
	case want.effect.matches(kv) && (kv == nil || kv.ModRevision == want.op.rev):
		return ""
	case l.decideLocked(pending, kv):
		if kv != nil && kv.ModRevision <= want.op.rev {
			return fmt.Sprintf("%s: unacknowledged write at %d lies below the acknowledged one at %d", key, kv.ModRevision, want.op.rev)
		}
		return ""
	case kv == nil:
		return fmt.Sprintf("%s is missing: %s %d was acknowledged at %d", key, want.op.What, want.op.ID, want.op.rev)
	}
	return fmt.Sprintf("%s = %q (lease %d) at %d: %s %d was acknowledged at %d with %+v",
		key, kv.Value, kv.Lease, kv.ModRevision, want.op.What, want.op.ID, want.op.rev, want.effect)
}

// decideLocked looks for the open change that explains what a key holds.
func (l *Ledger) decideLocked(pending []change, kv *mvccpb.KeyValue) bool {
	for _, p := range pending {
		if p.effect.matches(kv) {
			if kv != nil {
				p.op.state, p.op.rev = found, kv.ModRevision
			}
			return true
		}
	}
	return false
}

func (e Effect) matches(kv *mvccpb.KeyValue) bool {
	if kv == nil || e.Deleted {
		return kv == nil && e.Deleted
	}
	return e.Value == string(kv.Value) && e.Lease == kv.Lease
}

// settleLocked decides the Ops that are still open: puts left no trace, so they never happened; a
// delete happened if its keys, which were there before, are gone. Its revision stays unknown, but
// it lies at or below the store's.
func (l *Ledger) settleLocked(have map[string]*mvccpb.KeyValue, rev int64) {
	for _, op := range l.ops {
		if op.state != open {
			continue
		}
		op.state, op.rev = lost, rev
		if len(op.Effects) > 0 && !slices.ContainsFunc(op.Effects, func(e Effect) bool { return !e.Deleted || have[e.Key] != nil }) {
			op.state, op.rev = found, rev
		}
	}
}

// exact tells whether an unanswered Op's revision was read from a key.
func (op *Op) exact() bool {
	return slices.ContainsFunc(op.Effects, func(e Effect) bool { return !e.Deleted })
}

// CheckLeases compares the leases that exist with those that must.
func (l *Ledger) CheckLeases(alive map[int64]bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	for id, s := range l.leases {
		switch {
		case s == acked && !alive[id]:
			wrong = append(wrong, fmt.Sprintf("lease %d is missing", id))
		case s == void && alive[id]:
			wrong = append(wrong, fmt.Sprintf("lease %d is back after its revocation", id))
		case s == open && alive[id]:
			l.leases[id] = acked
		case s == open:
			l.leases[id] = void
		}
	}
	for id := range alive {
		if _, ok := l.leases[id]; !ok {
			wrong = append(wrong, fmt.Sprintf("lease %d: nobody granted it", id))
		}
	}
	return wrong
}

// CheckHistory compares all events, by revision, with the Ops.
func (l *Ledger) CheckHistory(h *History) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	byRev, unsure := map[int64]*Op{}, map[string][]*Op{}
	for _, op := range l.ops {
		switch {
		case op.state == acked:
			if other := byRev[op.rev]; other != nil {
				wrong = append(wrong, fmt.Sprintf("revision %d was acknowledged to ops %d and %d", op.rev, other.ID, op.ID))
			}
			byRev[op.rev] = op
		case len(op.Effects) > 0:
			unsure[fmt.Sprint(op.Effects)] = append(unsure[fmt.Sprint(op.Effects)], op)
		}
	}
	for rev := h.first; rev <= h.last; rev++ {
		got := h.events[rev]
		key := fmt.Sprint(got)
		if op := byRev[rev]; op != nil {
			if key != fmt.Sprint(op.Effects) {
				wrong = append(wrong, fmt.Sprintf("revision %d holds %v, acknowledged was %s %d with %v", rev, got, op.What, op.ID, op.Effects))
			}
			delete(byRev, rev)
			continue
		}
		if len(unsure[key]) == 0 {
			wrong = append(wrong, fmt.Sprintf("revision %d holds %v: no op explains it", rev, got))
			continue
		}
		// Deletes have no value that would tell one from another of the same key: the found ones first.
		i := max(0, slices.IndexFunc(unsure[key], func(op *Op) bool { return op.state == found }))
		op := unsure[key][i]
		if op.state == found && op.exact() && op.rev != rev {
			wrong = append(wrong, fmt.Sprintf("op %d was found at %d and stands at %d", op.ID, op.rev, rev))
		}
		if op.state == lost {
			wrong = append(wrong, fmt.Sprintf("%s %d was not in the store after the crash, at %d, and stands in the history at %d", op.What, op.ID, op.rev, rev))
		}
		unsure[key] = slices.Delete(unsure[key], i, i+1)
	}
	for _, ops := range unsure {
		for _, op := range ops {
			if op.state == found && op.rev >= h.first {
				wrong = append(wrong, fmt.Sprintf("%s %d was found in the store after a crash, at or below %d, and is not in the history", op.What, op.ID, op.rev))
			}
		}
	}
	for rev, op := range byRev {
		wrong = append(wrong, fmt.Sprintf("revision %d is not in the history: %s %d", rev, op.What, op.ID))
	}
	return wrong
}

// Summary says how much was checked.
func (l *Ledger) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[state]int{}
	for _, op := range l.ops {
		n[op.state]++
	}
	return fmt.Sprintf("%d ops acknowledged, %d without effect, %d unanswered and found, %d unanswered and not, %d undecided; %d leases; revision %d",
		n[acked], n[void], n[found], n[lost], n[open], len(l.leases), l.top)
}
