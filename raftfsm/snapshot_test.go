package raftfsm

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/sqlstore"
)

// TestManifest: a snapshot is a few bytes; the newest replaces the one before,
// and opening it streams the live database, which may be newer.
func TestManifest(t *testing.T) {
	f := newFSM(t)
	f.ApplyBatch([]*raft.Log{entryAt(t, 4, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})})
	m := &manifestStore{dir: t.TempDir(), store: f.store}
	if metas, err := m.List(); len(metas) != 0 || err != nil {
		t.Fatalf("List of none: %v, %v", metas, err)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: "1", Address: "here"}}}
	for index := uint64(3); index <= 4; index++ {
		snap, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		sink, err := m.Create(1, index, 2, conf, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := snap.Persist(sink); err != nil {
			t.Fatalf("Persist: %v", err)
		}
		if f.store.Durable() < 4 {
			t.Errorf("Persist returned with %d durable, want 4", f.store.Durable())
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		snap.Release()
	}
	metas, err := m.List()
	if err != nil || len(metas) != 1 || metas[0].Index != 4 || metas[0].Term != 2 || metas[0].ID != "2-4" || len(metas[0].Configuration.Servers) != 1 {
		t.Fatalf("List: %+v, %v; want the one at index 4", metas, err)
	}
	if info, err := os.Stat(filepath.Join(m.dir, manifestName)); err != nil || info.Size() > 4096 {
		t.Errorf("the manifest: %v, %v; want some bytes", info, err)
	}
	f.ApplyBatch([]*raft.Log{entryAt(t, 9, &pb.PutRequest{Key: []byte("b"), Value: []byte("1")})})
	meta, stream, err := m.Open("2-4")
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(stream)
	if err != nil || int64(len(image)) != meta.Size {
		t.Fatalf("an image of %d bytes, %v; want the %d announced", len(image), err, meta.Size)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "limpet.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := sqlstore.Open(sqlstore.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if s.Applied() != 9 || s.Rev() != 3 {
		t.Errorf("the image is of index %d, revision %d; want 9, 3", s.Applied(), s.Rev())
	}
}

// TestImageNotRead: whoever opens a snapshot and goes away leaves nothing
// running.
func TestImageNotRead(t *testing.T) {
	f := newFSM(t)
	m := &manifestStore{dir: t.TempDir(), store: f.store}
	sink, _ := m.Create(1, 1, 1, raft.Configuration{}, 1, nil)
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	_, stream, err := m.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestManifestRefuses(t *testing.T) {
	f := newFSM(t)
	m := &manifestStore{dir: t.TempDir(), store: f.store}
	if _, _, err := m.Open("1-1"); err == nil || !strings.Contains(err.Error(), "1-1") {
		t.Errorf("Open of none: %v", err)
	}
	sink, _ := m.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	if metas, err := m.List(); len(metas) != 0 || err != nil {
		t.Errorf("a canceled snapshot is listed: %v, %v", metas, err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, manifestName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.List(); err == nil || !strings.Contains(err.Error(), manifestName) {
		t.Errorf("List of a damaged manifest: %v, want an error that names it", err)
	}
	if _, _, err := m.Open("1-5"); err == nil {
		t.Error("a damaged manifest can be opened")
	}
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	sink, _ = m.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Open(sink.ID()); err == nil {
		t.Error("an image of a closed database can be opened")
	}
}
