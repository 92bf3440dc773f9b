package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Defaults of a View.
const (
	DefaultStabilization = 10 * time.Second
	DefaultMaxTrailing   = 1000
	// DefaultReplaceAfter is longer than a reboot with a file system check.
	DefaultReplaceAfter = 10 * time.Minute
	DefaultMaxVoters    = 7
)

// View is the cluster as its leader sees it.
type View struct {
	Self    uint64 // the leader's own ID
	Now     time.Time
	Last    uint64        // the leader's last log index
	Members []MemberState // of the replicated membership or of raft's configuration; any order, one for each ID

	// Stabilization is how long a member has been well before it is promoted,
	// and away before it is taken for gone. Zero is the default, negative none.
	Stabilization time.Duration
	// MaxTrailing is by how many log entries a member may trail to count as
	// caught up. Zero is the default.
	MaxTrailing uint64
	// ReplaceAfter is how long a voter is lost before another may take its
	// place. Zero is the default, negative never.
	ReplaceAfter time.Duration
	// MaxVoters bounds the voters that come about by promotion. Zero is the
	// default.
	MaxVoters int
}

// MemberState is one member in a View.
type MemberState struct {
	ID   uint64
	Name string

	InState  bool   // it is in the replicated membership
	Learner  bool   // there: a learner
	Auto     bool   // there: it joined by itself, to be promoted when it is ready
	Replaces uint64 // there: the member whose place it takes when ready, 0 none
	Started  bool   // it has reported itself at least once

	InRaft bool // it is in raft's configuration
	Voter  bool // there: a voter

	Present     bool      // its process answered the leader within the last few seconds
	Match       uint64    // highest log index known to be on it, 0 unknown
	StableSince time.Time // Present and catching up without a break since
	LostSince   time.Time // not Present since, zero if it is, or if unknown
}

// StepKind is what a Step does.
type StepKind uint8

const (
	// None: there is nothing to do; Why tells of the first who waits.
	None StepKind = iota
	// AddNonvoter adds ID to raft's configuration, without a vote.
	AddNonvoter
	// AddVoter gives ID, which is in raft's configuration, a vote.
	AddVoter
	// RemoveRaft takes ID out of raft's configuration.
	RemoveRaft
	// Promote makes ID a voter in the replicated membership, and sets its
	// Replaces to that of the Step.
	Promote
	// RemoveMember takes ID out of the replicated membership.
	RemoveMember
	// Release sets Replaces of ID to 0 in the replicated membership: the member
	// it was to replace is back.
	Release
)

