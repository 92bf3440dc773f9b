package raftfsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"limpet/txn"
)

const (
	// maxBatchBytes and maxBatchCount bound one entry; a single larger command
	// still goes, alone.
	maxBatchBytes = 1 << 20
	maxBatchCount = 1024
	// maxQueueBytes and maxQueueCount bound what waits; past them proposals
	// are refused (etcd: 5000 entries between commit and apply).
	maxQueueBytes = 64 << 20
	maxQueueCount = 20000
	// WireOverhead is what etcd's marshalled raft request has beside the
	// request itself; it counts against max-request-bytes.
	WireOverhead = 18
	// lookAfter is how long a batch may be under way before somebody asks raft
	// what became of it. raft answers the FSM when all goes well; failures only
	// show in the future, and are rare enough to be noticed this much later.
	lookAfter = 50 * time.Millisecond
	// maxForwards is how many entries may be on their way to the leader: enough
	// to hide the way there and back, few enough that entries fill up.
	maxForwards = 4
	// restAfter is how long nothing is forwarded after a refusal: whom we take
	// for the leader does not lead.
	restAfter = 20 * time.Millisecond
)

type result struct {
	resp any
	err  error
}

// batch is the proposals of one entry under way.
type batch struct {
	number    uint64
	proposals []*proposal
	entry     []byte
	since     time.Time
	term      uint64           // in which it was sent to another member; 0: to our own log
	future    raft.ApplyFuture // of our own log
	watched   bool             // a goroutine waits for the future
}

type proposal struct {
	cmd    txn.Command
	here   bool // it goes into our own log, as leader, or nowhere
	kind   byte
	data   []byte
	since  time.Time
	result chan result // holds one; written once
}

// route is where entries go: into our own log if we lead, else to the leader.
type route struct {
	local  bool
	leader uint64 // 0: nowhere, for now
	term   uint64 // in which it leads, as far as we know
}

// proposer gathers proposals into entries. While one entry is being written to
// the log, arriving proposals queue up; then one entry carries them all. At
// rest a proposal leaves at once, on its own goroutine: there is no timer and
// no hand-over.
//
// A member that does not lead sends its entries to the one that does, a few at
// a time, and answers its own clients when it applies them itself: whoever was
// answered can read, here, what was written.
type proposer struct {
	member  uint64
	where   func() route
	format  func() byte                                   // of entries
	apply   func(entry []byte) raft.ApplyFuture           // must not block for long
	forward func(leader, term uint64, entry []byte) error // returns when the entry is committed or refused
	maxSize int
	timeout time.Duration // after which a proposal under way is given up

	// mu guards the fields below.
	mu       sync.Mutex
	queue    []*proposal
	bytes    int
	again    []*batch          // that certainly reached no log: first in line
	rest     time.Time         // after a refusal: forward nothing before
	busy     bool              // somebody will come back to send what is queued
	forwards int               // entries on their way to the leader
	next     uint64            // number of the next batch
	pending  map[uint64]*batch // proposed and not answered
	looking  bool              // the goroutine that looks after old batches runs
	closed   bool

	quit chan struct{}
	wg   sync.WaitGroup
}

func newProposer(member uint64, maxSize int, timeout time.Duration) *proposer {
	return &proposer{
		member: member, maxSize: maxSize, timeout: timeout,
		next:    uint64(time.Now().UnixNano()), // distinct from batches before a restart
		pending: make(map[uint64]*batch),
		quit:    make(chan struct{}),
	}
}

// propose waits for the result of cmd. When ctx ends first, the command may
// still happen. With here it is refused (ErrNotLeader) where this member does not
// lead, however late that turns out.
func (p *proposer) propose(ctx context.Context, cmd txn.Command, here bool) (any, error) {
	kind, data, err := txn.Append(nil, cmd)
	if err != nil {
		return nil, err
	}
	if p.maxSize > 0 && len(data)+WireOverhead > p.maxSize {
		return nil, ErrTooLarge
	}
	pr := &proposal{cmd: cmd, here: here, kind: kind, data: data, since: time.Now(), result: make(chan result, 1)}
	if err := p.enqueue(pr); err != nil {
		return nil, err
	}
	select {
	case r := <-pr.result:
		return r.resp, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *proposer) enqueue(pr *proposal) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrStopped
	}
	if len(p.queue) >= maxQueueCount || p.bytes >= maxQueueBytes {
		p.mu.Unlock()
		return ErrTooManyRequests
	}
	p.queue = append(p.queue, pr)
	p.bytes += len(pr.data)
	idle := !p.busy
	p.busy = true
	p.mu.Unlock()
	if idle {
		p.send()
	}
	return nil
}

