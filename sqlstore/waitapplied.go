package sqlstore

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// arrivals lets goroutines wait for the applied index. Those that wait for the
// same index share one channel, so that a batch wakes a thousand readers of one
// read index by closing it once.
//
// Invariant: next is at or below the lowest index that somebody waits for. The
// publisher stores applied and then loads next; who waits stores next and then
// loads applied. Go's atomics are sequentially consistent, so one of the two
// sees the other, and nobody sleeps through his index.
type arrivals struct {
	next atomic.Uint64 // nobody waits: nobodyWaits

	// mu guards waits and the stores of next. It is taken last of all locks.
	mu    sync.Mutex
	waits []*arrival // by index, ascending, each index once
}

const nobodyWaits = math.MaxUint64

// arrival is one index that n goroutines wait for.
type arrival struct {
	index uint64
	n     int
	done  chan struct{} // closed when the index is applied
}

// WaitApplied returns once the effects of raft entries up to index are
// published, which includes their adoption with an image. It ends with ctx's
// error when ctx does, with ErrClosed when the store closes; Interrupt does not
// end it, since it waits for the log and not for the disk. Any number of
// goroutines may wait.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	if s.applied.Load() >= index {
		return nil
	}
	a := s.arrivals.join(index)
	if s.applied.Load() >= index {
		s.arrivals.leave(a)
		return nil
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		s.arrivals.leave(a)
		return ctx.Err()
	case <-s.keeper.quit:
		s.arrivals.leave(a)
		return ErrClosed
	}
}

// search finds where index stands, or would stand, among the waits.
func (x *arrivals) search(index uint64) (pos int, found bool) {
	return slices.BinarySearchFunc(x.waits, index, func(a *arrival, index uint64) int { return cmp.Compare(a.index, index) })
}

func (x *arrivals) join(index uint64) *arrival {
	x.mu.Lock()
	defer x.mu.Unlock()
	pos, found := x.search(index)
	if !found {
		x.waits = slices.Insert(x.waits, pos, &arrival{index: index, done: make(chan struct{})})
		x.next.Store(x.waits[0].index)
	}
	a := x.waits[pos]
	a.n++
	return a
}

// leave is called by those who joined and were not woken: the woken have
// nothing to remove, and a thousand of them at the lock would hold up the next
// batch.
func (x *arrivals) leave(a *arrival) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a.n--
	if a.n > 0 {
		return
	}
	if pos, found := x.search(a.index); found && x.waits[pos] == a {
		x.waits = slices.Delete(x.waits, pos, pos+1)
		x.setNextLocked()
	}
}

// reached wakes all who wait for indexes up to index, which has been stored in
// applied before.
func (x *arrivals) reached(index uint64) {
	if index < x.next.Load() {
		return
	}
	x.mu.Lock()
	n := 0
	for n < len(x.waits) && x.waits[n].index <= index {
		n++
	}
	woken := slices.Clone(x.waits[:n])
	x.waits = slices.Delete(x.waits, 0, n)
	x.setNextLocked()
	x.mu.Unlock()
	for _, a := range woken {
		close(a.done)
	}
}

func (x *arrivals) setNextLocked() {
	if len(x.waits) == 0 {
		x.next.Store(nobodyWaits)
		return
	}
	x.next.Store(x.waits[0].index)
}
