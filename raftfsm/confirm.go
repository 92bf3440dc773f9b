package raftfsm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pulseRest is how long a member that did not answer is left alone.
const pulseRest = 100 * time.Millisecond

// errDeposed: this member has ceased to lead.
var errDeposed = errors.New("raftfsm: this member does not lead any more")

// pulses asks the others whether this member still leads. All who ask share the
// heartbeats: one that is sent answers everybody who had asked before.
//
// raft's own VerifyLeader also counts answers to what was sent before the
// question. A leader that was paused finds such answers when it goes on, and
// would believe in a leadership that has ended (TestOldAnswersConfirmNothing).
type pulses struct {
	send func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error
	quit chan struct{}
	wg   *sync.WaitGroup

	mu      sync.Mutex // guards the fields below, and those of members
	changed *sync.Cond
	asked   uint64 // counts the questions
	waiting int    // those without an answer
	header  raft.RPCHeader
	term    uint64 // of the newest question
	members map[raft.ServerID]*pulse
}

// pulse is what is known of one member.
type pulse struct {
	due      chan struct{} // holds one: somebody asks
	answered uint64        // the newest question it has heard of, and answered as a follower
	term     uint64        // in which
}

func newPulses(t *transport) *pulses {
	p := &pulses{send: t.AppendEntries, quit: t.quit, wg: &t.wg, members: make(map[raft.ServerID]*pulse)}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// question is asked by a leader of term among the other voters.
type question struct {
	header raft.RPCHeader
	term   uint64
	voters []raft.ServerID // the others
	need   int             // how many of them make a quorum, with this member
	leads  func() bool     // whether it still makes sense to wait
}

// confirm returns nil once enough members have answered to heartbeats that were
// sent after the call. Otherwise it returns when ctx ends, or when this member
// leads no more.
func (s *pulses) confirm(ctx context.Context, q question) error {
	defer context.AfterFunc(ctx, s.again)()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	s.waiting++
	defer func() { s.waiting-- }()
	number := s.asked
	s.header, s.term = q.header, q.term
	for _, id := range q.voters {
		signal(s.memberLocked(id).due)
	}
	for {
		switch {
		case s.haveLocked(q, number) >= q.need:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !q.leads():
			return errDeposed
		}
		s.changed.Wait()
	}
}

func (s *pulses) haveLocked(q question, number uint64) (have int) {
	for _, id := range q.voters {
		if p := s.members[id]; p.answered >= number && p.term == q.term {
			have++
		}
	}
	return have
}

// again has those who wait look again.
func (s *pulses) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *pulses) memberLocked(id raft.ServerID) *pulse {
	p := s.members[id]
	if p == nil {
		p = &pulse{due: make(chan struct{}, 1)}
		s.members[id] = p
		// Owner: transport; ends when close closes quit.
		s.wg.Go(func() { s.serve(id, p) })
	}
	return p
}

func (s *pulses) serve(id raft.ServerID, p *pulse) {
	for {
		select {
		case <-p.due:
		case <-s.quit:
			return
		}
		for s.beat(id, p) {
		}
	}
}

// beat sends a heartbeat, if anybody waits for one. It reports whether to look
// again.
func (s *pulses) beat(id raft.ServerID, p *pulse) bool {
	s.mu.Lock()
	number := s.asked
	req := &raft.AppendEntriesRequest{RPCHeader: s.header, Term: s.term}
	idle := s.waiting == 0 || p.answered >= number && p.term == s.term
	s.mu.Unlock()
	if idle {
		return false
	}
	resp := new(raft.AppendEntriesResponse)
	if err := s.send(id, raft.ServerAddress(id), req, resp); err != nil || !resp.Success {
		s.again() // it may not make sense any more
		select {
		case <-time.After(pulseRest):
			return true
		case <-s.quit:
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.answered, p.term = number, req.Term
	s.changed.Broadcast()
	return true
}
