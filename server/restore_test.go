package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"

	"limpet/sqlstore"
	"limpet/trust"
	"limpet/txn"
)

// snapshot saves the database of a member that runs.
func (m *member) snapshot() string {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "saved.db")
	f, err := os.Create(file)
	if err != nil {
		m.t.Fatal(err)
	}
	err = m.store.Image(m.t.Context(), func(int64) error { return nil }, f)
	if err := errors.Join(err, f.Close()); err != nil {
		m.t.Fatal(err)
	}
	return file
}

func restore(t *testing.T, cfg Config, r Restoring) Restored {
	t.Helper()
	out, err := Restore(t.Context(), cfg, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("Restore: %v", err)
	}
	return out
}

// full is a member with something of everything, and the revision of key "k".
func full(t *testing.T) (*member, int64) {
	t.Helper()
	m := start(t, newConfig(t))
	ctx := t.Context()
	lease, err := pb.NewLeaseClient(m.conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: 600})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.kv.Put(ctx, &pb.PutRequest{Key: []byte("leased"), Value: []byte("x"), Lease: lease.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewAuthClient(m.conn).UserAdd(ctx, &pb.AuthUserAddRequest{Name: "anna", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	m.v2().do("PUT keys/old value=v2")
	added, err := pb.NewClusterClient(m.conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewClusterClient(m.conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: added.Member.ID}); err != nil {
		t.Fatal(err)
	}
	m.put("k", "old")
	m.put("k", "v")
	rev := m.put("other", "v")
	if _, err := pb.NewMaintenanceClient(m.conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	return m, rev
}

// TestRestoreAlone: the next start is the one member of a new cluster, with all
// that the snapshot had, and nothing of the members before.
func TestRestoreAlone(t *testing.T) {
	before, rev := full(t)
	file, was := before.snapshot(), before.clusterID()
	cfg := newConfig(t)
	cfg.Name = "again"
	out := restore(t, cfg, Restoring{Database: file, Bump: RestoreBump, MarkCompacted: true})
	if out.Revision != rev+RestoreBump || parseHex(out.ClusterID) == was || out.Secured || !slices.Equal(out.Members, []string{"again"}) {
		t.Errorf("restored %+v of a cluster %x at revision %d", out, was, rev)
	}
	m := start(t, cfg)
	m.wantValue("k", "v")
	m.wantValue("leased", "x")
	if next := m.put("k", "new"); next != out.Revision+1 { // and no alarm forbids it
		t.Errorf("the next revision is %d, want %d", next, out.Revision+1)
	}
	if id := fmt.Sprintf("%x", m.clusterID()); id != out.ClusterID {
		t.Errorf("the cluster is %s, want %s", id, out.ClusterID)
	}
	list, err := pb.NewClusterClient(m.conn).MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].Name != "again" || list.Members[0].PeerURLs[0] != cfg.AdvertisePeerURLs[0] || fmt.Sprintf("%x", list.Members[0].ID) != out.MemberID {
		t.Errorf("members %v, %v; want again at %s, %s, alone", list, err, cfg.AdvertisePeerURLs[0], out.MemberID)
	}
	if _, err := pb.NewLeaseClient(m.conn).LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 77}); err != nil {
		t.Errorf("the lease: %v", err)
	}
	if users, err := pb.NewAuthClient(m.conn).UserList(t.Context(), &pb.AuthUserListRequest{}); err != nil || !slices.Equal(users.Users, []string{"anna"}) {
		t.Errorf("users %v, %v; want anna", users, err)
	}
	if got := m.v2().do("GET keys/old"); !strings.Contains(got.body, `"value":"v2"`) {
		t.Errorf("the key of the v2 API: %v", got)
	}
	ws := m.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: rev})
	if resp, err := ws.Recv(); err != nil || resp.CompactRevision != out.Revision {
		t.Errorf("a watch from a revision before: %v, %v; want it compacted at %d", resp, err, out.Revision)
	}
	m.stop()
	start(t, cfg).wantValue("k", "new") // and again
}

