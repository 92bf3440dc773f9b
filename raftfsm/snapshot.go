package raftfsm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"limpet/safefile"
	"limpet/sqlstore"
)

// virtualSnapshot is a snapshot that copies nothing: it notes an index, and to
// persist it is to wait until SQLite holds that index, synced.
type virtualSnapshot struct {
	store *sqlstore.Store
	index uint64
}

// Persist implements raft.FSMSnapshot.
func (v *virtualSnapshot) Persist(sink raft.SnapshotSink) error {
	return v.store.WaitDurable(context.Background(), v.index)
}

// Release implements raft.FSMSnapshot.
func (v *virtualSnapshot) Release() {}

// manifestStore is a raft.SnapshotStore whose one snapshot is a manifest of a
// few bytes beside the log. The data is the database itself: whoever opens the
// snapshot is streamed the live database, which may be newer than the manifest
// says; the rule that applied entries are skipped (I6) makes that harmless.
type manifestStore struct {
	dir   string
	store *sqlstore.Store
	mu    sync.Mutex // serialises writes of the manifest
}

const manifestName = "manifest.json"

// Create implements raft.SnapshotStore.
func (m *manifestStore) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &manifestSink{m, raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

// List implements raft.SnapshotStore.
func (m *manifestStore) List() ([]*raft.SnapshotMeta, error) {
	data, err := os.ReadFile(filepath.Join(m.dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	meta := new(raft.SnapshotMeta)
	if err := json.Unmarshal(data, meta); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	return []*raft.SnapshotMeta{meta}, nil
}

// Open implements raft.SnapshotStore: the live database as a stream. The size
// in the meta data is exact.
func (m *manifestStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	metas, err := m.List()
	if err != nil {
		return nil, nil, err
	}
	if len(metas) == 0 || metas[0].ID != id {
		return nil, nil, fmt.Errorf("raftfsm: snapshot %s does not exist", id)
	}
	pr, pw := io.Pipe()
	size := make(chan int64, 1)
	// Owner: the reader of the pipe; ends when it has read or closed it.
	go func() {
		err := m.store.Image(context.Background(), func(n int64) error { size <- n; return nil }, pw)
		close(size)
		_ = pw.CloseWithError(err)
	}()
	n, ok := <-size
	if !ok {
		_, err := pr.Read(make([]byte, 1))
		return nil, nil, err
	}
	metas[0].Size = n
	return metas[0], pr, nil
}

// manifestSink writes the manifest when closed.
type manifestSink struct {
	m    *manifestStore
	meta raft.SnapshotMeta
}

// ID implements raft.SnapshotSink.
func (s *manifestSink) ID() string { return s.meta.ID }

// Write implements raft.SnapshotSink; there is nothing to write.
func (s *manifestSink) Write(p []byte) (int, error) { return len(p), nil }

// Cancel implements raft.SnapshotSink.
func (s *manifestSink) Cancel() error { return nil }

// Close implements raft.SnapshotSink. The manifest replaces the old one in one
// step: after a crash there is one of the two.
func (s *manifestSink) Close() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	data, err := json.MarshalIndent(s.meta, "", " ")
	if err != nil {
		return err
	}
	return safefile.Write(filepath.Join(s.m.dir, manifestName), append(data, '\n'))
}
