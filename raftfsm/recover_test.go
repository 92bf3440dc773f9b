package raftfsm

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/sqlstore"
	"limpet/txn"
)

// TestInspectReadsTheLog: a member whose database has not heard of the others
// yet still names them, as it was killed soon after they came.
func TestInspectReadsTheLog(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	for _, cmd := range []txn.Command{
		&txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 0xabc, Name: "a", PeerURLs: []string{"http://a:1"}}}},
		&txn.MemberAdd{Member: &txn.Member{ID: 0xdef, PeerURLs: []string{"http://b:1"}, Learner: true}},
		&txn.Member{ID: 0xdef, Name: "b", PeerURLs: []string{"http://b:2"}},
		&txn.MemberUpdate{ID: 0xdef, PeerURLs: []string{"http://b:3"}},
	} {
		if _, err := m.Propose(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	killed := copyDir(t, m.dir)
	store, err := sqlstore.Open(sqlstore.Config{Path: filepath.Join(killed, "limpet.db"), TailBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if store.Applied() != 0 {
		t.Fatalf("the database holds index %d, want nothing", store.Applied())
	}
	in, err := Inspect(Config{Dir: filepath.Join(killed, "raft"), Store: store, MemberID: 0xabc})
	if err != nil {
		t.Fatal(err)
	}
	all := in.Membership.Members
	if len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" || all[1].PeerURLs[0] != "http://b:3" || in.Membership.Self != all[0] {
		t.Errorf("members %v, self %v; want a and b at its newest address, and a", all, in.Membership.Self)
	}
	if store.Applied() != 0 {
		t.Errorf("looking has applied %d entries", store.Applied())
	}
}

// TestOlderLimpetLeavesTheData: a member whose log was written by a newer
// limpet does not start, nor is it recovered.
func TestOlderLimpetLeavesTheData(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir, func(cfg *Config) { cfg.Format = 2 })
	if _, err := m.Propose(t.Context(), &txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 0xabc, Name: "a", Format: 2}}}); err != nil {
		t.Fatal(err)
	}
	m.put("k", "v")
	killed := copyDir(t, m.dir)
	rev, applied := m.store.Rev(), m.store.Applied()
	m.stop()
	playOlder(t)
	for what, dir := range map[string]string{"stopped": dir, "killed": killed} {
		older, err := tryStart(t, dir, nil)
		if older != nil {
			older.stop()
		}
		if !errors.Is(err, errNewer) || !strings.Contains(err.Error(), "upgrade limpet") {
			t.Errorf("an older limpet started on the data of one that was %s: %v, want errNewer", what, err)
		}
	}
	store, err := sqlstore.Open(sqlstore.Config{Path: filepath.Join(dir, "limpet.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if store.Rev() != rev || store.Applied() != applied {
		t.Errorf("the database holds revision %d, index %d, want %d, %d as before", store.Rev(), store.Applied(), rev, applied)
	}
}

// TestNewerEntryIsNotStored: a member that gets what it cannot read stops
// before it has it.
func TestNewerEntryIsNotStored(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	var broken error
	l.onBroken = func(err error) { broken = err }
	entry := encode(t, entryHead{member: 1, batch: 1, time: 1}, &pb.PutRequest{Key: []byte("k")})
	playOlder(t)
	err := l.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: entry})
	if !errors.Is(err, errNewer) || !errors.Is(broken, errNewer) {
		t.Errorf("StoreLog of a newer entry: %v, reported was %v, want errNewer for both", err, broken)
	}
	l.wantSpan("after the newer entry", 0, 0)
}

// TestInspectSeesTheImage: a member whose database came as an image, newer than
// the manifest that came with it, has what the image has.
func TestInspectSeesTheImage(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	if _, err := m.Propose(t.Context(), &txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 0xabc, Name: "a", PeerURLs: []string{"http://a:1"}}}}); err != nil {
		t.Fatal(err)
	}
	old := m.store.Applied()
	for range 20 {
		m.put("k", "v")
	}
	applied, term := m.store.Applied(), m.Term()
	if err := m.store.WaitDurable(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	m.stop()
	dir := filepath.Join(t.TempDir(), "raft") // no log, as after an adoption
	logs, err := openLogStore(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	man := &manifest{SnapshotMeta: raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: "x", Index: old, Term: term, Configuration: configuration([]uint64{0xabc, 1, 2}), ConfigurationIndex: 1,
	}, Image: applied}
	if err := errors.Join(logs.Close(), writeManifest(filepath.Join(dir, manifestName), man)); err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(sqlstore.Config{Path: filepath.Join(m.dir, "limpet.db"), TailBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	cfg := Config{Dir: dir, Store: store, MemberID: 0xabc}
	if in, err := Inspect(cfg); err != nil || in.Index != applied {
		t.Errorf("inspected: %+v, %v; want index %d", in, err, applied)
	}
	if _, err := Recover(Recovery{Config: cfg, Cluster: 9, Bump: 1000}); err != nil {
		t.Fatal(err)
	}
	if got := store.Applied(); got <= applied {
		t.Errorf("after recovery the database holds index %d, want more than %d as before", got, applied)
	}
}
