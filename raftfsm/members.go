package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"limpet/txn"
)

const (
	// commitTimeout is how long after its last news a member is told the commit
	// index by raft itself. Hints are faster; this is for those that got lost.
	commitTimeout = 500 * time.Millisecond
	// changePatience bounds a change of raft's configuration.
	changePatience = 10 * time.Second
	// stallPatience is how many election timeouts a write of the log may take
	// before a leader falls silent, to make way for another.
	stallPatience = 4
	// slowWrites is how many writes of the log in a row must have taken half an
	// election timeout for the disk to count as slow.
	slowWrites = 3
)

func configuration(members []uint64) raft.Configuration {
	var c raft.Configuration
	for _, id := range members {
		c.Servers = append(c.Servers, raft.Server{ID: serverID(id), Address: raft.ServerAddress(serverID(id))})
	}
	return c
}

func memberID(id raft.ServerID) uint64 {
	n, _ := strconv.ParseUint(string(id), 16, 64) // ours, or 0
	return n
}

// Propose has the cluster agree on cmd and returns its result, wherever the
// leader is. When ctx or Config.ProposeTimeout (ErrTimeout) ends first, the
// command may still happen.
func (n *Node) Propose(ctx context.Context, cmd txn.Command) (any, error) {
	if err := n.readable(cmd); err != nil {
		return nil, err
	}
	return n.proposer.propose(ctx, cmd, false)
}

// ProposeAsLeader is Propose for what follows from this member's leading: from
// its clock, say. A quorum confirms first that it leads, and no other leader is
// asked: ErrNotLeader or ErrLeaderChanged then.
func (n *Node) ProposeAsLeader(ctx context.Context, cmd txn.Command) (any, error) {
	if err := n.readable(cmd); err != nil {
		return nil, err
	}
	if _, err := n.ConfirmedIndex(ctx); err != nil {
		return nil, err
	}
	return n.proposer.propose(ctx, cmd, true)
}

// readable returns an error unless all members can read cmd in the log.
func (n *Node) readable(cmd txn.Command) error {
	if txn.ForV2(cmd) && n.format() < v2Format {
		return ErrOldMember
	}
	return nil
}

// where is where proposals go.
func (n *Node) where() route {
	if !n.started.Load() {
		return route{}
	}
	if n.raft.State() == raft.Leader {
		return route{local: true}
	}
	term := n.raft.CurrentTerm() // before the leader: a newer one refuses the older term
	id := n.Leader()
	if id == n.cfg.MemberID || n.cfg.Peers == nil {
		id = 0
	}
	return route{leader: id, term: term}
}

// PartReports reports whether all members read a report that leaves the peer URLs
// as they are.
func (n *Node) PartReports() bool { return n.format() >= partFormat }

// format is that of the entries which this member proposes: the newest that
// everybody reads.
func (n *Node) format() byte { return byte(min(n.cfg.Format, n.Membership().Format())) }

func (n *Node) forward(leader, term uint64, entry []byte) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.ProposeTimeout)
	defer cancel()
	return n.cfg.Peers.Propose(ctx, leader, term, entry)
}

// Accept proposes the entry of another member, if this one leads in term, and
// returns when it is committed and applied here. ErrNotLeader means that
// certainly nothing happened.
func (n *Node) Accept(ctx context.Context, term uint64, entry []byte) error {
	if !n.leading.Load() || n.raft.CurrentTerm() != term {
		return ErrNotLeader
	}
	if err := checkEntry(entry); err != nil {
		return err
	}
	if n.proposer.full() {
		return ErrTooManyRequests
	}
	quit, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	err := await(quit.Done(), n.raft.Apply(entry, 0))
	if err != nil {
		return proposeError(err)
	}
	return nil
}

// watchLeaders follows who leads: what waits for a leader goes to it at once.
func (n *Node) watchLeaders(seen <-chan raft.Observation) {
	last := raft.ServerID("")
	for {
		select {
		case <-n.ctx.Done():
			return
		case o := <-seen:
			id := o.Data.(raft.LeaderObservation).LeaderID
			if id != "" && id != last {
				n.lead.Store(&leadership{memberID(id), time.Now()})
				if n.cfg.OnNewLeader != nil {
					n.cfg.OnNewLeader(memberID(id))
				}
			}
			if id != "" {
				last = id
				n.proposer.send()
				signal(n.led)
			}
		}
	}
}

// Campaign makes this member stand for election now, if it is a voter that
// follows leader: whoever calls knows that leader's process has ended.
func (n *Node) Campaign(leader uint64) {
	if n.Leader() == leader && leader != n.cfg.MemberID && n.votes() {
		n.transport.kick(serverID(n.cfg.MemberID))
	}
}

func (n *Node) votes() bool {
	for _, s := range n.Servers() {
		if s.ID == n.cfg.MemberID {
			return s.Voter
		}
	}
	return false
}

// committed runs on the FSM's goroutine before each batch is applied: the others
// hear of the commit at once, and apply it at the same time.
func (n *Node) committed(newest *raft.Log) {
	if others := n.followers(newest.Term); len(others) > 0 {
		n.transport.tell(others, hint{header: n.header(), term: newest.Term, index: newest.Index})
	}
}

