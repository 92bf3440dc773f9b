package discovery

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// t0 is the now of all plans here; the members are as they are since before
// unless a test says otherwise.
var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const long = 24 * time.Hour

// The verbs of the table: each returns a member in a state of its life.

// voter is a settled one; the leader is voter(1).
func voter(id uint64) MemberState {
	return MemberState{
		ID: id, InState: true, Started: true, InRaft: true, Voter: true,
		Present: true, Match: 5000, StableSince: t0.Add(-long),
	}
}

// auto joined by itself, and has done all that a learner can.
func auto(id uint64) MemberState {
	m := voter(id)
	m.Learner, m.Auto, m.Voter = true, true, false
	return m
}

// with changes a member.
func (m MemberState) with(changes ...func(*MemberState)) MemberState {
	for _, c := range changes {
		c(&m)
	}
	return m
}

func away(d time.Duration) func(*MemberState) {
	return func(m *MemberState) { m.Present, m.LostSince, m.StableSince = false, t0.Add(-d), time.Time{} }
}
func replaces(id uint64) func(*MemberState) { return func(m *MemberState) { m.Replaces = id } }
func byHand(m *MemberState)                 { m.Auto = false }
func noVote(m *MemberState)                 { m.Voter = false }
func notInRaft(m *MemberState)              { m.InRaft, m.Voter = false, false }
func removed(m *MemberState)                { m.InState, m.Learner, m.Auto = false, false, false }
func neverStarted(m *MemberState) {
	m.Started, m.InRaft, m.Voter, m.Match = false, false, false, 0
	away(long)(m)
}
func trailing(m *MemberState) { m.Match = 100 }
func unknown(m *MemberState)  { m.Match = 0 }
func justCame(m *MemberState) { m.StableSince = t0.Add(-time.Second) }

func many(n int) []MemberState {
	var ms []MemberState
	for id := range n {
		ms = append(ms, voter(uint64(id+1)))
	}
	return ms
}

