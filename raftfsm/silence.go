package raftfsm

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// rankStep is by how much later each further member stands for election when a
// leader has fallen silent, so that they do not split the votes.
const rankStep = 150 * time.Millisecond

// Hearing is what a member answers when it is asked about the leader of a term.
type Hearing struct {
	Silent    bool // it has not heard from that leader for a while either
	LastTerm  uint64
	LastIndex uint64 // where its log ends
}

// Hear says whether this member hears leader, which leads in term.
func (n *Node) Hear(leader, term uint64) Hearing {
	h := Hearing{LastTerm: n.LastTerm(), LastIndex: n.raft.LastIndex()}
	if n.raft.State() == raft.Leader || n.raft.CurrentTerm() != term {
		return h
	}
	following := n.Leader()
	h.Silent = (following == 0 || following == leader) && time.Since(n.raft.LastContact()) > n.cfg.HeartbeatTimeout*3/4
	return h
}

// watchSilence stands for election soon after the leader has fallen silent: one
// whose machine lost its power or its network, and answers nothing. raft alone
// looks at random times, up to two heartbeat timeouts later, and refuses its
// vote until it has looked itself. Here the members ask each other: a quorum
// that hears nothing elects another one. A single member that hears nothing
// changes nothing: its own line may be cut.
func (n *Node) watchSilence() {
	every := n.cfg.HeartbeatTimeout / 10
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
		}
		left := n.cfg.HeartbeatTimeout
		if n.raft.State() == raft.Follower && n.Leader() != 0 {
			if left -= time.Since(n.raft.LastContact()); left <= 0 {
				n.askAround(n.Leader(), n.raft.CurrentTerm())
			}
		}
		timer.Reset(max(left, every))
	}
}

// askAround stands for election if a quorum does not hear the leader of term,
// and nobody else is to come first.
func (n *Node) askAround(leader, term uint64) {
	if n.cfg.Peers == nil || leader == n.cfg.MemberID || !n.votes() {
		return
	}
	voters, silent, before := n.hearings(leader, term)
	if 2*(silent+1) <= voters { // this one, too
		return
	}
	select {
	case <-n.ctx.Done():
		return
	case <-time.After(time.Duration(before) * rankStep):
	}
	if n.raft.CurrentTerm() == term && time.Since(n.raft.LastContact()) >= n.cfg.HeartbeatTimeout {
		n.log.Info("a quorum does not hear the leader; standing for election", "leader", string(serverID(leader)), "silent", silent+1, "voters", voters)
		n.Campaign(leader)
	}
}

// hearings asks the others: how many voters there are, how many of the others do
// not hear the leader either, and how many of these are to stand before this
// member, for they have more of the log, or as much and a lower ID.
func (n *Node) hearings(leader, term uint64) (voters, silent, before int) {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.HeartbeatTimeout/4)
	defer cancel()
	ours := Hearing{LastTerm: n.LastTerm(), LastIndex: n.raft.LastIndex()}
	var mu sync.Mutex // guards silent and before
	var wg sync.WaitGroup
	for _, s := range n.Servers() {
		if !s.Voter {
			continue
		}
		voters++
		if s.ID == leader || s.ID == n.cfg.MemberID {
			continue
		}
		// Owner: this call; ends with the answer or its deadline.
		wg.Go(func() {
			h, err := n.cfg.Peers.Hear(ctx, s.ID, leader, term)
			if err != nil || !h.Silent {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			silent++
			if h.more(ours) || !ours.more(h) && s.ID < n.cfg.MemberID {
				before++
			}
		})
	}
	wg.Wait()
	return voters, silent, before
}

// more reports whether h has more of the log than o.
func (h Hearing) more(o Hearing) bool {
	if h.LastTerm != o.LastTerm {
		return h.LastTerm > o.LastTerm
	}
	return h.LastIndex > o.LastIndex
}
