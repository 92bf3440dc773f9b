package raftfsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	// wireOverhead is what etcd's marshalled raft request has beside the
	// request itself; it counts against max-request-bytes.
	wireOverhead = 18
	// lookAfter is how long a batch may be under way before somebody asks raft
	// what became of it. raft answers the FSM when all goes well; failures only
	// show in the future, and are rare enough to be noticed this much later.
	lookAfter = 50 * time.Millisecond
)

type result struct {
	resp any
	err  error
}

// batch is the proposals of one entry under way.
type batch struct {
	proposals []*proposal
	future    raft.ApplyFuture
	since     time.Time
	watched   bool // a goroutine waits for the future
}

type proposal struct {
	cmd    txn.Command
	kind   byte
	data   []byte
	since  time.Time
	result chan result // holds one; written once
}

// proposer gathers proposals into entries. While one entry is being written to
// the log, arriving proposals queue up; then one entry carries them all. At
// rest a proposal leaves at once, on its own goroutine: there is no timer and
// no hand-over.
type proposer struct {
	member  uint64
	apply   func(entry []byte) raft.ApplyFuture // must not block for long
	maxSize int
	timeout time.Duration // after which a proposal under way is given up

	// mu guards the fields below.
	mu      sync.Mutex
	queue   []*proposal
	bytes   int
	writing bool              // an entry is on its way to the log
	next    uint64            // number of the next batch
	pending map[uint64]*batch // proposed and not answered
	looking bool              // the goroutine that looks after old batches runs
	closed  bool

	quit chan struct{}
	wg   sync.WaitGroup
}

func newProposer(member uint64, maxSize int, timeout time.Duration, apply func([]byte) raft.ApplyFuture) *proposer {
	return &proposer{
		member: member, apply: apply, maxSize: maxSize, timeout: timeout,
		next:    uint64(time.Now().UnixNano()), // distinct from batches before a restart
		pending: make(map[uint64]*batch),
		quit:    make(chan struct{}),
	}
}

// propose waits for the result of cmd. When ctx ends first, the command may
// still happen.
func (p *proposer) propose(ctx context.Context, cmd txn.Command) (any, error) {
	kind, data, err := txn.Append(nil, cmd)
	if err != nil {
		return nil, err
	}
	if p.maxSize > 0 && len(data)+wireOverhead > p.maxSize {
		return nil, ErrTooLarge
	}
	pr := &proposal{cmd: cmd, kind: kind, data: data, since: time.Now(), result: make(chan result, 1)}
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
	idle := !p.writing
	p.writing = true
	p.mu.Unlock()
	if idle {
		p.send()
	}
	return nil
}

// onStored tells that the log has written entries: the next may go. It runs on
// raft's main goroutine.
func (p *proposer) onStored() { p.send() }

// send proposes what is queued as one entry; with nothing queued, the next
// proposal will go by itself.
func (p *proposer) send() {
	entry, b := p.cut()
	if entry == nil {
		return
	}
	future := p.apply(entry)
	p.mu.Lock()
	b.future = future
	p.mu.Unlock()
}

// cut takes what is queued, within bounds, as one entry.
func (p *proposer) cut() (entry []byte, b *batch) {
	p.mu.Lock()
	n, size := 0, 0
	for _, pr := range p.queue {
		if n > 0 && (n == maxBatchCount || size+len(pr.data) > maxBatchBytes) {
			break
		}
		n++
		size += len(pr.data)
	}
	p.writing = n > 0 && !p.closed
	if !p.writing {
		p.mu.Unlock()
		return nil, nil
	}
	b = &batch{proposals: append([]*proposal(nil), p.queue[:n]...), since: time.Now()}
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	p.bytes -= size
	number := p.next
	p.next++
	p.pending[number] = b
	if !p.looking {
		p.looking = true
		// Owner: the proposer; ends when nothing is pending, or with quit.
		p.wg.Go(p.lookAfterOld)
	}
	p.mu.Unlock()

	entry = make([]byte, 0, entryHeader+size+n*(1+binary.MaxVarintLen32))
	entry = appendHead(entry, entryHead{member: p.member, batch: number, time: b.since.UnixMilli()})
	for _, pr := range b.proposals {
		entry = appendCommand(entry, pr.kind, pr.data)
		pr.data = nil
	}
	return entry, b
}

// lookAfterOld asks raft about batches that are long under way, and gives up
// those that have been too long, until there has been nothing pending for a
// while.
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
		if len(p.pending)+len(p.queue) > 0 {
			idle = 0
		}
		late := p.checkLocked()
		if idle == patience-1 {
			p.looking = false
		}
		p.mu.Unlock()
		for _, pr := range late {
			pr.result <- result{err: ErrTimeout}
		}
	}
}

// checkLocked sees to it that somebody waits for the future of each batch that
// has taken long, and returns the proposals whose time is up.
func (p *proposer) checkLocked() (late []*proposal) {
	for number, b := range p.pending {
		age := time.Since(b.since)
		if b.future != nil && !b.watched && age >= lookAfter {
			b.watched = true
			// Owner: the proposer; ends with the future, or with quit.
			p.wg.Go(func() {
				if err := await(p.quit, b.future); err != nil {
					p.fail(number, err)
				}
			})
		}
		if age >= p.timeout {
			late = append(late, b.proposals...)
			b.proposals = nil
		}
	}
	n := 0
	for n < len(p.queue) && time.Since(p.queue[n].since) >= p.timeout {
		p.bytes -= len(p.queue[n].data)
		n++
	}
	late = append(late, p.queue[:n]...)
	p.queue = append([]*proposal(nil), p.queue[n:]...)
	return late
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

// fail answers a batch with the error of its future, and lets the next go: the
// log will not tell of this one.
func (p *proposer) fail(number uint64, err error) {
	for _, pr := range p.take(entryHead{member: p.member, batch: number}) {
		pr.result <- result{err: proposeError(err)}
	}
	p.send()
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
		return ErrNoLeader
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
	return n
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
	p.queue = nil
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