var planTable = []struct {
	name    string
	members []MemberState
	want    Step // without Why
	why     string
	max     int
	last    uint64 // 0: 5000
	never   bool   // ReplaceAfter is negative
}{
	{name: "a settled cluster", members: many(3)},
	{name: "R0: without a quorum nothing is done",
		members: []MemberState{voter(1), voter(2).with(away(long)), voter(3).with(away(long)), auto(4), voter(5).with(notInRaft)},
		why:     "only 1 of 3 voters are present"},
	{name: "R0: who has no vote plans nothing", members: []MemberState{auto(1), voter(2)}, why: "member 1 plans, but has no vote in raft"},
	{name: "R0: a learner that votes cannot be",
		members: []MemberState{voter(1), auto(2).with(func(m *MemberState) { m.Voter = true })},
		want:    Step{ID: 2}, why: "votes in raft but is a learner in the membership"},
	{name: "R0: but others are not kept waiting by it",
		members: []MemberState{voter(1), auto(2).with(func(m *MemberState) { m.Voter = true }), voter(3).with(notInRaft)},
		want:    Step{Kind: AddNonvoter, ID: 3}},

	{name: "R0: nor is it removed",
		members: []MemberState{voter(1), voter(2), auto(3).with(away(time.Hour), func(m *MemberState) { m.Voter = true }), voter(4).with(replaces(3))},
		want:    Step{ID: 3}, why: "votes in raft but is a learner in the membership"},

	{name: "R1: a removed member that is away leaves raft",
		members: []MemberState{voter(1), voter(2), voter(3).with(removed, away(0)), auto(4)}, want: Step{Kind: RemoveRaft, ID: 3}},
	{name: "R1: a removed nonvoter leaves raft first of all",
		members: []MemberState{voter(1), voter(2).with(noVote), auto(4).with(removed)}, want: Step{Kind: RemoveRaft, ID: 4}},

	{name: "R2: a voter that has caught up gets its vote", members: []MemberState{voter(1), voter(2).with(noVote)}, want: Step{Kind: AddVoter, ID: 2}},
	{name: "R2: without waiting to be stable", members: []MemberState{voter(1), voter(2).with(noVote, justCame)}, want: Step{Kind: AddVoter, ID: 2}},
	{name: "R2: not while it trails", members: []MemberState{voter(1), voter(2).with(noVote, trailing)}},
	{name: "R2: not while nothing is known of its log", last: 10, members: []MemberState{voter(1), voter(2).with(noVote, unknown)}},
	{name: "R2: not while it is away", members: []MemberState{voter(1), voter(2).with(noVote, away(0))}},

	{name: "R3: a voter that has appeared", members: []MemberState{voter(1), voter(2).with(notInRaft)}, want: Step{Kind: AddNonvoter, ID: 2}},
	{name: "R3: a learner that has appeared", members: []MemberState{voter(1), auto(2).with(byHand, notInRaft)}, want: Step{Kind: AddNonvoter, ID: 2}},
	{name: "R3: a voter that never started stays out of raft", members: []MemberState{voter(1), voter(2).with(neverStarted)}},
	{name: "R3: before promotions", members: []MemberState{voter(1), auto(2), voter(3).with(notInRaft)}, want: Step{Kind: AddNonvoter, ID: 3}},

	{name: "R4: a learner that is ready", members: []MemberState{voter(1), auto(2)}, want: Step{Kind: Promote, ID: 2}},
	{name: "R4: the first by ID", members: []MemberState{auto(3), voter(1), auto(2)}, want: Step{Kind: Promote, ID: 2}},
	{name: "R4: not while it trails", members: []MemberState{voter(1), auto(2).with(trailing)}},
	{name: "R4: not while it is away", members: []MemberState{voter(1), auto(2).with(away(0))}},
	{name: "R4: not before it is stable", members: []MemberState{voter(1), auto(2).with(justCame)}},
	{name: "R4: not before it is in raft", members: []MemberState{voter(1), auto(2).with(notInRaft)}, want: Step{Kind: AddNonvoter, ID: 2}},
	{name: "R4: never if it was added by hand", members: []MemberState{voter(1), auto(2).with(byHand)}},
	{name: "R4: up to seven", members: append(many(6), auto(7)), want: Step{Kind: Promote, ID: 7}},
	{name: "R4: not an eighth", members: append(many(7), auto(8)), want: Step{ID: 8}, why: "is ready, but there are 7 voters already"},
	{name: "R4: one that never started has its seat", max: 2,
		members: []MemberState{voter(1), voter(2).with(neverStarted), auto(3)}, want: Step{ID: 3}, why: "is ready, but there are 2 voters already"},

	{name: "R5: it takes the place it came for",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Minute)), auto(4).with(replaces(3))},
		want:    Step{Kind: Promote, ID: 4, Replaces: 3}},
	{name: "R5: also beyond MaxVoters", max: 3,
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Minute)), auto(4).with(replaces(3))},
		want:    Step{Kind: Promote, ID: 4, Replaces: 3}},
	{name: "R5: not of one that is away for a moment",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Second)), auto(4).with(replaces(3))},
		want:    Step{ID: 4}, why: "waits to see whether member 3 comes back"},
	{name: "R5: one that is back keeps its place",
		members: []MemberState{voter(1), voter(2), voter(3), auto(4).with(replaces(3))}, want: Step{Kind: Promote, ID: 4}},
	{name: "R5: a voter lost for long has its place taken",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), auto(4)}, want: Step{Kind: Promote, ID: 4, Replaces: 3}},
	{name: "R5: also with all seats taken", max: 3,
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), auto(4)}, want: Step{Kind: Promote, ID: 4, Replaces: 3}},
	{name: "R5: by one only, the other finds no seat", max: 3,
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), voter(4).with(replaces(3), noVote, trailing), auto(5)},
		want:    Step{ID: 5}, why: "is ready, but there are 3 voters already"},
	{name: "R5: a place that has an heir is not taken again",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), voter(4).with(replaces(3), noVote, trailing), auto(5)},
		want:    Step{Kind: Promote, ID: 5}},
	{name: "R5: the place of one that never started is not taken",
		members: []MemberState{voter(1), voter(2), voter(3).with(neverStarted), auto(4).with(replaces(3))}, want: Step{Kind: Promote, ID: 4}},
	{name: "R5: one that was added by hand to learn is no heir",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), auto(4).with(replaces(3), byHand), auto(5)},
		want:    Step{Kind: Promote, ID: 5, Replaces: 3}},
	{name: "R5: one that died as an heir is no heir", max: 3,
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), auto(4).with(replaces(3), away(time.Hour)), auto(5)},
		want:    Step{Kind: Promote, ID: 5, Replaces: 3}},
	{name: "R5: lost for a minute, a learner stands by",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Minute)), auto(4)}, want: Step{ID: 4}, why: "stands by to replace a voter that is lost"},
	{name: "R5: not two for one",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Minute)), auto(4), auto(5)}, want: Step{Kind: Promote, ID: 4}},
	{name: "R5: not where its vote helps",
		members: append(many(3), voter(4).with(away(time.Minute)), auto(5)), want: Step{Kind: Promote, ID: 5}},
	{name: "R5: not if places are never taken", never: true,
		members: []MemberState{voter(1), voter(2), voter(3).with(away(long)), auto(4)}, want: Step{Kind: Promote, ID: 4}},
	{name: "R5: one that never started is not lost",
		members: append(many(3), voter(4).with(neverStarted), auto(5)), want: Step{Kind: Promote, ID: 5}},

	{name: "R6: a removed voter that is there leaves raft",
		members: []MemberState{voter(1), voter(2), voter(3).with(removed)}, want: Step{Kind: RemoveRaft, ID: 3}},
	{name: "R6: after promotions", members: []MemberState{voter(1), voter(2), voter(3).with(removed), auto(4)}, want: Step{Kind: Promote, ID: 4}},
	{name: "R6: not if the rest would have no quorum",
		members: []MemberState{voter(1), voter(2).with(removed), voter(3).with(away(long))},
		want:    Step{ID: 2}, why: "was removed from the membership, but without its vote there would be no quorum"},
	{name: "R6: the leader leaves last", members: []MemberState{voter(1).with(removed), voter(2), voter(3).with(removed)}, want: Step{Kind: RemoveRaft, ID: 3}},
	{name: "R6: but it does", members: []MemberState{voter(1).with(removed), voter(2)}, want: Step{Kind: RemoveRaft, ID: 1}},
	{name: "R6: unless it is the only one", members: []MemberState{voter(1).with(removed)},
		want: Step{ID: 1}, why: "was removed from the membership, but without its vote there would be no quorum"},
	{name: "R6: or the rest would have no quorum", members: []MemberState{voter(1).with(removed), voter(2), voter(3).with(away(long))},
		want: Step{ID: 1}, why: "was removed from the membership, but without its vote there would be no quorum"},

	{name: "R7: a place that was taken is given up",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), voter(4).with(replaces(3))}, want: Step{Kind: RemoveMember, ID: 3}},
	{name: "R7: not before the heir has its vote",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Hour)), voter(4).with(replaces(3), noVote)}, want: Step{Kind: AddVoter, ID: 4}},
	{name: "R7: not while the heir is away",
		members: append(many(4), voter(5).with(away(time.Hour)), voter(6).with(replaces(5), away(time.Second)))},
	{name: "R7: one that is back for good is left alone",
		members: []MemberState{voter(1), voter(2), voter(3), voter(4).with(replaces(3))}, want: Step{Kind: Release, ID: 4}},
	{name: "R7: one that was away for a moment, too",
		members: []MemberState{voter(1), voter(2), voter(3).with(away(time.Second)), voter(4).with(replaces(3))}},
	{name: "R7: the place of a learner",
		members: append(many(3), auto(4).with(away(time.Hour)), auto(5).with(replaces(4))), max: 3,
		want: Step{Kind: RemoveMember, ID: 4}},
	{name: "R7: a voter that is lost is not removed by itself", members: append(many(3), voter(4).with(away(long)))},
	{name: "R7: one that never started is not removed", members: append(many(2), voter(3).with(neverStarted), voter(4).with(replaces(3)))},
	{name: "R7: a place taken by one that is gone itself", members: append(many(3), voter(4).with(replaces(99)))},
}