// send proposes what is queued. In our own log one entry is written at a time,
// and the log calls again when it has it; on the way to a leader there may be a
// few. With nothing queued, the next proposal will go by itself.
func (p *proposer) send() {
	for {
		to := p.where()
		b := p.cut(to)
		if b == nil {
			return
		}
		if !to.local {
			// Owner: the proposer; ends with the answer of the leader, or with the
			// call's deadline. cut has counted it.
			go func() {
				defer p.wg.Done()
				p.sendTo(to, b)
			}()
			continue
		}
		future := p.apply(b.entry)
		p.mu.Lock()
		b.future = future
		p.mu.Unlock()
		return
	}
}

// sendTo has the leader propose b.
func (p *proposer) sendTo(to route, b *batch) {
	err := p.forward(to.leader, to.term, b.entry)
	p.mu.Lock()
	p.forwards--
	p.busy = p.busy && p.forwards > 0
	if errors.Is(err, ErrNotLeader) {
		p.rest = time.Now().Add(restAfter)
		p.putBackLocked(b)
	}
	p.mu.Unlock()
	// After any other error the entry may have been agreed on or not: the FSM
	// will show it, or a newer term, or time.
	p.send()
}

// putBackLocked has a batch that reached no log tried again, unless it is only
// for a leader's.
func (p *proposer) putBackLocked(b *batch) {
	if p.pending[b.number] != b || p.closed {
		return
	}
	delete(p.pending, b.number)
	if b.proposals = refuseHere(b.proposals); len(b.proposals) == 0 {
		return
	}
	b.term, b.future, b.watched = 0, nil, false
	p.again = append(p.again, b)
}

// refuseHere answers the proposals that only a leader makes, and returns the
// others.
func refuseHere(all []*proposal) []*proposal {
	return slices.DeleteFunc(all, func(pr *proposal) bool {
		if pr.here {
			pr.result <- result{err: ErrNotLeader}
		}
		return pr.here
	})
}

// cut takes what is to go next, within bounds, as one entry; nil if nothing is
// to go now.
func (p *proposer) cut(to route) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !to.local {
		p.refuseHereLocked()
	}
	p.lookLocked()
	p.busy = false
	switch {
	case p.closed, len(p.again)+len(p.queue) == 0, !to.local && to.leader == 0:
		return nil
	case !to.local && time.Now().Before(p.rest):
		return nil
	case !to.local && p.forwards >= maxForwards:
		p.busy = true
		return nil
	}
	b := p.nextLocked()
	if to.local {
		p.busy = true
	} else {
		b.term = to.term
		p.wg.Add(1)
		p.forwards++
		p.busy = p.forwards >= maxForwards
	}
	p.pending[b.number] = b
	return b
}

// refuseHereLocked takes what only a leader proposes off the queue.
func (p *proposer) refuseHereLocked() {
	p.queue = refuseHere(p.queue)
	p.bytes = 0
	for _, pr := range p.queue {
		p.bytes += len(pr.data)
	}
}

// nextLocked makes the next batch of what is queued, all of it for any log or all
// for ours; one that is tried again
// comes first.
func (p *proposer) nextLocked() *batch {
	if len(p.again) > 0 {
		b := p.again[0]
		p.again = p.again[1:]
		return b
	}
	n, size := 0, 0
	for _, pr := range p.queue {
		if n > 0 && (n == maxBatchCount || size+len(pr.data) > maxBatchBytes || pr.here != p.queue[0].here) {
			break
		}
		n++
		size += len(pr.data)
	}
	b := &batch{number: p.next, proposals: append([]*proposal(nil), p.queue[:n]...), since: time.Now()}
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	p.bytes -= size
	p.next++
	b.entry = make([]byte, 0, entryHeader+size+n*(1+binary.MaxVarintLen32)+entrySum)
	b.entry = appendHead(b.entry, entryHead{format: p.format(), member: p.member, batch: b.number, time: b.since.UnixMilli()})
	for _, pr := range b.proposals {
		b.entry = appendCommand(b.entry, pr.kind, pr.data)
		pr.data = nil
	}
	b.entry = sealEntry(b.entry)
	return b
}

// lookLocked sees to it that old batches are looked after.
func (p *proposer) lookLocked() {
	if !p.looking && !p.closed && len(p.queue)+len(p.again) > 0 {
		p.looking = true
		// Owner: the proposer; ends when nothing is pending, or with quit.
		p.wg.Go(p.lookAfterOld)
	}
}

