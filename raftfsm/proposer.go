package raftfsm

import (
	"context"
	"encoding/binary"
	"errors"
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
)

type result struct {
	resp any
	err  error
}

type proposal struct {
	cmd    txn.Command
	kind   byte
	data   []byte
	result chan result // holds one; written once
}

// proposer gathers proposals into entries. While one entry is being written to
// the log, arriving proposals queue up; then one entry carries them all. At
// rest a proposal leaves at once: there is no timer.
type proposer struct {
	member  uint64
	apply   func(entry []byte) raft.ApplyFuture
	maxSize int

	// mu guards the fields below.
	mu      sync.Mutex
	queue   []*proposal
	bytes   int
	next    uint64                 // number of the next batch
	pending map[uint64][]*proposal // proposed and not answered, by batch
	closed  bool

	wake   chan struct{} // holds one: the queue is not empty
	stored chan struct{} // holds one: the log has taken the entry in flight
	quit   chan struct{}
	wg     sync.WaitGroup
}

func newProposer(member uint64, maxSize int, apply func([]byte) raft.ApplyFuture) *proposer {
	p := &proposer{
		member: member, apply: apply, maxSize: maxSize,
		next:    uint64(time.Now().UnixNano()), // distinct from batches before a restart
		pending: make(map[uint64][]*proposal),
		wake:    make(chan struct{}, 1),
		stored:  make(chan struct{}, 1),
		quit:    make(chan struct{}),
	}
	// Owner: the proposer; ends when close closes quit.
	p.wg.Go(p.run)
	return p
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
	pr := &proposal{cmd: cmd, kind: kind, data: data, result: make(chan result, 1)}
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
	defer p.mu.Unlock()
	if p.closed {
		return ErrStopped
	}
	if len(p.queue) >= maxQueueCount || p.bytes >= maxQueueBytes {
		return ErrTooManyRequests
	}
	p.queue = append(p.queue, pr)
	p.bytes += len(pr.data)
	signal(p.wake)
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *proposer) run() {
	for {
		select {
		case <-p.wake:
		case <-p.quit:
			return
		}
		for {
			entry, batch := p.cut()
			if entry == nil {
				break
			}
			select {
			case <-p.stored: // left over from an entry that was not ours
			default:
			}
			future := p.apply(entry)
			failed := make(chan struct{})
			// Owner: the proposer; ends with the future, which raft always answers.
			p.wg.Go(func() {
				if err := future.Error(); err != nil {
					p.fail(batch, err)
					close(failed)
				}
			})
			select {
			case <-p.stored:
			case <-failed:
			case <-p.quit:
				return
			}
		}
	}
}

// cut takes what is queued, within bounds, as one entry.
func (p *proposer) cut() (entry []byte, batch uint64) {
	p.mu.Lock()
	n, size := 0, 0
	for _, pr := range p.queue {
		if n > 0 && (n == maxBatchCount || size+len(pr.data) > maxBatchBytes) {
			break
		}
		n++
		size += len(pr.data)
	}
	if n == 0 {
		p.mu.Unlock()
		return nil, 0
	}
	taken := append([]*proposal(nil), p.queue[:n]...)
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	p.bytes -= size
	batch = p.next
	p.next++
	p.pending[batch] = taken
	p.mu.Unlock()

	entry = make([]byte, 0, entryHeader+size+n*(1+binary.MaxVarintLen32))
	entry = appendHead(entry, entryHead{member: p.member, batch: batch, time: time.Now().UnixMilli()})
	for _, pr := range taken {
		entry = appendCommand(entry, pr.kind, pr.data)
		pr.data = nil
	}
	return entry, batch
}

// onStored tells that the log has written entries: the next may go.
func (p *proposer) onStored() { signal(p.stored) }

// take returns the proposals of a batch that this process proposed and has not
// answered.
func (p *proposer) take(h entryHead) []*proposal {
	if h.member != p.member {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	batch := p.pending[h.batch]
	delete(p.pending, h.batch)
	return batch
}

func (p *proposer) fail(batch uint64, err error) {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		err = ErrNoLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		err = ErrLeaderChanged
	case errors.Is(err, raft.ErrRaftShutdown):
		err = ErrStopped
	}
	for _, pr := range p.take(entryHead{member: p.member, batch: batch}) {
		pr.result <- result{err: err}
	}
}

// pendingCount is the number of proposals that wait for their result.
func (p *proposer) pendingCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.queue)
	for _, b := range p.pending {
		n += len(b)
	}
	return n
}

// close refuses further proposals and answers those that wait. raft must have
// stopped, so that every future has its answer.
func (p *proposer) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	waiting := p.queue
	p.queue = nil
	p.mu.Unlock()
	close(p.quit)
	for _, pr := range waiting {
		pr.result <- result{err: ErrStopped}
	}
	p.wg.Wait()
}