func TestPlan(t *testing.T) {
	for _, tt := range planTable {
		t.Run(tt.name, func(t *testing.T) {
			v := View{Self: 1, Now: t0, Last: cmp.Or(tt.last, 5000), Members: tt.members, MaxVoters: tt.max}
			if tt.never {
				v.ReplaceAfter = -1
			}
			before := slices.Clone(v.Members)
			got := Plan(v)
			if why := got.Why; tt.why != "" && why != tt.why || why == "" && got.Kind != None {
				t.Errorf("got reason %q, want %q", why, tt.why)
			}
			got.Why = ""
			if got != tt.want {
				t.Errorf("got %v, want %v, of %+v", got, tt.want, v)
			}
			if !slices.Equal(v.Members, before) {
				t.Errorf("Plan changed its View: %+v, was %+v", v.Members, before)
			}
			slices.Reverse(v.Members)
			if again := Plan(v); again.Kind != got.Kind || again.ID != got.ID {
				t.Errorf("in another order: got %v, want %v", again, got)
			}
		})
	}
}

// sim is a model of a cluster with raft's configuration and membership, and of
// boards that come and go.
type sim struct {
	t       *testing.T
	rnd     *rand.Rand
	view    View
	next    uint64
	removed map[uint64]bool // by hand
	steps   []Step
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), next: 2, removed: map[uint64]bool{}}
	s.view = View{Self: 1, Now: t0, Last: 5000, MaxVoters: 3 + 2*s.rnd.IntN(3), Members: []MemberState{voter(1)}}
	return s
}

