package raftfsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

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

// Files of the log's folder beside the segments.
const (
	manifestName = "manifest.json"
	// incomingName is the manifest of an image that was received whole. While it
	// exists, the image is being made the database; whoever finds it at the
	// start goes on with that.
	incomingName = "incoming.json"
	imageName    = "image.db"
	partialName  = "image.tmp" // an image under way
)

var errDamaged = errors.New("raftfsm: the image was damaged on the way")

// manifest is the one snapshot there is.
type manifest struct {
	raft.SnapshotMeta
	// Image is the index of the database when it came from another member, 0 if
	// it did not. It may be ahead of the log, which follows.
	Image uint64 `json:",omitempty"`
}

// manifestStore is a raft.SnapshotStore whose one snapshot is a manifest of a
// few bytes beside the log. The data is the database itself: whoever opens the
// snapshot is streamed the live database, which may be newer than the manifest
// says; the rule that applied entries are skipped (I6) makes that harmless.
//
// On the receiving side the stream becomes a file, then the database:
//
//	image.tmp         the stream so far; forgotten by a crash
//	image.db          whole and synced
//	incoming.json     from here on the image will become the database
//	limpet.db         the image, renamed; sqlstore.AdoptFile
//	(log removed)     it ends before the image, or does not lead to it
//	manifest.json     the image's
//	(incoming.json removed)
type manifestStore struct {
	dir   string
	store *sqlstore.Store
	logs  *logStore
	mu    sync.Mutex // serialises writes of the manifest
	// onBroken hears that the member must stop; may be nil.
	onBroken func(error)

	received atomic.Uint64 // pieces of images, since the start
	adopting atomic.Bool   // a received image is synced and made the database
}

