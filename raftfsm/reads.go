package raftfsm

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// retryRead is how long a read that found no leader waits before asking
	// again (etcd: 500 ms).
	retryRead = 50 * time.Millisecond
	// askPatience is how long the leader may take to confirm that it leads.
	askPatience = 2 * time.Second
)

// read waits for an index that the cluster has confirmed.
type read struct {
	ctx  context.Context
	done chan error // holds one
}

// ReadIndex returns once the store's published view reflects everything that
// was acknowledged, anywhere, before the call (I7). Without a leader it waits
// for one until ctx ends.
func (n *Node) ReadIndex(ctx context.Context) error {
	if n.ReadsLocally() {
		return nil
	}
	r := &read{ctx, make(chan error, 1)}
	select {
	case n.reads <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return ErrStopped
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return ErrStopped
	}
}

// ReadsLocally reports whether the published view is always up to date: this
// member leads and is the only voter, so nobody else can acknowledge anything,
// and it acknowledges only what it has published.
func (n *Node) ReadsLocally() bool { return n.leading.Load() && n.soleVoter() }

// serveReads has one index confirmed for all reads that wait. Those that come
// while it is being confirmed wait for the next: their writes may be newer.
func (n *Node) serveReads() {
	for {
		var waiting []*read
		select {
		case <-n.ctx.Done():
			return
		case r := <-n.reads:
			waiting = append(waiting, r)
		}
		for len(waiting) > 0 {
			waiting = n.gather(waiting, 0)
			if err := n.confirm(); err != nil {
				waiting = n.gather(waiting, retryRead)
				continue
			}
			for _, r := range waiting {
				r.done <- nil
			}
			waiting = nil
		}
	}
}

// gather adds the reads that arrive within the time and drops those whose
// callers have gone.
func (n *Node) gather(waiting []*read, within time.Duration) []*read {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for more := true; more; {
		select {
		case r := <-n.reads:
			waiting = append(waiting, r)
			continue
		default:
		}
		if within == 0 {
			break
		}
		select {
		case r := <-n.reads:
			waiting = append(waiting, r)
		case <-timer.C:
			more = false
		case <-n.led:
			more = false
		case <-n.ctx.Done():
			return nil
		}
	}
	live := waiting[:0]
	for _, r := range waiting {
		if r.ctx.Err() == nil {
			live = append(live, r)
		}
	}
	return live
}

// confirm returns when what is published here reflects all that was
// acknowledged before the call.
func (n *Node) confirm() error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(n.ctx, askPatience)
	defer cancel()
	index, err := n.ConfirmedIndex(ctx)
	if errors.Is(err, ErrNotLeader) {
		if leader := n.where().leader; leader == 0 || n.cfg.Peers == nil {
			err = ErrNoLeader
		} else {
			index, err = n.cfg.Peers.ReadIndex(ctx, leader)
		}
	}
	if err == nil {
		err = n.cfg.Store.WaitApplied(n.ctx, index)
	}
	if n.cfg.Observe.Wait != nil {
		n.cfg.Observe.Wait(time.Since(began), err != nil)
	}
	return err
}

// ConfirmedIndex returns an index that covers all that was acknowledged before
// the call, once a quorum has confirmed that this member leads. ErrNotLeader if
// it does not.
func (n *Node) ConfirmedIndex(ctx context.Context) (uint64, error) {
	// The notice of a loss of leadership may be late, and this member may lead
	// again meanwhile: then what others committed in between is not applied yet.
	term := n.raft.CurrentTerm()
	if !n.leading.Load() || n.opened.Load() != term {
		return 0, ErrNotLeader
	}
	// leading: an entry of this term is applied, so the commit index is the
	// cluster's (Raft thesis, 6.4). What no FSM ever sees, such as the empty
	// entry of a new term, lies below that entry.
	index := n.raft.CommitIndex()
	if n.transport.pulses.confirm(ctx, n.question(term)) != nil || n.raft.CurrentTerm() != term {
		return 0, ErrLeaderChanged
	}
	return index, nil
}

// StillLeads returns nil if this member leads: a quorum has said so to what it
// was sent within half a heartbeat timeout, and elects nobody else for longer, or
// it says so now. One that was paused, or whose disk stalls, has to ask. Otherwise
// it returns ErrNotLeader.
func (n *Node) StillLeads(ctx context.Context) error {
	q := n.question(n.raft.CurrentTerm())
	if n.leading.Load() && q.leads() && n.transport.answered(q.voters, time.Now().Add(-n.cfg.HeartbeatTimeout/2)) >= q.need {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if _, err := n.ConfirmedIndex(ctx); err != nil {
		return ErrNotLeader
	}
	return nil
}

// question asks whether this member leads in term.
func (n *Node) question(term uint64) question {
	self := serverID(n.cfg.MemberID)
	q := question{header: n.header(), term: term, leads: func() bool {
		return n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term && !n.stalled()
	}}
	all := 0
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		all++
		if s.ID != self {
			q.voters = append(q.voters, s.ID)
		}
	}
	q.need = all/2 + 1 - (all - len(q.voters)) // this member counts if it is a voter
	return q
}

// catchUp waits, at the start, until this member has what the cluster had when
// it started.
func (n *Node) catchUp() {
	if err := n.ReadIndex(n.ctx); err == nil {
		n.nowReady()
	}
}
