package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"limpet/txn"
)

// Recovery is what Recover needs to know. The store must have been opened with
// no tail (sqlstore.Config.TailBytes -1).
type Recovery struct {
	Config
	Cluster uint64 // ID of the new cluster
	Bump    int64  // by which revisions go up
}

// Recover makes a cluster of this member alone out of what it has: everything
// in its log counts as agreed on, since nobody can tell any more what was. No
// member may be running on the folder. It may be repeated after a crash.
func Recover(r Recovery) (rev int64, err error) {
	r.Config = r.withDefaults()
	logs, err := openLogStore(r.Dir, r.MaxLogBytes/4)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	snaps := &manifestStore{dir: r.Dir, store: r.Store, logs: logs}
	if err := snaps.finishAdoption(); err != nil {
		return 0, err
	}
	last, err := checkDisk(r.Config, logs)
	if err != nil {
		return 0, err
	}
	state, err := txn.Load(r.Store)
	if err != nil {
		return 0, err
	}
	if id, _ := state.Cluster(); id != r.Cluster {
		if err := r.begin(state, logs, last); err != nil {
			return 0, err
		}
	}
	return r.Store.Rev(), r.cutLog(snaps, logs)
}

// Inspection is what a stopped member has.
type Inspection struct {
	Term, Index uint64 // of the last entry that it has, in its log or in its database
	// Membership is that of the database, with the members that only the log
	// names, whether that was agreed on or not. It tells whom to ask.
	Membership *Membership
}

// Inspect looks at a member that does not run.
func Inspect(cfg Config) (in *Inspection, err error) {
	logs, err := openLogStore(cfg.Dir, segmentBytes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	last, err := logs.LastIndex()
	if err != nil {
		return nil, err
	}
	in = &Inspection{Index: last}
	if in.Term, err = logs.lastTerm(last); err != nil {
		return nil, err
	}
	if man, err := readManifest(filepath.Join(cfg.Dir, manifestName)); err == nil && man.Index > last {
		in.Index, in.Term = man.Index, man.Term
	}
	in.Index = max(in.Index, cfg.Store.Applied()) // an image may be ahead of its manifest
	state, err := txn.Load(cfg.Store)
	if err != nil {
		return nil, err
	}
	f := &fsm{state: state, store: cfg.Store, cfg: &cfg}
	f.publishMembers()
	in.Membership, err = withLog(f.members.Load(), logs, cfg.Store.Applied(), cfg.MemberID)
	return in, err
}

// withLog adds the members that the log names beyond index applied.
func withLog(ms *Membership, logs *logStore, applied, self uint64) (*Membership, error) {
	first, err := logs.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := logs.LastIndex()
	if err != nil || last == 0 {
		return ms, err
	}
	all := make(map[uint64]*txn.Member)
	for _, m := range ms.Members {
		all[m.ID] = m
	}
	e := new(raft.Log)
	for index := max(first, applied+1); index <= last; index++ {
		if err := logs.GetLog(index, e); err != nil {
			return nil, fmt.Errorf("read index %d of the log: %w", index, err)
		}
		if e.Type != raft.LogCommand {
			continue
		}
		if err := nameMembers(all, e.Data); err != nil {
			return nil, fmt.Errorf("index %d of the log: %w", index, err)
		}
	}
	out := *ms
	out.Members = slices.SortedFunc(maps.Values(all), func(a, b *txn.Member) int { return cmp.Compare(a.ID, b.ID) })
	out.Self = out.Member(self)
	return &out, nil
}

// nameMembers adds to all the members that an entry names. One that it removes
// stays: it may not have been agreed on.
func nameMembers(all map[uint64]*txn.Member, entry []byte) error {
	_, rest, err := decodeHead(entry)
	if err != nil {
		return err
	}
	cmds, err := decodeCommands(rest)
	for _, cmd := range cmds {
		switch c := cmd.(type) {
		case *txn.Found:
			for _, m := range c.Members {
				all[m.ID] = m
			}
		case *txn.MemberAdd:
			all[c.Member.ID] = c.Member
		case *txn.Member:
			all[c.ID] = c
		case *txn.MemberUpdate:
			if was := all[c.ID]; was != nil {
				now := *was
				now.PeerURLs = c.PeerURLs
				all[c.ID] = &now
			}
		}
	}
	return err
}

// LogIndex is the last index in the log of a member that does not run, 0 if it
// is empty or there is none.
func LogIndex(dir string) (uint64, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	logs, err := openLogStore(dir, segmentBytes)
	if err != nil {
		return 0, err
	}
	last, err := logs.LastIndex()
	return last, errors.Join(err, logs.Close())
}

// begin applies what the log holds beyond the store, then makes the state that
// of the new cluster, as one more index.
func (r *Recovery) begin(state *txn.State, logs *logStore, last uint64) error {
	f := &fsm{state: state, store: r.Store, proposer: newProposer(r.MemberID, 0, time.Second), cfg: &r.Config}
	for index := r.Store.Applied() + 1; index <= last; index++ {
		l := new(raft.Log)
		if err := logs.GetLog(index, l); err != nil {
			return fmt.Errorf("read index %d of the log: %w", index, err)
		}
		if l.Type == raft.LogCommand {
			f.ApplyBatch([]*raft.Log{l})
		}
	}
	last = max(last, r.Store.Applied()) // an image may be ahead of the log
	ctx := context.Background()
	w := r.Store.Writer()
	if applied := r.Store.Applied(); applied < last {
		w.Publish(last) // entries that no FSM sees
	}
	if err := r.Store.WaitDurable(ctx, last); err != nil {
		return err
	}
	w.Begin(time.Now().UnixMilli())
	if err := state.Recover(r.Cluster, r.MemberID); err != nil {
		return err
	}
	w.End()
	if err := w.Bump(r.Bump); err != nil {
		return err
	}
	w.Forget()
	w.Publish(last + 1)
	return r.Store.WaitDurable(ctx, last+1)
}

// cutLog makes the log begin behind the store, in a configuration of this
// member alone.
func (r *Recovery) cutLog(snaps *manifestStore, logs *logStore) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	term, err := logs.lastTerm(last)
	if err != nil {
		return err
	}
	if man, err := readManifest(filepath.Join(r.Dir, manifestName)); err == nil {
		term = max(term, man.Term)
	}
	index := r.Store.Applied()
	err = writeManifest(filepath.Join(r.Dir, manifestName), &manifest{
		SnapshotMeta: raft.SnapshotMeta{
			Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
			Configuration: configuration([]uint64{r.MemberID}), ConfigurationIndex: index,
		},
		Image: index,
	})
	if err != nil || last == 0 {
		return err
	}
	return logs.DeleteRange(first, last)
}

// lastTerm is the term of the entry at index; 0 if there is none.
func (l *logStore) lastTerm(index uint64) (uint64, error) {
	if index == 0 {
		return 0, nil
	}
	e := new(raft.Log)
	err := l.GetLog(index, e)
	return e.Term, err
}
