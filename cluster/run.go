package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"limpet/discovery"
	"limpet/raftfsm"
	"limpet/txn"
)

const (
	// stepEvery is how often the leader looks at the members.
	stepEvery = time.Second
	// meetEvery is how often gossip looks for members that it misses.
	meetEvery = 10 * time.Second
	// leavePatience bounds how long a removed member waits until raft goes on
	// without it.
	leavePatience = 5 * time.Second
	// lookEvery is how often the LAN is asked although nobody is missed: there may
	// be another cluster.
	lookEvery = time.Minute
	// reportFor bounds a member's report of itself.
	reportFor = 5 * time.Second
)

// Run keeps this member's record right and, while it leads, the membership; it
// returns when ctx ends.
func (l *Local) Run(ctx context.Context) {
	n := l.node.Load()
	ticker := time.NewTicker(stepEvery)
	defer ticker.Stop()
	met, looked := time.Now(), time.Now()
	for {
		l.settle(n)
		l.tell()
		if n.Leading() {
			l.lead(ctx, n)
		} else {
			l.watch = presence{removed: l.watch.removed}
		}
		l.report(ctx, n)
		if l.cfg.Gossip != nil && time.Since(met) > meetEvery {
			if l.misses(n) || time.Since(looked) > lookEvery {
				l.meet(ctx)
				looked = time.Now()
			}
			l.sayStrangers()
			met = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.wake:
		}
	}
}

// settle notes that something has been agreed on: the founding is over.
func (l *Local) settle(n *raftfsm.Node) {
	ms := n.Membership()
	if ms.WasRemoved(l.Identity().Member) {
		if l.outOfRaft(n) {
			l.removed()
		}
		return
	}
	if len(ms.Removed) != l.forgotten {
		for _, id := range ms.Removed {
			l.port.Forget(id)
			l.cfg.Roster.forget(id)
		}
		l.forgotten = len(ms.Removed)
	}
	if ms.Cluster != 0 && l.Identity().Forming {
		// The log is right about the name, should another founder have come first.
		err := l.keep(func(id *Identity) error { id.Cluster, id.Forming = ms.Cluster, false; return nil })
		if err != nil {
			l.log.Error("the identity of this member cannot be written", "error", err)
		}
	}
}

// outOfRaft reports whether a removed member may stop: once raft goes on
// without it, or that has taken too long. One that stopped before would be
// missed by a quorum that still counts it.
func (l *Local) outOfRaft(n *raftfsm.Node) bool {
	if l.watch.removed.IsZero() {
		l.watch.removed = time.Now()
	}
	return !inRaft(n, l.Identity().Member) || time.Since(l.watch.removed) > leavePatience
}

func inRaft(n *raftfsm.Node, id uint64) bool {
	return slices.ContainsFunc(n.Servers(), func(s raftfsm.Server) bool { return s.ID == id })
}

// tell has gossip spread what this member is.
func (l *Local) tell() {
	if l.cfg.Gossip == nil {
		return
	}
	d, clients := l.Description(), l.clientURLs() // before Update, which must not be asked back
	l.cfg.Gossip.Update(func(in *discovery.Info) {
		in.ID, in.Cluster, in.State, in.Name = d.ID, d.Cluster, d.Settled(), d.Name
		in.Index, in.Term, in.Recovered = d.Index, d.Term, d.Recovered
		in.Peer, in.Client, in.Expect = d.Address, clients, uint8(l.cfg.Expect)
	})
	var heard []string
	for _, p := range l.cfg.Gossip.Peers() {
		if p.Recovered != 0 && p.Recovered == d.Cluster && p.Status == discovery.Alive {
			l.cfg.Broken(fmt.Errorf("%w (as cluster %x, by %s)", ErrRecovered, p.Cluster, p.Name))
		}
		if p.Cluster == d.Cluster && p.Status != discovery.Left {
			heard = append(heard, p.Gossip)
		}
	}
	l.cfg.Roster.heard(heard)
}

// misses reports whether a member of the cluster is unknown to gossip.
func (l *Local) misses(n *raftfsm.Node) bool {
	alive := map[uint64]bool{l.Identity().Member: true}
	for _, p := range l.cfg.Gossip.Peers() {
		if p.Status == discovery.Alive {
			alive[p.ID] = true
		}
	}
	return slices.ContainsFunc(n.Membership().Members, func(m *txn.Member) bool { return !alive[m.ID] })
}

// report brings this member's record up to date: its name, where it is, what
// it can read.
func (l *Local) report(ctx context.Context, n *raftfsm.Node) {
	ms := n.Membership()
	self := ms.Self
	if self == nil || n.Leader() == 0 {
		return
	}
	now := l.recordOver(ms, self)
	if same(self, now) {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, reportFor)
	defer cancel()
	if _, err := n.Propose(rctx, now); err != nil {
		l.log.Debug("this member could not report itself", "error", err)
	}
}

func same(a, b *txn.Member) bool {
	return a.Name == b.Name && a.Version == b.Version && a.Format == b.Format &&
		slices.Equal(a.PeerURLs, b.PeerURLs) && slices.Equal(a.ClientURLs, b.ClientURLs)
}

