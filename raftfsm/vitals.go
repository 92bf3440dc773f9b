package raftfsm

import (
	"context"
	"fmt"
)

// Vitals is how far the parts of a member are that everything waits for. Each
// figure only grows.
type Vitals struct {
	Committed uint64 // agreed on, as far as this member has heard
	Applied   uint64 // of that, in memory
	Durable   uint64 // of that, in the database
	Received  uint64 // pieces of another member's database
	// Adopting: such a database is being made ours, which raft's own loop waits for.
	Adopting bool
}

// Vitals returns where this member is now.
func (n *Node) Vitals() Vitals {
	v := Vitals{
		Durable: n.cfg.Store.Durable(), Applied: n.cfg.Store.Applied(),
		Received: n.fsm.snaps.received.Load(), Adopting: n.fsm.snaps.adopting.Load(),
	}
	v.Committed = n.Committed() // last: it is never behind Applied
	return v
}

// Turns returns once raft's own loop has taken a question, which costs a round of
// heartbeats where this member leads, or with the error of ctx. A loop that hangs
// is asked by one question, however often Turns is called.
func (n *Node) Turns(ctx context.Context) error {
	n.turnMu.Lock()
	asked := n.turn
	if asked == nil {
		asked = make(chan struct{})
		n.turn = asked
		// Owner: Node; ends with raft's answer. What the answer says of the
		// leader does not matter: it came from the loop.
		go func() {
			_ = n.raft.VerifyLeader().Error()
			n.turnMu.Lock()
			n.turn = nil
			n.turnMu.Unlock()
			close(asked)
		}()
	}
	n.turnMu.Unlock()
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("raft's loop does not turn: %w", ctx.Err())
	}
}
