package witness

import (
	"context"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Effect is what a write does to one key.
type Effect struct {
	Key     string
	Value   string
	Deleted bool
}

// read is what a Call learned of a key.
type read struct {
	key string
	kv  *mvccpb.KeyValue // nil for nothing
}

// expected is what a conditional write was told to find.
type expected struct {
	key string
	mod int64
}

// Call is one request. It belongs to its client until it is handed back to the Ledger.
type Call struct {
	ID           int
	What         string   // for messages
	Effects      []Effect // of a write, if it takes effect
	Serializable bool     // a read that may be old

	floor    int64 // the highest revision heard of when it was sent
	answered bool
	changed  bool // it took effect
	rev      int64
	reads    []read
	expected *expected // nil if it was not conditional
}

func (c *Call) String() string { return fmt.Sprintf("%s %d %+v", c.What, c.ID, c.Effects) }

// Ledger is what all clients know. Its methods may be called concurrently.
type Ledger struct {
	prefix string
	// Padding makes the values of single puts longer, in bytes: for logs that are
	// bounded in bytes. Set before the load starts.
	Padding int

	mu     sync.Mutex // guards the fields below and the Calls' results
	calls  []*Call
	acks   int           // answers
	writes int           // answers to writes that took effect
	top    int64         // the highest revision heard of
	grown  chan struct{} // closed and replaced with every answer
}

// NewLedger makes a Ledger that is told of every write below prefix.
func NewLedger(prefix string) *Ledger {
	return &Ledger{prefix: prefix, grown: make(chan struct{})}
}

// Begin notes a Call that is about to be sent. effects, nil for a read, is called with the Call's
// number, which must be part of every value that is put.
func (l *Ledger) Begin(what string, effects func(id int) []Effect) *Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &Call{ID: len(l.calls), What: what, floor: l.top}
	if effects != nil {
		c.Effects = effects(c.ID)
	}
	l.calls = append(l.calls, c)
	return c
}

// Changed notes that the Call took effect at rev.
func (l *Ledger) Changed(c *Call, rev int64) { l.answer(c, rev, true) }

// Unchanged notes that the Call, a read or a write that did not apply, found the store at rev.
func (l *Ledger) Unchanged(c *Call, rev int64) { l.answer(c, rev, false) }

// Read notes what the Call saw of key. It comes before the answer is noted.
func (l *Ledger) Read(c *Call, key string, kvs []*mvccpb.KeyValue) {
	var kv *mvccpb.KeyValue
	if len(kvs) > 0 {
		kv = kvs[0]
	}
	c.reads = append(c.reads, read{key, kv})
}

// Expected notes the ModRevision, 0 for no key, on which the Call's effect depends. It comes before
// the answer is noted.
func (l *Ledger) Expected(c *Call, key string, mod int64) { c.expected = &expected{key, mod} }

func (l *Ledger) answer(c *Call, rev int64, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.answered, c.changed, c.rev = true, changed, rev
	l.acks++
	if changed {
		l.writes++
	}
	l.top = max(l.top, rev)
	close(l.grown)
	l.grown = make(chan struct{})
}

// AwaitWrites returns once so many more writes were acknowledged.
func (l *Ledger) AwaitWrites(ctx context.Context, more int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for until := l.writes + more; l.writes < until; {
		grown := l.grown
		l.mu.Unlock()
		var err error
		select {
		case <-grown:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		l.mu.Lock()
		if err != nil {
			return fmt.Errorf("%d of %d more writes were acknowledged: %w", more-(until-l.writes), more, err)
		}
	}
	return nil
}

// Top is the highest revision heard of.
func (l *Ledger) Top() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.top
}

// Summary says how much there is to check.
func (l *Ledger) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d calls, %d of them answered, up to revision %d", len(l.calls), l.acks, l.top)
}