// Reported returns once the cluster knows this member as it is.
func (l *Local) Reported(ctx context.Context) error {
	n := l.node.Load()
	for {
		if ms := n.Membership(); ms.Self != nil && same(ms.Self, l.recordOver(ms, ms.Self)) {
			return nil
		}
		if l.Identity().Removed {
			return ErrRemoved
		}
		l.Wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// presence is what the leader remembers of the members from look to look.
type presence struct {
	stable map[uint64]time.Time // present and catching up since
	lost   map[uint64]time.Time // not present since
	said   string               // the reason last logged
	// removed is when this member saw its own removal.
	removed time.Time
}

// lead takes one step.
func (l *Local) lead(ctx context.Context, n *raftfsm.Node) {
	ms := n.Membership()
	if ms.Cluster == 0 {
		l.nameCluster(ctx, n)
		return
	}
	view := l.view(ctx, n, ms)
	step := discovery.Plan(view)
	if step.Kind == discovery.None {
		if step.Why != l.watch.said {
			l.watch.said = step.Why
			l.log.Debug("membership: nothing to do", "why", step.Why)
		}
		return
	}
	if err := l.take(ctx, n, step); err != nil {
		l.log.Warn("a step of membership failed; trying again", "step", step.Kind.String(), "member", fmt.Sprintf("%x", step.ID), "error", err)
		return
	}
	l.log.Info("membership", "step", step.Kind.String(), "member", fmt.Sprintf("%x", step.ID), "why", step.Why)
	l.Wake()
}

// nameCluster puts the new cluster's ID and first members into the log.
func (l *Local) nameCluster(ctx context.Context, n *raftfsm.Node) {
	var ids []uint64
	for _, s := range n.Servers() {
		ids = append(ids, s.ID)
	}
	_, err := n.Propose(ctx, &txn.Found{Cluster: l.Identity().Cluster, Members: l.first(ids)})
	if err != nil && !errors.Is(err, txn.ErrFounded) {
		l.log.Debug("the cluster could not be founded yet", "error", err)
		return
	}
	l.Wake()
}

func (l *Local) take(ctx context.Context, n *raftfsm.Node, s discovery.Step) error {
	switch s.Kind {
	case discovery.AddNonvoter:
		return n.AddServer(s.ID, false)
	case discovery.AddVoter:
		return n.AddServer(s.ID, true)
	case discovery.RemoveRaft:
		return n.RemoveServer(s.ID)
	}
	var cmd txn.Command
	switch s.Kind {
	case discovery.Promote:
		cmd = &txn.MemberPromote{ID: s.ID, Replaces: s.Replaces}
	case discovery.Release:
		cmd = &txn.MemberRelease{ID: s.ID}
	case discovery.RemoveMember:
		cmd = &txn.MemberRemove{ID: s.ID}
	}
	_, err := n.Propose(ctx, cmd)
	return err
}

// view is the cluster as this member, leading, sees it.
func (l *Local) view(ctx context.Context, n *raftfsm.Node, ms *raftfsm.Membership) discovery.View {
	if l.watch.stable == nil {
		l.watch.stable, l.watch.lost = make(map[uint64]time.Time), make(map[uint64]time.Time)
	}
	self := l.Identity().Member
	states := make(map[uint64]*discovery.MemberState)
	get := func(id uint64) *discovery.MemberState {
		if states[id] == nil {
			states[id] = &discovery.MemberState{ID: id}
		}
		return states[id]
	}
	for _, m := range ms.Members {
		s := get(m.ID)
		s.Name, s.InState, s.Learner, s.Auto, s.Replaces, s.Started = m.Name, true, m.Learner, m.Auto, m.Replaces, m.Started()
	}
	for _, srv := range n.Servers() {
		s := get(srv.ID)
		s.InRaft, s.Voter = true, srv.Voter
	}
	last := n.Status().LastIndex
	for _, p := range n.Progress() {
		s := get(p.ID)
		s.Match, s.Present = p.Match, !p.Since.IsZero() && p.Silence < silence
	}
	var wg sync.WaitGroup
	for id, s := range states {
		switch {
		case id == self:
			s.Present, s.Match = true, last
		case !s.InRaft:
			// Owner: this call; ends with the answer or its deadline.
			wg.Go(func() { s.Present = l.answers(ctx, id) })
		}
	}
	wg.Wait()
	v := discovery.View{Self: self, Now: time.Now(), Last: last}
	for _, s := range states {
		l.remember(v.Now, s)
		v.Members = append(v.Members, *s)
	}
	return v
}

// silence is after how long without an answer a member counts as away.
const silence = 3 * time.Second

func (l *Local) remember(now time.Time, s *discovery.MemberState) {
	if !s.Present {
		delete(l.watch.stable, s.ID)
		if l.watch.lost[s.ID].IsZero() {
			l.watch.lost[s.ID] = now
		}
		s.LostSince = l.watch.lost[s.ID]
		return
	}
	delete(l.watch.lost, s.ID)
	if l.watch.stable[s.ID].IsZero() {
		l.watch.stable[s.ID] = now
	}
	s.StableSince = l.watch.stable[s.ID]
}
