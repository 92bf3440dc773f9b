package server

import (
	"context"
	"fmt"
	"time"

	"limpet/raftfsm"
)

// stuckAfter is how long a part of the member may be seen with work and do none of
// it. The keeper lets changes ripen for ten seconds, and a card may take as long
// again to write them.
const stuckAfter = 30 * time.Second

// pulse tells whether a member makes progress. It is asked by one goroutine.
type pulse struct {
	now    func() time.Time
	turns  func(context.Context) error // raft's loop answers
	vitals func() raftfsm.Vitals
	// disk is why the database cannot be written; nil: it can. The keeper tries
	// again by itself, which starting anew would not do better.
	disk func() error

	applying, flushing part
	received           uint64
}

// part is one that takes work in order: up to goal, and has come to at.
type part struct {
	at    uint64
	busy  bool      // at the last look it had work
	moved time.Time // when it was last seen to have moved, or to have got work
}

// stuck reports for how long the part has been seen to have work and do none.
func (p *part) stuck(at, goal uint64, now time.Time) time.Duration {
	if !p.busy || at != p.at {
		p.at, p.moved = at, now
	}
	p.busy = at < goal
	return now.Sub(p.moved)
}

// rest has the part begin anew: what it waited for was not its own fault.
func (p *part) rest(now time.Time) { p.moved = now }

// check is nil while everything moves, or says what does not.
func (p *pulse) check(ctx context.Context) error {
	v, now := p.vitals(), p.now()
	applying := p.applying.stuck(v.Applied, v.Committed, now)
	flushing := p.flushing.stuck(v.Durable, v.Applied, now)
	catchingUp := v.Adopting || v.Received != p.received
	p.received = v.Received
	if catchingUp {
		// The leader's database comes in, in raft's own loop.
		p.applying.rest(now)
		p.flushing.rest(now)
		return nil
	}
	if err := p.turns(ctx); err != nil {
		return err
	}
	switch {
	case p.disk() != nil:
		p.applying.rest(now) // what waits for the disk
		p.flushing.rest(now)
		return nil
	case applying > stuckAfter:
		return fmt.Errorf("for %v nothing was applied: %d of %d", applying, v.Applied, v.Committed)
	case flushing > stuckAfter:
		return fmt.Errorf("for %v nothing reached the database: %d of %d", flushing, v.Durable, v.Applied)
	}
	return nil
}
