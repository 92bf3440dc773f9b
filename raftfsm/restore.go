package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"limpet/txn"
)

// Restoration is what Restore needs to know. The store must have been opened with
// no tail (sqlstore.Config.TailBytes -1).
type Restoration struct {
	Config
	Found  *txn.Found // the new cluster, this member among its members
	Bump   int64      // by which revisions go up
	Forget bool       // older revisions count as compacted
}

// restoredTerm is the term in which all members of a restored cluster begin. Each
// makes the same state of the same database by itself, so that index and term
// name it as if they had agreed on it.
const restoredTerm = 1

// Restore makes the store the beginning of a new cluster, with a log that goes on
// behind it. The folder of the log must be empty or absent, and after a crash
// made so again, with a fresh store.
func Restore(r Restoration) (rev int64, err error) {
	if _, err := os.Stat(filepath.Join(r.Dir, manifestName)); !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("raftfsm: there is a log in %s already (%w)", r.Dir, errors.Join(err, os.ErrExist))
	}
	r.Config = r.withDefaults()
	logs, err := openLogStore(r.Dir, r.MaxLogBytes/4)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	if err := logs.SetUint64([]byte("CurrentTerm"), restoredTerm); err != nil { // raft's keyCurrentTerm
		return 0, err
	}
	state, err := txn.Load(r.Store)
	if err != nil {
		return 0, err
	}
	w, index := r.Store.Writer(), r.Store.Applied()+1
	w.Begin(time.Now().UnixMilli())
	state.Restore(r.Found)
	w.End()
	if err := w.Bump(r.Bump); err != nil {
		return 0, err
	}
	if r.Forget {
		w.Forget()
	}
	w.Publish(index)
	if err := r.Store.WaitDurable(context.Background(), index); err != nil {
		return 0, err
	}
	var members []uint64
	for _, m := range r.Found.Members {
		members = append(members, m.ID)
	}
	return r.Store.Rev(), writeManifest(filepath.Join(r.Dir, manifestName), &manifest{
		SnapshotMeta: raft.SnapshotMeta{
			Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%d-%d", restoredTerm, index), Index: index, Term: restoredTerm,
			Configuration: configuration(members), ConfigurationIndex: index,
		},
		Image: index,
	})
}