// TestRestoreKeepsHistory: without a mark, what was not compacted can still be read.
func TestRestoreKeepsHistory(t *testing.T) {
	before, rev := full(t)
	cfg := newConfig(t)
	out := restore(t, cfg, Restoring{Database: before.snapshot(), Bump: 10})
	if out.Revision != rev+10 {
		t.Errorf("revision %d, want %d", out.Revision, rev+10)
	}
	m := start(t, cfg)
	resp, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Revision: rev - 2})
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "old" {
		t.Errorf("the value before: %v, %v; want old", resp, err)
	}
	last := m.put("k", "new")
	ws := m.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: rev - 2})
	var got []string
	for len(got) < 3 {
		events, err := ws.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Events {
			got = append(got, fmt.Sprint(string(e.Kv.Value), " ", e.Kv.ModRevision))
		}
	}
	if want := []string{fmt.Sprint("old ", rev-2), fmt.Sprint("v ", rev-1), fmt.Sprint("new ", last)}; !slices.Equal(got, want) {
		t.Errorf("a watch heard of %v, want %v", got, want)
	}
}

// TestRestoreThree: members restored separately, as etcd's tutorial does it, are one
// cluster; and one that was restored of another snapshot is none of it.
func TestRestoreThree(t *testing.T) {
	before, rev := full(t)
	file := before.snapshot()
	if _, err := before.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	other := before.snapshot()
	cfgs := threeFounders(t)
	founders := strings.Split(cfgs[0].InitialCluster, ",")
	clusters, ids := map[string]bool{}, map[string]bool{}
	for i := range cfgs {
		cfgs[i].InitialCluster = strings.Join(founders, ",")
		founders = append(founders[1:], founders[0]) // in any order
		out := restore(t, cfgs[i], Restoring{Database: file, Bump: RestoreBump, MarkCompacted: true})
		clusters[out.ClusterID], ids[out.MemberID] = true, true
	}
	if len(clusters) != 1 || len(ids) != 3 {
		t.Fatalf("clusters %v, members %v; want one and three", clusters, ids)
	}
	members := startAll(t, cfgs...)
	members[0].put("k", "new")
	for _, m := range members {
		m.wantValue("k", "new")
		m.wantValue("leased", "x")
	}
	list, err := pb.NewClusterClient(members[1].conn).MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 3 {
		t.Errorf("members: %v, %v; want three", list, err)
	}
	hashes := map[uint32]bool{}
	for _, m := range members {
		var h *pb.HashKVResponse
		eventually(t, "the revision at each member", func() bool {
			h, err = pb.NewMaintenanceClient(m.conn).HashKV(t.Context(), &pb.HashKVRequest{Revision: rev + RestoreBump + 1})
			return err == nil
		})
		hashes[h.Hash] = true
	}
	if len(hashes) != 1 {
		t.Errorf("hashes %v, want one", hashes)
	}
	cfgs[0].DataDir = filepath.Join(t.TempDir(), "another")
	if out := restore(t, cfgs[0], Restoring{Database: other, Bump: RestoreBump, MarkCompacted: true}); clusters[out.ClusterID] || ids[out.MemberID] {
		t.Errorf("of another snapshot came the same cluster: %+v", out)
	}
}

// TestRestoredOnceMore: a member that is restored a second time of the same snapshot
// lacks what it has agreed to; the others do not make a quorum with it.
func TestRestoredOnceMore(t *testing.T) {
	before, _ := full(t)
	file := before.snapshot()
	cfgs := threeFounders(t)
	for _, cfg := range cfgs {
		restore(t, cfg, Restoring{Database: file, Bump: RestoreBump})
	}
	members := startAll(t, cfgs...)
	for _, m := range members {
		eventually(t, m.cfg.Name+" to know who was restored how", func() bool {
			return !slices.ContainsFunc(m.node.Membership().Members, func(mb *txn.Member) bool { return mb.Restored == 0 })
		})
	}
	a, b, c := members[0], members[1], members[2]
	c.stop()
	a.put("k", "acknowledged by a and b")
	a.stop()
	b.stop()
	if err := os.RemoveAll(cfgs[1].DataDir); err != nil {
		t.Fatal(err)
	}
	restore(t, cfgs[1], Restoring{Database: file, Bump: RestoreBump})

	// Neither gets a leader, so neither starts.
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	log, started := new(syncBuffer), [2]chan *Server{make(chan *Server, 1), make(chan *Server, 1)}
	for i, cfg := range cfgs[1:] {
		// Owner: this test; ends with its start, or with giveUp.
		go func() {
			s, err := Start(ctx, cfg, slog.New(slog.NewTextHandler(log, nil)))
			if err == nil && i == 0 {
				t.Error("b has started")
			}
			started[i] <- s
		}()
	}
	eventually(t, "c to refuse b", func() bool { return log.has("was restored from its snapshot once more") })
	a = start(t, cfgs[0])
	c = connect(t, <-started[1])
	for _, m := range []*member{a, c} {
		m.wantValue("k", "acknowledged by a and b")
	}
	giveUp()
	<-started[0]
}