// storing runs on raft's main goroutine before each write of the log: a leader's
// entries go to the others at the same time. What is no command waits for our
// own disk, as raft has it; so does the first entry of a term, since what
// precedes it is of another one.
func (n *Node) storing(logs []*raft.Log) {
	first, last := logs[0], logs[len(logs)-1]
	follows := n.tail == position{first.Index - 1, first.Term}
	n.tail = position{last.Index, last.Term}
	if !follows {
		return
	}
	for _, e := range logs {
		if e.Type != raft.LogCommand {
			return
		}
	}
	if others := n.followers(first.Term); len(others) > 0 {
		n.transport.sendAhead(others, n.header(), logs)
	}
}

// followers lists the others in raft's configuration, if this member leads in
// term.
func (n *Node) followers(term uint64) []raft.ServerID {
	if n.cfg.Peers == nil || !n.started.Load() || n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return nil
	}
	var others []raft.ServerID
	self := serverID(n.cfg.MemberID)
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.ID != self {
			others = append(others, s.ID)
		}
	}
	return others
}

func (n *Node) header() raft.RPCHeader {
	self := serverID(n.cfg.MemberID)
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(self), Addr: []byte(self)}
}

// stalled reports whether the log has been under way to the disk for so long
// that somebody else should lead.
func (n *Node) stalled() bool {
	return n.logs.underWay() > stallPatience*n.cfg.ElectionTimeout
}

// follows reports whether this member is a follower in term.
func (n *Node) follows(term uint64) bool {
	return n.started.Load() && n.raft.State() == raft.Follower && n.raft.CurrentTerm() == term
}

// soleVoter reports whether this member alone decides.
func (n *Node) soleVoter() bool {
	voters, self := 0, false
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || s.ID == serverID(n.cfg.MemberID)
		}
	}
	return self && voters == 1
}

// watchDisk hands leadership to a member with a faster disk when writes of our
// own log have become slow.
func (n *Node) watchDisk() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.giveWay:
		}
		if !n.leading.Load() {
			continue
		}
		ours := n.logs.newestSync()
		to, theirs := n.transport.fastest(n.voters())
		if to == "" || theirs > ours/2 {
			continue // nobody does better
		}
		n.log.Warn("the disk of this member is slow; handing leadership to one that is faster", "write", ours, "to", string(to), "there", theirs)
		ctx, cancel := context.WithTimeout(n.ctx, changePatience)
		if err := n.HandOver(ctx, memberID(to)); err != nil {
			n.log.Warn("leadership could not be handed over", "error", err)
		}
		cancel()
	}
}

// voters lists the other voters.
func (n *Node) voters() []raft.ServerID {
	var out []raft.ServerID
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != serverID(n.cfg.MemberID) {
			out = append(out, s.ID)
		}
	}
	return out
}

// Server is a member in raft's configuration.
type Server struct {
	ID    uint64
	Voter bool
}

// Servers lists raft's configuration by ID. It follows the Membership.
func (n *Node) Servers() []Server {
	var out []Server
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		out = append(out, Server{memberID(s.ID), s.Suffrage == raft.Voter})
	}
	slices.SortFunc(out, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// AddServer takes a member into raft, or makes one that is in it a voter.
func (n *Node) AddServer(id uint64, voter bool) error {
	n.transport.peer(serverID(id)).dismiss(false)
	add := n.raft.AddNonvoter
	if voter {
		add = n.raft.AddVoter
	}
	return changeError(await(n.ctx.Done(), add(serverID(id), raft.ServerAddress(serverID(id)), 0, changePatience)))
}

// RemoveServer takes a member out of raft.
func (n *Node) RemoveServer(id uint64) error {
	err := changeError(await(n.ctx.Done(), n.raft.RemoveServer(serverID(id), 0, changePatience)))
	if err == nil {
		n.transport.peer(serverID(id)).dismiss(true)
	}
	return err
}

func changeError(err error) error {
	if err == nil {
		return nil
	}
	return proposeError(err)
}

// HandOver makes another member leader: to, or whoever has most of the log if
// it is 0. It returns once this member has ceased to lead.
func (n *Node) HandOver(ctx context.Context, to uint64) error {
	if n.raft.State() != raft.Leader {
		return ErrNotLeader
	}
	var f raft.Future
	if to == 0 {
		f = n.raft.LeadershipTransfer()
	} else {
		f = n.raft.LeadershipTransferToServer(serverID(to), raft.ServerAddress(serverID(to)))
	}
	quit, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	err := await(quit.Done(), f)
	if errors.Is(err, raft.ErrRaftShutdown) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Progress is what this member, leading, knows of another one.
type Progress struct {
	ID      uint64
	Match   uint64        // the highest index known to be in its log
	Silence time.Duration // since its last answer; negative if there was none
	Since   time.Time     // it has answered without a break since; zero if it does not answer
	Appends Appends       // since the Node was opened
}

// Progress lists how far the other members are, by ID; nothing if this member
// does not lead.
func (n *Node) Progress() []Progress {
	if n.raft.State() != raft.Leader {
		return nil
	}
	var out []Progress
	self := serverID(n.cfg.MemberID)
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.ID != self {
			out = append(out, n.transport.peer(s.ID).picture(memberID(s.ID)))
		}
	}
	slices.SortFunc(out, func(a, b Progress) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