func (s *sim) member(id uint64) *MemberState {
	for i := range s.view.Members {
		if m := &s.view.Members[i]; m.ID == id {
			return m
		}
	}
	return nil
}

// quorum reports whether present voters are a quorum of raft's configuration.
func (s *sim) quorum() bool {
	voters, present := 0, 0
	for _, m := range s.view.Members {
		if m.InRaft && m.Voter {
			voters++
			if m.Present {
				present++
			}
		}
	}
	return voters > 0 && present > voters/2
}

// happen lets something happen in the world. The leader's board stays on.
func (s *sim) happen() {
	s.view.Now = s.view.Now.Add(time.Duration(s.rnd.IntN(400)) * time.Second)
	var m *MemberState
	if n := len(s.view.Members); n > 1 {
		m = &s.view.Members[1+s.rnd.IntN(n-1)]
	}
	switch k := s.rnd.IntN(10); {
	case k < 2 && s.next < 30: // a board joins by itself, perhaps in place of another
		joined := MemberState{ID: s.next, InState: true, Learner: true, Auto: true}
		if m != nil && s.rnd.IntN(3) == 0 && m.InState && !m.Present {
			joined.Replaces = m.ID
		}
		s.add(joined)
	case k == 2 && s.next < 30: // one is added by hand, and may never start
		s.add(MemberState{ID: s.next, InState: true, Learner: s.rnd.IntN(2) == 0})
	case m == nil:
	case k < 6: // a board is switched on, or off
		if m.Present {
			s.off(m)
		} else {
			s.on(m)
		}
	case k == 6 && m.InState: // an operator removes one
		m.InState, m.Learner, m.Auto, m.Replaces = false, false, false, 0
		s.removed[m.ID] = true
	}
}

func (s *sim) add(m MemberState) {
	s.next++
	m.LostSince = s.view.Now
	s.view.Members = append(s.view.Members, m)
	if s.rnd.IntN(4) > 0 {
		s.on(&s.view.Members[len(s.view.Members)-1])
	}
}

func (s *sim) on(m *MemberState) {
	m.Present, m.Started, m.LostSince, m.StableSince = true, true, time.Time{}, s.view.Now
}

func (s *sim) off(m *MemberState) {
	m.Present, m.LostSince, m.StableSince = false, s.view.Now, time.Time{}
}

// step asks for one step, checks it and takes it; false if there is none.
func (s *sim) step() bool {
	for i := range s.view.Members {
		if m := &s.view.Members[i]; m.InRaft && m.Present {
			m.Match = s.view.Last // the log flows
		}
	}
	s.rnd.Shuffle(len(s.view.Members)-1, func(i, j int) {
		ms := s.view.Members[1:]
		ms[i], ms[j] = ms[j], ms[i]
	})
	step := Plan(s.view)
	if step.Kind == None {
		return false
	}
	s.steps = append(s.steps, step)
	had := s.quorum()
	s.check(step)
	s.take(step)
	if had && !s.quorum() {
		s.fail("no quorum after the step")
	}
	return true
}

func (s *sim) fail(why string) {
	s.t.Helper()
	s.t.Fatalf("%s; steps %+v; view %+v", why, s.steps[max(0, len(s.steps)-5):], s.view)
}

// check tells what a step must not do, from the rules, not from the code.
func (s *sim) check(step Step) {
	m := s.member(step.ID)
	switch step.Kind {
	case RemoveMember:
		taken := slices.ContainsFunc(s.view.Members, func(h MemberState) bool {
			return h.Replaces == m.ID && h.Present && h.InRaft && (h.Voter || m.Learner)
		})
		if m.Present || !taken || m.ID == s.view.Self {
			s.fail("removed a member that is present, or that nobody replaces")
		}
	case RemoveRaft:
		if !s.removed[m.ID] && m.InState {
			s.fail("took a member out of raft that nobody removed")
		}
	case AddVoter:
		if !m.Present || m.Learner || m.Match == 0 {
			s.fail("gave a vote to one that is away, empty or a learner")
		}
	case AddNonvoter:
		if !m.Present {
			s.fail("added one that is away to raft")
		}
	case Promote:
		if !m.Present || !m.Auto {
			s.fail("promoted one that is away, or was added by hand")
		}
	}
}

