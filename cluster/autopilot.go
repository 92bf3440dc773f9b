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

// silence is after how long without an answer a member counts as away.
const silence = 3 * time.Second

// autopilot is what the leader does for the members, a step at a time. It
// belongs to the goroutine of Run.
type autopilot struct {
	me   *standing
	line *line

	stable map[uint64]time.Time // present and catching up since
	lost   map[uint64]time.Time // not present since
	said   string               // the reason last logged
}

// rest forgets the members while another one leads.
func (a *autopilot) rest() { a.stable, a.lost, a.said = nil, nil, "" }

// lead takes one step.
func (a *autopilot) lead(ctx context.Context, n *raftfsm.Node) {
	ms := n.Membership()
	if ms.Cluster == 0 {
		a.nameCluster(ctx, n)
		return
	}
	view := a.view(ctx, n, ms)
	step := discovery.Plan(view)
	if step.Kind == discovery.None {
		if step.Why != a.said {
			a.said = step.Why
			a.me.log.Debug("membership: nothing to do", "why", step.Why)
		}
		return
	}
	if err := a.take(ctx, n, step); err != nil {
		a.me.log.Warn("a step of membership failed; trying again", "step", step.Kind.String(), "member", fmt.Sprintf("%x", step.ID), "error", err)
		return
	}
	a.me.log.Info("membership", "step", step.Kind.String(), "member", fmt.Sprintf("%x", step.ID), "why", step.Why)
	a.me.Wake()
}

// nameCluster puts the new cluster's ID and first members into the log.
func (a *autopilot) nameCluster(ctx context.Context, n *raftfsm.Node) {
	var ids []uint64
	for _, s := range n.Servers() {
		ids = append(ids, s.ID)
	}
	_, err := n.Propose(ctx, &txn.Found{Cluster: a.me.Identity().Cluster, Members: a.first(ids)})
	if err != nil && !errors.Is(err, txn.ErrFounded) {
		a.me.log.Debug("the cluster could not be founded yet", "error", err)
		return
	}
	a.me.Wake()
}

// first are the members of a new cluster as far as this one knows them.
func (a *autopilot) first(servers []uint64) []*txn.Member {
	var out []*txn.Member
	for _, id := range servers {
		seen := a.me.cfg.Roster.sighting(id)
		m := &txn.Member{ID: id, Name: seen.Name} // with a name, as it has started
		if seen.Address != "" {
			m.PeerURLs = []string{a.me.cfg.Scheme + "://" + seen.Address}
		}
		if id == a.me.Identity().Member {
			m = a.me.record()
		}
		out = append(out, m)
	}
	return out
}

func (a *autopilot) take(ctx context.Context, n *raftfsm.Node, s discovery.Step) error {
	switch s.Kind {
	case discovery.AddNonvoter:
		return n.AddServer(s.ID, false)
	case discovery.AddVoter:
		return n.AddServer(s.ID, true)
	case discovery.RemoveRaft:
		if s.ID == a.me.Identity().Member && slices.ContainsFunc(n.Servers(), func(srv raftfsm.Server) bool { return srv.Voter && srv.ID != s.ID }) {
			// The next leader takes it out. A leader that took itself out and died
			// before the others have that entry would have a longer log than they
			// and no vote: of two, neither could lead again.
			return n.HandOver(ctx, 0)
		}
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
func (a *autopilot) view(ctx context.Context, n *raftfsm.Node, ms *raftfsm.Membership) discovery.View {
	if a.stable == nil {
		a.stable, a.lost = make(map[uint64]time.Time), make(map[uint64]time.Time)
	}
	self := a.me.Identity().Member
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
			wg.Go(func() { s.Present = a.line.answers(ctx, id) })
		}
	}
	wg.Wait()
	v := discovery.View{Self: self, Now: time.Now(), Last: last}
	for _, s := range states {
		a.remember(v.Now, s)
		v.Members = append(v.Members, *s)
	}
	return v
}

func (a *autopilot) remember(now time.Time, s *discovery.MemberState) {
	if !s.Present {
		delete(a.stable, s.ID)
		if a.lost[s.ID].IsZero() {
			a.lost[s.ID] = now
		}
		s.LostSince = a.lost[s.ID]
		return
	}
	delete(a.lost, s.ID)
	if a.stable[s.ID].IsZero() {
		a.stable[s.ID] = now
	}
	s.StableSince = a.stable[s.ID]
}