// Create implements raft.SnapshotStore.
func (m *manifestStore) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &manifestSink{m: m, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

// List implements raft.SnapshotStore.
func (m *manifestStore) List() ([]*raft.SnapshotMeta, error) {
	man, err := readManifest(filepath.Join(m.dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{&man.SnapshotMeta}, nil
}

func readManifest(file string) (*manifest, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	man := new(manifest)
	if err := json.Unmarshal(data, man); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return man, nil
}

// writeManifest replaces the file in one step: after a crash there is the old
// one or the new one.
func writeManifest(file string, man *manifest) error {
	data, err := json.MarshalIndent(man, "", " ")
	if err != nil {
		return err
	}
	return safefile.Write(file, append(data, '\n'))
}

// Open implements raft.SnapshotStore. An image that was just received is
// handed to the FSM as the file it is. Else somebody needs ours: the live
// database as a stream, whose size in the meta data is exact.
func (m *manifestStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if in, err := readManifest(filepath.Join(m.dir, incomingName)); err == nil && in.ID == id {
		f, err := os.Open(filepath.Join(m.dir, imageName))
		return &in.SnapshotMeta, f, err
	}
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
		// SQLite's pages have no checksums, so the stream ends with one.
		sum := sha256.New()
		err := m.store.Image(context.Background(), func(n int64) error { size <- n + sha256.Size; return nil }, io.MultiWriter(pw, sum))
		if err == nil {
			_, err = pw.Write(sum.Sum(nil))
		}
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

// manifestSink takes either nothing, for a snapshot of our own, or the image
// of another member.
type manifestSink struct {
	m     *manifestStore
	meta  raft.SnapshotMeta
	image *os.File // nil until something is written
	sum   hash.Hash
	held  []byte // the newest bytes: at the end, the checksum
}

// ID implements raft.SnapshotSink.
func (s *manifestSink) ID() string { return s.meta.ID }

// Write implements raft.SnapshotSink.
func (s *manifestSink) Write(p []byte) (n int, err error) {
	s.m.received.Add(1)
	if s.image == nil {
		s.image, err = os.OpenFile(filepath.Join(s.m.dir, partialName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, err
		}
		s.sum = sha256.New()
	}
	s.held = append(s.held, p...)
	if ripe := len(s.held) - sha256.Size; ripe > 0 {
		s.sum.Write(s.held[:ripe])
		if _, err := s.image.Write(s.held[:ripe]); err != nil {
			return 0, err
		}
		s.held = append(s.held[:0], s.held[ripe:]...)
	}
	return len(p), nil
}

// Cancel implements raft.SnapshotSink.
func (s *manifestSink) Cancel() error {
	if s.image == nil {
		return nil
	}
	return errors.Join(s.image.Close(), os.Remove(s.image.Name()))
}

// Close implements raft.SnapshotSink.
func (s *manifestSink) Close() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.image == nil {
		return writeManifest(filepath.Join(s.m.dir, manifestName), &manifest{SnapshotMeta: s.meta})
	}
	if !bytes.Equal(s.held, s.sum.Sum(nil)) {
		return errors.Join(errDamaged, s.Cancel())
	}
	s.m.adopting.Store(true)
	defer s.m.adopting.Store(false)
	if err := errors.Join(s.image.Sync(), s.image.Close()); err != nil {
		return err
	}
	if err := os.Rename(s.image.Name(), filepath.Join(s.m.dir, imageName)); err != nil {
		return err
	}
	// safefile syncs the folder, and with it the rename.
	return writeManifest(filepath.Join(s.m.dir, incomingName), &manifest{SnapshotMeta: s.meta})
}

// dropOldLog removes a log that ends below the manifest: a crash came between
// writing the one and removing the other, and what follows would leave a gap.
func (m *manifestStore) dropOldLog() error {
	man, err := readManifest(filepath.Join(m.dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	first, err := m.logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := m.logs.LastIndex()
	if err != nil || last == 0 || last >= man.Index {
		return err
	}
	return m.logs.DeleteRange(first, last)
}

// adopt makes the received image the database of the running store.
func (m *manifestStore) adopt(store *sqlstore.Store) error {
	m.adopting.Store(true)
	defer m.adopting.Store(false)
	err := store.Adopt(filepath.Join(m.dir, imageName))
	if errors.Is(err, sqlstore.ErrImageRefused) {
		// Damaged, or older than what we have: the leader will send another.
		return errors.Join(err, dropIncoming(m.dir))
	}
	if err == nil {
		err = m.finishAdoption()
	}
	if err != nil && m.onBroken != nil {
		// It may be half done: the next start goes on with it.
		m.onBroken(fmt.Errorf("the database from the leader could not be taken over: %w", err))
	}
	return err
}

// dropIncoming forgets an image that cannot be used. The marker goes first:
// without it the image means nothing.
func dropIncoming(dir string) error {
	err := os.Remove(filepath.Join(dir, incomingName))
	if e := os.Remove(filepath.Join(dir, imageName)); err == nil && !errors.Is(e, os.ErrNotExist) {
		err = e
	}
	return err
}

// AdoptFile goes on with an adoption that a crash interrupted; it is called
// before the database at path is opened. Without one it does nothing.
func AdoptFile(dir, path string, owner uint64) error {
	_, err := os.Stat(filepath.Join(dir, incomingName))
	if errors.Is(err, os.ErrNotExist) {
		// An image without its marker was not complete.
		for _, name := range []string{partialName, imageName} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	err = sqlstore.AdoptFile(path, filepath.Join(dir, imageName), owner)
	if errors.Is(err, sqlstore.ErrImageRefused) {
		return dropIncoming(dir) // the old database is whole; the leader will send another
	}
	if err != nil {
		return fmt.Errorf("adopt the image from the leader: %w", err)
	}
	return nil
}

// finishAdoption makes the log's folder fit the adopted database; it may be
// repeated. Without an adoption under way it does nothing.
func (m *manifestStore) finishAdoption() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	incoming := filepath.Join(m.dir, incomingName)
	man, err := readManifest(incoming)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	first, err := m.logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := m.logs.LastIndex()
	if err != nil {
		return err
	}
	if last > 0 {
		if err := m.logs.DeleteRange(first, last); err != nil {
			return fmt.Errorf("remove the log behind the adopted database: %w", err)
		}
	}
	man.Image = m.store.Applied()
	if err := writeManifest(filepath.Join(m.dir, manifestName), man); err != nil {
		return err
	}
	return os.Remove(incoming)
}