// lookAfterOld asks raft about batches that are long under way, sends what
// found no leader, and gives up what has been too long, until there has been
// nothing pending for a while.
func (p *proposer) lookAfterOld() {
	ticker := time.NewTicker(lookAfter)
	defer ticker.Stop()
	const patience = 20 // idle ticks before the goroutine ends
	for idle := 0; idle < patience; idle++ {
		select {
		case <-ticker.C:
		case <-p.quit:
			return
		}
		p.mu.Lock()
		if len(p.pending)+len(p.queue)+len(p.again) > 0 {
			idle = 0
		}
		late, unsent := p.checkLocked()
		stuck := !p.busy && len(p.queue)+len(p.again) > 0
		if idle == patience-1 {
			p.looking = false
		}
		p.mu.Unlock()
		for _, pr := range late {
			pr.result <- result{err: ErrTimeout}
		}
		for _, pr := range unsent {
			err := ErrUnsent
			if to := p.where(); to.local || to.leader != 0 {
				err = ErrTimeout // there is one, and the queue does not move
			}
			pr.result <- result{err: err}
		}
		if stuck {
			p.send()
		}
	}
}

// checkLocked sees to it that somebody waits for the future of each batch that
// has taken long, and returns the proposals whose time is up: those under way,
// whose fate is unknown, and those that never found a leader.
func (p *proposer) checkLocked() (late, unsent []*proposal) {
	for _, b := range p.pending {
		age := time.Since(b.since)
		if b.future != nil && !b.watched && age >= lookAfter {
			b.watched = true
			future := b.future
			// Owner: the proposer; ends with the future, or with quit.
			p.wg.Go(func() {
				if err := await(p.quit, future); err != nil {
					p.fail(b, err)
				}
			})
		}
		if age >= p.timeout {
			late = append(late, b.proposals...)
			b.proposals = nil
		}
	}
	p.again = slices.DeleteFunc(p.again, func(b *batch) bool {
		old := time.Since(b.since) >= p.timeout
		if old {
			unsent = append(unsent, b.proposals...)
		}
		return old
	})
	n := 0
	for n < len(p.queue) && time.Since(p.queue[n].since) >= p.timeout {
		p.bytes -= len(p.queue[n].data)
		n++
	}
	unsent = append(unsent, p.queue[:n]...)
	p.queue = append([]*proposal(nil), p.queue[n:]...)
	return late, unsent
}

// take returns the proposals of a batch that this process proposed and has not
// answered.
func (p *proposer) take(h entryHead) []*proposal {
	if h.member != p.member {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.pending[h.batch]
	if b == nil {
		return nil
	}
	delete(p.pending, h.batch)
	return b.proposals
}

// fail deals with a batch whose future brought err: one that reached no log is
// tried again, others are answered. Then it lets the next go: the log will not
// tell of this one.
func (p *proposer) fail(b *batch, err error) {
	if err = proposeError(err); errors.Is(err, ErrNotLeader) {
		p.mu.Lock()
		p.putBackLocked(b)
		p.mu.Unlock()
	} else {
		p.answer(b.number, err)
	}
	p.send()
}

// newTerm answers what was sent to another member in an earlier term: an entry
// of a newer one has been applied, so it can come no more.
func (p *proposer) newTerm(term uint64) {
	var lost []uint64
	p.mu.Lock()
	for number, b := range p.pending {
		if b.term != 0 && b.term < term {
			lost = append(lost, number)
		}
	}
	p.mu.Unlock()
	for _, number := range lost {
		p.answer(number, ErrLeaderChanged)
	}
}

func (p *proposer) answer(number uint64, err error) {
	for _, pr := range p.take(entryHead{member: p.member, batch: number}) {
		pr.result <- result{err: err}
	}
}

// await waits for a future, or for quit: raft leaves some futures unanswered
// when it shuts down.
func await(quit <-chan struct{}, f raft.Future) error {
	done := make(chan error, 1)
	// Owner: this call; ends with the future, or is left behind by a raft that
	// was shut down.
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-quit:
		return raft.ErrRaftShutdown
	}
}

func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader // it reached no log
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return ErrLeaderChanged
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	}
	return fmt.Errorf("%w: %w", ErrLogFailed, err)
}

// pendingCount is the number of proposals that wait for their result.
func (p *proposer) pendingCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.queue)
	for _, b := range p.pending {
		n += len(b.proposals)
	}
	for _, b := range p.again {
		n += len(b.proposals)
	}
	return n
}

// full reports whether so much waits that more is refused.
func (p *proposer) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) >= maxQueueCount || p.bytes >= maxQueueBytes
}

// close refuses further proposals and answers those that wait. raft must have
// stopped: every future has its answer, and the FSM gives no more.
func (p *proposer) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	waiting := p.queue
	for _, b := range p.again {
		waiting = append(waiting, b.proposals...)
	}
	p.queue, p.again = nil, nil
	for _, b := range p.pending {
		waiting = append(waiting, b.proposals...)
	}
	clear(p.pending)
	p.mu.Unlock()
	close(p.quit)
	for _, pr := range waiting {
		pr.result <- result{err: ErrStopped}
	}
	p.wg.Wait()
}