// TestRestoreRefuses: what cannot be done changes nothing, and says why.
func TestRestoreRefuses(t *testing.T) {
	before, _ := full(t)
	file := before.snapshot()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) string {
		name := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	damaged := bytes.Clone(whole)
	clear(damaged[2*4096 : 3*4096])
	wal := write(whole)
	if err := os.WriteFile(wal+"-wal", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(foreign, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		file, dir, cluster, says string
		bump                     int64
	}{
		"truncated":       {file: write(whole[:len(whole)-4096]), says: "its header speaks of"},
		"a page of zeros": {file: write(damaged), says: "page 3"},
		"empty":           {file: write(nil), says: "0 bytes are no SQLite database"},
		"no file":         {file: file + ".none", says: "no such file"},
		"a WAL beside":    {file: wal, says: "x.db-wal"},
		"a member there":  {file: file, dir: before.cfg.DataDir, says: "there is a member in"},
		"etcd's":          {file: file, dir: foreign, says: "belongs to etcd"},
		"not a founder":   {file: file, cluster: "a=http://127.0.0.1:1,b=http://127.0.0.1:2", says: "couldn't find local name"},
		"going back":      {file: file, bump: -1, says: "must not be negative"},
		"too far":         {file: file, bump: 1 << 40, says: "the largest to begin with is"},
		"beyond numbers":  {file: file, bump: math.MaxInt64, says: "the largest to begin with is"},
	} {
		cfg := newConfig(t)
		cfg.InitialCluster = c.cluster
		if c.dir != "" {
			cfg.DataDir = c.dir
		}
		was, _ := os.ReadDir(cfg.DataDir)
		_, err := Restore(t.Context(), cfg, Restoring{Database: c.file, Bump: c.bump}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want that %q", what, err, c.says)
		}
		if now, _ := os.ReadDir(cfg.DataDir); len(now) != len(was) {
			t.Errorf("%s: the folder holds %v, want %v", what, now, was)
		}
	}
}

// TestRestoreAgain: wherever a restore was cut short, the member does not start, and
// a second run makes it whole, beside a token and snapshots that were there before.
func TestRestoreAgain(t *testing.T) {
	before, rev := full(t)
	file := before.snapshot()
	for _, walDir := range []string{"", t.TempDir()} {
		cfg := newConfig(t)
		cfg.DataDir, cfg.WALDir = filepath.Join(t.TempDir(), "a[b"), walDir // no pattern
		if err := os.MkdirAll(filepath.Join(cfg.DataDir, SnapshotsName, "kept"), 0o700); err != nil {
			t.Fatal(err)
		}
		first := restore(t, cfg, Restoring{Database: file})
		// As a power cut just before the end leaves it.
		id, err := readIdentity(cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		id.Restoring, id.ClusterID = true, ""
		if err := writeIdentity(cfg.DataDir, id); err != nil {
			t.Fatal(err)
		}
		for _, left := range []string{restoredName, databaseName + ".next", databaseName + "-wal"} {
			if err := os.WriteFile(filepath.Join(cfg.DataDir, left), []byte("half of it"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "limpet snapshot restore, or limpet import, did not finish on "+cfg.DataDir+": run it again") {
			t.Errorf("a start on half a restore: %v, want that it is to be run again", err)
		}
		out := restore(t, cfg, Restoring{Database: file})
		if out.Revision != rev || out.ClusterID == first.ClusterID {
			t.Errorf("the second run: %+v, the first %+v; want revision %d", out, first, rev)
		}
		m := start(t, cfg)
		m.wantValue("k", "v")
		m.stop()
		if logs, _ := filepath.Glob(filepath.Join(walDir, raftDirName+"-*")); walDir != "" && len(logs) != 1 {
			t.Errorf("--wal-dir holds %v, want the log of the last run alone", logs)
		}
		if !exists(filepath.Join(cfg.DataDir, SnapshotsName, "kept")) {
			t.Error("the folder of snapshots is gone")
		}
		p, err := sqlstore.Inspect(t.Context(), filepath.Join(cfg.DataDir, databaseName), 0, nil)
		if err != nil || p.Owner != parseHex(out.MemberID) {
			t.Errorf("the database is %+v, %v; want it to be %s's", p, err, out.MemberID)
		}
	}
}

// TestRestoreFullDisk: a disk that is full half-way is named, and the second run has
// the room that the first one took.
func TestRestoreFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts a small disk")
	}
	m := start(t, newConfig(t))
	for i := range 24 {
		value := make([]byte, 1<<20)
		_, _ = rand.Read(value)
		m.put(fmt.Sprint("k", i), string(value))
	}
	m.put("k", "v")
	file := m.snapshot()
	cfg := newConfig(t)
	cfg.DataDir = t.TempDir()
	if err := unix.Mount("none", cfg.DataDir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("no small disk here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(cfg.DataDir, unix.MNT_DETACH) })

	quiet := slog.New(slog.DiscardHandler)
	if _, err := Restore(t.Context(), cfg, Restoring{Database: file}, quiet); err == nil || !strings.Contains(err.Error(), "make room") || exists(filepath.Join(cfg.DataDir, identityName)) {
		t.Errorf("Restore: %v, want that there is no room, and nothing made", err)
	}
	// As if others filled the disk meanwhile.
	d, err := beginRestore(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&rebuild{cfg: cfg, Restoring: Restoring{Database: file}, log: quiet, dir: d}).run(t.Context())
	if want := "the disk of " + cfg.DataDir + " is full; make room, and run the same again"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("half-way: %v, want that %q", err, want)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	// Room for one copy, and not for what was left beside it.
	if err := unix.Mount("none", cfg.DataDir, "tmpfs", unix.MS_REMOUNT, "size=40m"); err != nil {
		t.Fatal(err)
	}
	restore(t, cfg, Restoring{Database: file})
	start(t, cfg).wantValue("k", "v")
}

// TestRestoreToken: the token that is given is stored; without one the first start
// decides, as that of a new cluster does, and only the first.
func TestRestoreToken(t *testing.T) {
	before, _ := full(t)
	file := before.snapshot()
	for what, given := range map[string]string{"none": "", "one": trust.GenerateToken()} {
		cfg := DefaultConfig()
		cfg.DataDir, cfg.Token = filepath.Join(t.TempDir(), "data"), given
		out := restore(t, cfg, Restoring{Database: file})
		if token, err := StoredToken(cfg.DataDir); out.Secured != (given != "") || given != "" && (err != nil || token.Reveal() != given) {
			t.Errorf("%s given: %+v, stored is another one, or %v", what, out, err)
		}
		if id, err := readIdentity(cfg.DataDir); err != nil || id.Secured != (given != "") || id.ClusterID != out.ClusterID {
			t.Errorf("%s given: the identity is %+v, %v", what, id, err)
		}
		cfg.Token = ""
		if err := cfg.readTokens(slog.New(slog.DiscardHandler)); err != nil || cfg.held == nil || cfg.minted != (given == "") {
			t.Errorf("%s given: the first start has %+v, minted %v, %v", what, cfg.held, cfg.minted, err)
		}
	}
	plain := newConfig(t) // whose URLs say http
	restore(t, plain, Restoring{Database: file})
	start(t, plain).stop()
	id, err := readIdentity(plain.DataDir)
	if err != nil || id.Secured || id.Fresh {
		t.Errorf("after a start without a token: %+v, %v", id, err)
	}
	stated := DefaultConfig()
	stated.DataDir = plain.DataDir
	if stated.mintsToken() {
		t.Error("a later start makes a token, which the others do not have")
	}
}

// TestRestoreOwner: what root makes in a folder of another user's is that user's.
func TestRestoreOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	before, _ := full(t)
	cfg := DefaultConfig()
	cfg.Token = trust.GenerateToken()
	cfg.DataDir, cfg.WALDir = filepath.Join(t.TempDir(), "data"), t.TempDir()
	stored := filepath.Join(cfg.DataDir, tokenName) // another token than the one that is given
	if err := errors.Join(os.Mkdir(cfg.DataDir, 0o700), os.WriteFile(stored, []byte(trust.GenerateToken()), 0o600),
		os.Chown(stored, 12345, 54321), os.Chown(cfg.DataDir, 12345, 54321)); err != nil {
		t.Fatal(err)
	}
	restore(t, cfg, Restoring{Database: before.snapshot()})
	files := 0
	look := func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == cfg.WALDir {
			return err
		}
		files++
		if uid, _ := owner(path); uid != 12345 {
			t.Errorf("%s belongs to user %d", path, uid)
		}
		return nil
	}
	if err := errors.Join(filepath.WalkDir(cfg.DataDir, look), filepath.WalkDir(cfg.WALDir, look)); err != nil || files < 7 {
		t.Errorf("saw %d files, %v", files, err)
	}
}

// TestSnapshotHasWhatWasAnswered: what one member has acknowledged is in a snapshot
// that another one gives right afterwards.
func TestSnapshotHasWhatWasAnswered(t *testing.T) {
	members := startThree(t)
	for i := range 30 {
		at, of := members[i%3], members[(i+1)%3]
		value := fmt.Sprintf("answered-%04d", i)
		at.put("k", value)
		if image := of.received(); !bytes.Contains(image, []byte(value)) {
			t.Fatalf("the snapshot of m%d, %d bytes, lacks what m%d had acknowledged before", (i+1)%3+1, len(image), i%3+1)
		}
	}
}

// received is a snapshot as clients get it.
func (m *member) received() []byte {
	m.t.Helper()
	stream, err := pb.NewMaintenanceClient(m.conn).Snapshot(m.t.Context(), &pb.SnapshotRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	var image bytes.Buffer
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return image.Bytes()
		}
		if err != nil {
			m.t.Fatalf("the snapshot ends after %d bytes: %v", image.Len(), err)
		}
		image.Write(resp.Blob)
	}
}

// TestRestoreThreeUnderLoad: a snapshot of one of three members that are all written
// to, restored on three: all that was acknowledged before it is there.
func TestRestoreThreeUnderLoad(t *testing.T) {
	const atLeast = 50
	members := startThree(t)
	loading, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var answered [3]atomic.Int64
	for i, m := range members {
		writers.Go(func() {
			for n := 0; loading.Err() == nil; n++ {
				key := fmt.Appendf(nil, "writer-%d/%06d", i, n)
				if _, err := m.kv.Put(loading, &pb.PutRequest{Key: key, Value: key}); err == nil {
					answered[i].Store(int64(n + 1))
				} else if loading.Err() == nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
			}
		})
	}
	defer writers.Wait()
	defer stop()
	var before [3]int64
	reach := func(more int64) {
		for i := range before {
			eventually(t, "writes at each member", func() bool { return answered[i].Load() >= before[i]+more })
		}
	}
	reach(atLeast)
	for i := range before {
		before[i] = answered[i].Load()
	}
	image := members[1].received()
	reach(atLeast) // it went on meanwhile
	stop()
	writers.Wait()
	for _, m := range members {
		m.stop()
	}

	file := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(file, image[:len(image)-sha256.Size], 0o600); err != nil {
		t.Fatal(err)
	}
	cfgs := threeFounders(t)
	for i := range cfgs {
		restore(t, cfgs[i], Restoring{Database: file, Bump: RestoreBump, MarkCompacted: true})
	}
	restored := startAll(t, cfgs...)
	for i, n := range before {
		for _, m := range restored {
			resp, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: fmt.Appendf(nil, "writer-%d/", i), RangeEnd: fmt.Appendf(nil, "writer-%d/%06d", i, n), CountOnly: true})
			if err != nil || resp.Count != n {
				t.Errorf("of %d writes that member %d had acknowledged before the snapshot, %v are there (%v)", n, i+1, resp.GetCount(), err)
			}
		}
	}
}
