package raftfsm

import (
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
)

// fsm applies committed entries to the state. raft calls it from one goroutine.
type fsm struct {
	state     *txn.State
	store     *sqlstore.Store
	proposer  *proposer
	cfg       *Config
	snaps     *manifestStore
	mark      *commitMark            // may be nil
	committed func(newest *raft.Log) // before each batch is applied; may be nil

	// What API calls may know of the state, replaced whole after each batch
	// that changed it.
	alarms  atomic.Pointer[[]txn.Alarm]
	members atomic.Pointer[Membership]
	rules   atomic.Pointer[auth.Rules]
	v2      *V2
	term    uint64 // of the newest entry applied
}

// Membership is what the members have agreed on about themselves. It is
// immutable.
type Membership struct {
	Cluster   uint64 // 0 until the cluster is founded
	Recovered uint64 // the cluster whose data this one began with, 0 if none
	Members   []*txn.Member
	Removed   []uint64     // ascending
	Self      *txn.Member  // this member; nil if it is none, or none yet
	Rotation  txn.Rotation // of the cluster's token
}

// Member returns the member of id, nil if there is none.
func (m *Membership) Member(id uint64) *txn.Member {
	for _, mb := range m.Members {
		if mb.ID == id {
			return mb
		}
	}
	return nil
}

// Format is the newest format of entries that all members read, as far as they
// have reported; 1 while nobody has.
func (m *Membership) Format() int {
	format := 0
	for _, mb := range m.Members {
		if mb.Started() && (format == 0 || max(mb.Format, 1) < format) {
			format = max(mb.Format, 1)
		}
	}
	return max(format, 1)
}

// WasRemoved reports whether id was a member and is none any more.
func (m *Membership) WasRemoved(id uint64) bool {
	_, found := slices.BinarySearch(m.Removed, id)
	return found
}

// answer is a result on its way to the proposer that waits for it.
type answer struct {
	to *proposal
	result
}

// ApplyBatch implements raft.BatchingFSM. The order at its end is I9.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	began := time.Now()
	if f.committed != nil {
		f.committed(logs[len(logs)-1])
	}
	var answers []answer
	last := uint64(0)
	for _, l := range logs {
		if l.Index <= f.store.Applied() { // I6
			continue
		}
		last = l.Index
		if l.Type == raft.LogCommand {
			answers = f.applyEntry(l, answers)
		}
	}
	if last != 0 {
		// Before the index, for which other members' clients wait: who may do what,
		// and who has logged in.
		f.tell(f.state.TakeEffects())
		commits := f.store.Writer().Publish(last)
		if len(commits) > 0 && f.cfg.OnCommit != nil {
			f.cfg.OnCommit(commits)
		}
		if f.mark != nil {
			f.mark.note(last, logs[len(logs)-1].Term)
		}
	}
	for _, a := range answers {
		a.to.result <- a.result
	}
	if f.cfg.Observe.Apply != nil && last != 0 {
		f.cfg.Observe.Apply(time.Since(began), len(logs))
	}
	return make([]any, len(logs))
}

func (f *fsm) applyEntry(l *raft.Log, answers []answer) []answer {
	if l.Term > f.term {
		f.term = l.Term
		f.proposer.newTerm(l.Term)
	}
	head, rest, err := decodeHead(l.Data)
	if err != nil {
		// Going on would leave this member different from the others.
		panic(fmt.Sprintf("apply index %d: %v", l.Index, err))
	}
	ours := f.proposer.take(head)
	at := txn.Moment{Index: l.Index, UnixMilli: head.time}
	if ours != nil {
		// The commands are at hand as they were decoded from the wire.
		for _, p := range ours {
			resp, err := f.state.Apply(p.cmd, at)
			answers = append(answers, answer{p, result{resp, err}})
		}
	} else {
		cmds, err := decodeCommands(rest)
		if err != nil {
			panic(fmt.Sprintf("apply index %d: %v", l.Index, err))
		}
		for _, cmd := range cmds {
			// Nobody here waits for the answer.
			_, _ = f.state.Apply(cmd, at)
		}
	}
	return answers
}

func (f *fsm) tell(e txn.Effects) {
	if e.Alarms {
		f.publishAlarms()
	}
	if e.Members {
		f.publishMembers()
	}
	if e.Rules {
		f.rules.Store(f.state.Rules())
	}
	if e.V2 {
		f.v2.publish(f.state.V2(), e.V2Events)
	}
	if f.cfg.OnEffects != nil {
		f.cfg.OnEffects(e)
	}
}

func (f *fsm) publishAlarms() {
	alarms := f.state.Alarms()
	f.alarms.Store(&alarms)
}

func (f *fsm) publishMembers() {
	m := &Membership{Members: f.state.Members(), Removed: f.state.Removed(), Rotation: f.state.Rotation()}
	m.Cluster, m.Recovered = f.state.Cluster()
	m.Self = m.Member(f.cfg.MemberID)
	f.members.Store(m)
}

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. Nothing is copied: the database is on disk, and
// Persist waits until it has caught up with this moment.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &virtualSnapshot{store: f.store, index: f.store.Applied()}, nil
}

// Restore implements raft.FSM: the image that a leader has sent becomes the
// database. raft calls it between batches.
func (f *fsm) Restore(source io.ReadCloser) error {
	if err := source.Close(); err != nil {
		return err
	}
	began := time.Now()
	if err := f.snaps.adopt(f.store); err != nil {
		return fmt.Errorf("adopt the image from the leader: %w", err)
	}
	state, err := txn.Load(f.store)
	if err != nil {
		// The old state does not belong to the new database.
		panic(fmt.Sprintf("read the adopted database: %v", err))
	}
	// Who logged in meanwhile is not known, nor who changed a password.
	effects := txn.Effects{Alarms: true, Members: true, Rules: true, V2: true, Tokens: []auth.TokenChange{{}}}
	effects.Leases = diffLeases(f.state.Leases(), state.Leases())
	f.state = state
	if f.cfg.OnJump != nil {
		f.cfg.OnJump()
	}
	f.tell(effects)
	f.cfg.Logger.Info("adopted the database of the leader: this member was too far behind for the log",
		"revision", f.store.Rev(), "index", f.store.Applied(), "took", time.Since(began))
	return nil
}

// diffLeases tells what was granted and revoked in between.
func diffLeases(before, after []txn.Lease) []txn.LeaseChange {
	var out []txn.LeaseChange
	was := make(map[int64]txn.Lease, len(before))
	for _, l := range before {
		was[l.ID] = l
	}
	for _, l := range after {
		if was[l.ID] != l {
			out = append(out, txn.LeaseChange{Lease: l})
		}
		delete(was, l.ID)
	}
	for _, l := range was {
		out = append(out, txn.LeaseChange{Lease: l, Revoked: true})
	}
	return out
}