func (k StepKind) String() string {
	names := [...]string{"none", "add nonvoter", "add voter", "remove from raft", "promote", "remove member", "release"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("step %d", uint8(k))
}

// Step is one change of membership.
type Step struct {
	Kind     StepKind
	ID       uint64
	Replaces uint64 // of a Promote: the member whose place ID takes, 0 none
	Why      string // for the log
}

// Plan returns the one step to take now; called again once it is done, or once
// it has failed, it returns the next. It depends on the View alone, and on its
// Members whatever their order. The rules, in the order in which they are asked,
// and for each the members by ID:
//
//	R0  Without a quorum of present voters nothing is done: nothing could be
//	    committed. A voter in raft that is a learner in the membership cannot
//	    be: it is left alone and told of.
//	R1  Who is in raft but was removed from the membership leaves raft, if it
//	    has no vote or is away.
//	R2  A voter of the membership that has no vote in raft yet, has reported
//	    itself, is present and has caught up gets it.
//	R3  Who is in the membership and present but not in raft is added without a
//	    vote. So a member that was announced and never started is not in raft,
//	    and costs no quorum.
//	R4  A learner that joined by itself, is in raft, and has been caught up and
//	    present for Stabilization is promoted, if there are fewer voters than
//	    MaxVoters; those about to be replaced do not count. Learners added by
//	    hand are never promoted here.
//	R5  If it came to replace a member that is away, or if a voter has been
//	    lost for ReplaceAfter, it takes that one's place: the promotion says so.
//	    While voters are odd in number and one of them is lost, but not so
//	    long, as many learners as are lost stand by: their votes would not let
//	    the cluster bear any more failures, and would leave nobody to stand in.
//	R6  Who is in raft, was removed from the membership and still votes leaves
//	    raft after all of the above, the leader itself last of all.
//	R7  Once the member that takes a place has its vote, the one replaced, if
//	    still away, is removed from the membership (then R1 applies). If it is
//	    back, it keeps its place and the other is released from taking it. The
//	    place of a learner is taken as soon as the other has caught up.
//	    Nobody else is ever removed: boards get switched off.
//
// Invariant: after a Step, the present voters are a quorum of raft's
// configuration, if they were before.
func Plan(v View) Step {
	p := newPlan(v)
	if step, ok := p.halted(); ok {
		return step
	}
	for _, rule := range []func() (Step, bool){
		p.removeIdle, p.addVoter, p.addNonvoter, p.promote, p.removeVoting, p.release, p.removeReplaced, p.removeSelf,
	} {
		if step, ok := rule(); ok {
			return step
		}
	}
	return p.waiting()
}

// plan is a View with its defaults, and what the rules ask of it again and again.
type plan struct {
	View
	byID    map[uint64]*MemberState
	voters  int // in raft's configuration
	present int // of them
}

func newPlan(v View) *plan {
	v.Stabilization = cmp.Or(v.Stabilization, DefaultStabilization)
	v.MaxTrailing = cmp.Or(v.MaxTrailing, DefaultMaxTrailing)
	v.ReplaceAfter = cmp.Or(v.ReplaceAfter, DefaultReplaceAfter)
	v.MaxVoters = cmp.Or(v.MaxVoters, DefaultMaxVoters)
	v.Members = slices.Clone(v.Members)
	slices.SortFunc(v.Members, func(a, b MemberState) int { return cmp.Compare(a.ID, b.ID) })
	p := &plan{View: v, byID: make(map[uint64]*MemberState, len(v.Members))}
	for i := range p.Members {
		m := &p.Members[i]
		if m.ID == p.Self { // who plans is there
			m.Present, m.Match = true, p.Last
		}
		p.byID[m.ID] = m
		if m.votes() {
			p.voters++
			if m.Present {
				p.present++
			}
		}
	}
	return p
}

// votes: in raft. isVoter: in the membership, with a vote in raft or soon.
func (m *MemberState) votes() bool   { return m.InRaft && m.Voter }
func (m *MemberState) isVoter() bool { return m.InState && !m.Learner }

// impossible is a vote in raft that the membership knows nothing of.
func (m *MemberState) impossible() bool { return m.InState && m.Learner && m.votes() }

func (p *plan) caughtUp(m *MemberState) bool {
	return m.Present && (m.Match > 0 || p.Last == 0) && m.Match+p.MaxTrailing >= p.Last
}

// ready: an Auto learner that may be promoted as far as its own state goes.
func (p *plan) ready(m *MemberState) bool {
	return m.InState && m.Learner && m.Auto && m.InRaft && !m.Voter && p.well(m)
}

func (p *plan) well(m *MemberState) bool {
	return p.caughtUp(m) && !m.StableSince.IsZero() && p.Now.Sub(m.StableSince) >= p.Stabilization
}

// away: not just for a moment.
func (p *plan) away(m *MemberState) bool { return p.lostFor(m, p.Stabilization) }

func (p *plan) lostFor(m *MemberState, d time.Duration) bool {
	return m.ID != p.Self && !m.Present && !m.LostSince.IsZero() && p.Now.Sub(m.LostSince) >= d
}

// lostVoter: a started voter that has been lost for so long that another may
// take its place. One that never started is not lost.
func (p *plan) lostVoter(m *MemberState) bool {
	return p.ReplaceAfter > 0 && m.isVoter() && m.Started && p.lostFor(m, p.ReplaceAfter)
}

// heir returns the member, not away itself, that takes the place of m, nil if
// there is none. A learner added by hand takes nobody's.
func (p *plan) heir(m *MemberState) *MemberState {
	for i := range p.Members {
		h := &p.Members[i]
		if h.InState && (h.Auto || !h.Learner) && h.Replaces == m.ID && h.ID != m.ID && !p.away(h) {
			return h
		}
	}
	return nil
}

// survives: the invariant, for a configuration with so many voters, of which so
// many are present.
func survives(voters, present int) bool { return voters > 0 && present >= voters/2+1 }

// survivesWithout: the same, m taken out of raft.
func (p *plan) survivesWithout(m *MemberState) bool {
	voters, present := p.voters, p.present
	if m.votes() {
		voters--
		if m.Present {
			present--
		}
	}
	return survives(voters, present)
}

// find returns a step for the first member, by ID, for which ok holds.
func (p *plan) find(kind StepKind, why string, ok func(*MemberState) bool) (Step, bool) {
	for i := range p.Members {
		if m := &p.Members[i]; !m.impossible() && ok(m) {
			return Step{Kind: kind, ID: m.ID, Why: why}, true
		}
	}
	return Step{}, false
}

// halted is R0.
func (p *plan) halted() (Step, bool) {
	switch self := p.byID[p.Self]; {
	case self == nil || !self.votes():
		return Step{Why: fmt.Sprintf("member %x plans, but has no vote in raft", p.Self)}, true
	case !survives(p.voters, p.present):
		return Step{Why: fmt.Sprintf("only %d of %d voters are present", p.present, p.voters)}, true
	}
	return Step{}, false
}

// removeIdle is R1.
func (p *plan) removeIdle() (Step, bool) {
	return p.find(RemoveRaft, "was removed from the membership", func(m *MemberState) bool {
		return m.InRaft && !m.InState && m.ID != p.Self && !(m.Voter && m.Present) && p.survivesWithout(m)
	})
}

// addVoter is R2.
func (p *plan) addVoter() (Step, bool) {
	return p.find(AddVoter, "is a voter of the membership and has caught up", func(m *MemberState) bool {
		return m.isVoter() && m.Started && m.InRaft && !m.Voter && p.caughtUp(m) && survives(p.voters+1, p.present+1)
	})
}

// addNonvoter is R3.
func (p *plan) addNonvoter() (Step, bool) {
	return p.find(AddNonvoter, "is a member and has appeared", func(m *MemberState) bool {
		return m.InState && m.Present && !m.InRaft
	})
}

// promote is R4 and R5.
func (p *plan) promote() (Step, bool) {
	for i := range p.Members {
		m := &p.Members[i]
		if !p.ready(m) || !survives(p.voters+1, p.present+1) {
			continue
		}
		gone := p.placeFor(m)
		if gone == nil && (p.undecided(m) || p.standsBy()) || p.seats(gone) >= p.MaxVoters {
			continue
		}
		if gone == nil {
			return Step{Kind: Promote, ID: m.ID, Why: "has caught up and is stable"}, true
		}
		why := fmt.Sprintf("has caught up and is stable, and takes the place of member %x", gone.ID)
		return Step{Kind: Promote, ID: m.ID, Replaces: gone.ID, Why: why}, true
	}
	return Step{}, false
}

// placeFor returns the member whose place m takes when promoted now, nil if
// none: the one it came to replace, else the first lost voter without an heir.
func (p *plan) placeFor(m *MemberState) *MemberState {
	if old := p.byID[m.Replaces]; old != nil && old.ID != m.ID && old.InState && p.away(old) && old.Started {
		return old
	}
	for i := range p.Members {
		if lost := &p.Members[i]; p.lostVoter(lost) && p.heir(lost) == nil {
			return lost
		}
	}
	return nil
}

// undecided: whether the member that m came to replace is away, or about to be
// back, will show within Stabilization.
func (p *plan) undecided(m *MemberState) bool {
	old := p.byID[m.Replaces]
	return old != nil && old.ID != m.ID && old.InState && old.Started && !old.Present && !p.away(old)
}

// standsBy: no learner without a place is promoted now, see R5.
func (p *plan) standsBy() bool {
	if p.voters%2 == 0 || p.ReplaceAfter < 0 {
		return false
	}
	lost, ready := 0, 0
	for i := range p.Members {
		m := &p.Members[i]
		if m.isVoter() && m.votes() && m.Started && !m.Present && p.heir(m) == nil {
			lost++
		}
		if p.ready(m) {
			ready++
		}
	}
	return ready <= lost
}

// seats counts the voters of the membership without those that are about to be
// replaced, and without gone.
func (p *plan) seats(gone *MemberState) int {
	n := 0
	for i := range p.Members {
		m := &p.Members[i]
		if !m.isVoter() || m == gone {
			continue
		}
		if h := p.heir(m); h != nil && h.isVoter() && p.away(m) {
			continue
		}
		n++
	}
	return n
}

// removeVoting is R6.
func (p *plan) removeVoting() (Step, bool) {
	return p.find(RemoveRaft, "was removed from the membership", func(m *MemberState) bool {
		return m.InRaft && !m.InState && m.ID != p.Self && p.survivesWithout(m)
	})
}

// release is R7, for those who are back.
func (p *plan) release() (Step, bool) {
	return p.find(Release, "need not replace a member that is back", func(m *MemberState) bool {
		old := p.byID[m.Replaces]
		return m.isVoter() && old != nil && old.ID != m.ID && old.InState && old.Present
	})
}

// removeReplaced is R7, for those who are not.
func (p *plan) removeReplaced() (Step, bool) {
	return p.find(RemoveMember, "is away, and its place is taken", func(m *MemberState) bool {
		if !m.InState || !m.Started || !p.away(m) || !p.survivesWithout(m) {
			return false
		}
		h := p.heir(m)
		if h == nil || !h.Present || !h.InRaft {
			return false
		}
		if m.isVoter() {
			return h.isVoter() && h.Voter
		}
		return p.well(h)
	})
}

// removeSelf is R6, for the leader.
func (p *plan) removeSelf() (Step, bool) {
	return p.find(RemoveRaft, "was removed from the membership", func(m *MemberState) bool {
		return m.ID == p.Self && m.InRaft && !m.InState && p.survivesWithout(m)
	})
}

// waiting is no step, with the first reason to be told.
func (p *plan) waiting() Step {
	for i := range p.Members {
		m := &p.Members[i]
		switch {
		case m.impossible():
			return Step{ID: m.ID, Why: "votes in raft but is a learner in the membership"}
		case m.InRaft && !m.InState:
			return Step{ID: m.ID, Why: "was removed from the membership, but without its vote there would be no quorum"}
		case p.ready(m) && p.undecided(m):
			return Step{ID: m.ID, Why: fmt.Sprintf("waits to see whether member %x comes back", m.Replaces)}
		case p.ready(m) && p.standsBy():
			return Step{ID: m.ID, Why: "stands by to replace a voter that is lost"}
		case p.ready(m):
			return Step{ID: m.ID, Why: fmt.Sprintf("is ready, but there are %d voters already", p.seats(nil))}
		}
	}
	return Step{}
}
