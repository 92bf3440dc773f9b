package raftfsm

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"limpet/sqlstore"
	"limpet/txn"
)

// fsm applies committed entries to the state. raft calls it from one goroutine.
type fsm struct {
	state    *txn.State
	store    *sqlstore.Store
	proposer *proposer
	cfg      *Config

	// What API calls may know of the state, replaced whole after each batch
	// that changed it.
	alarms  atomic.Pointer[[]txn.Alarm]
	members atomic.Pointer[[]*txn.Member]
	term    atomic.Uint64 // term of the newest entry of our own that was applied
}

// answer is a result on its way to the proposer that waits for it.
type answer struct {
	to *proposal
	result
}

// ApplyBatch implements raft.BatchingFSM. The order at its end is I9.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	began := time.Now()
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
		commits := f.store.Writer().Publish(last)
		f.tell(f.state.TakeEffects())
		if len(commits) > 0 && f.cfg.OnCommit != nil {
			f.cfg.OnCommit(commits)
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
	head, rest, err := decodeHead(l.Data)
	if err != nil {
		// Going on would leave this member different from the others.
		panic(fmt.Sprintf("apply index %d: %v", l.Index, err))
	}
	ours := f.proposer.take(head)
	if ours != nil {
		// The commands are at hand as they were decoded from the wire.
		for _, p := range ours {
			resp, err := f.state.Apply(p.cmd, head.time)
			answers = append(answers, answer{p, result{resp, err}})
		}
	} else {
		cmds, err := decodeCommands(rest)
		if err != nil {
			panic(fmt.Sprintf("apply index %d: %v", l.Index, err))
		}
		for _, cmd := range cmds {
			// Nobody here waits for the answer.
			_, _ = f.state.Apply(cmd, head.time)
		}
	}
	if head.member == f.cfg.MemberID {
		f.term.Store(l.Term)
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
	if f.cfg.OnEffects != nil {
		f.cfg.OnEffects(e)
	}
}

func (f *fsm) publishAlarms() {
	alarms := f.state.Alarms()
	f.alarms.Store(&alarms)
}

func (f *fsm) publishMembers() {
	members := f.state.Members()
	f.members.Store(&members)
}

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. Nothing is copied: the database is on disk, and
// Persist waits until it has caught up with this moment.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &virtualSnapshot{store: f.store, index: f.store.Applied()}, nil
}

// Restore implements raft.FSM. raft calls it only when a leader has sent an
// image, which takes a second member.
func (f *fsm) Restore(source io.ReadCloser) error {
	return errors.Join(errors.New("raftfsm: a cluster of one member cannot receive an image"), source.Close())
}