func (s *sim) take(step Step) {
	m := s.member(step.ID)
	switch step.Kind {
	case AddNonvoter:
		m.InRaft = true
	case AddVoter:
		m.Voter = true
	case RemoveRaft:
		m.InRaft, m.Voter = false, false
	case Promote:
		m.Learner, m.Replaces = false, step.Replaces
	case Release:
		m.Replaces = 0
	case RemoveMember:
		m.InState, m.Learner = false, false
		s.removed[m.ID] = true
	}
	s.view.Members = slices.DeleteFunc(s.view.Members, func(m MemberState) bool { return !m.InState && !m.InRaft })
}

// rest lets time pass without events until nothing more is to be done.
func (s *sim) rest() {
	for range 4 {
		s.view.Now = s.view.Now.Add(time.Hour)
		for n := 0; s.step(); n++ {
			if n > 200 {
				s.fail("the steps do not end")
			}
		}
	}
}

// settled checks what must have come about after a rest in which a quorum was
// present.
func (s *sim) settled() {
	voters, learners := 0, 0
	for _, m := range s.view.Members {
		switch {
		case m.InState && m.Present && !m.InRaft:
			s.fail(fmt.Sprintf("member %d is present and not in raft", m.ID))
		case m.InState && m.Present && !m.Learner && !m.Voter:
			s.fail(fmt.Sprintf("member %d is a voter without a vote", m.ID))
		case m.InRaft && !m.InState && m.ID != 1 && !m.Present:
			s.fail(fmt.Sprintf("member %d was removed and is still in raft", m.ID))
		}
		if m.InState && !m.Learner {
			voters++
		}
		if m.InState && m.Present && m.Learner && m.Auto {
			learners++
		}
	}
	if learners > 0 && voters < s.view.MaxVoters {
		s.fail(fmt.Sprintf("%d learners wait with %d voters of %d", learners, voters, s.view.MaxVoters))
	}
}

func TestPlanInAWorldOfAccidents(t *testing.T) {
	kinds := map[StepKind]int{}
	for seed := range uint64(2000) {
		s := newSim(t, seed)
		for range 60 {
			s.happen()
			for range s.rnd.IntN(4) {
				s.step()
			}
		}
		s.rest()
		if s.quorum() {
			s.settled()
		}
		for _, step := range s.steps {
			kinds[step.Kind]++
		}
	}
	for k := AddNonvoter; k <= Release; k++ {
		if kinds[k] == 0 {
			t.Errorf("no run took the step %v: %v", k, kinds)
		}
	}
}

// TestPlanNeverLosesQuorum asks about states that no history need lead to.
func TestPlanNeverLosesQuorum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	coin := func() bool { return rnd.IntN(2) == 0 }
	for range 200_000 {
		s := &sim{t: t, rnd: rnd, removed: map[uint64]bool{}}
		s.view = View{Self: 1, Now: t0, Last: 5000, MaxVoters: 1 + rnd.IntN(6)}
		for id := range uint64(1 + rnd.IntN(7)) {
			m := MemberState{
				ID: id + 1, InState: coin(), Learner: coin(), Auto: coin(), Replaces: uint64(rnd.IntN(8)), Started: coin(),
				InRaft: coin(), Present: coin(), Match: uint64(rnd.IntN(2) * 5000), StableSince: t0.Add(-time.Minute),
			}
			m.Voter = m.InRaft && coin()
			if !m.Present {
				m.LostSince = t0.Add(-time.Duration(rnd.IntN(1200)) * time.Second)
			}
			if id == 0 { // the leader is there
				m.InRaft, m.Voter, m.Present = true, true, true
			}
			s.view.Members = append(s.view.Members, m)
		}
		step := Plan(s.view)
		if had := s.quorum(); step.Kind == None {
			continue
		} else if !had {
			s.fail(fmt.Sprintf("%v without a quorum", step))
		}
		s.steps = []Step{step}
		s.take(step)
		if !s.quorum() {
			s.fail("no quorum after the step")
		}
	}
}
