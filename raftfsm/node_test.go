package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"limpet/sqlstore"
	"limpet/txn"
)

// One kind of goroutine may be left: raft does not answer the futures of
// entries that its FSM goroutine has not taken when it shuts down, and nothing
// else ends the wait for one (see await).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// deadline bounds every wait of these tests; none of them comes near it.
const deadline = time.Minute

// member is a node with its store, in one folder.
type member struct {
	*Node
	t     testing.TB
	dir   string
	store *sqlstore.Store
}

// start opens a member in dir and waits until it serves. Its store writes to
// disk only when it must.
func start(t testing.TB, dir string, set func(*Config)) *member {
	t.Helper()
	m, err := tryStart(t, dir, set)
	if err != nil {
		t.Fatalf("Open in %s: %v", dir, err)
	}
	select {
	case <-m.Ready():
	case <-time.After(deadline):
		t.Fatal("the member is not ready")
	}
	return m
}

func tryStart(t testing.TB, dir string, set func(*Config)) (*member, error) {
	t.Helper()
	store, err := sqlstore.Open(sqlstore.Config{Path: filepath.Join(dir, "limpet.db"), FlushAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	_, transport := raft.NewInmemTransport("")
	cfg := Config{Dir: filepath.Join(dir, "raft"), MemberID: 0xabc, Bootstrap: []uint64{0xabc}, Store: store, Transport: transport}
	if set != nil {
		set(&cfg)
	}
	n, err := Open(cfg)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	m := &member{n, t, dir, store}
	t.Cleanup(m.stop)
	return m, nil
}

func (m *member) stop() {
	if err := errors.Join(m.Node.Close(), m.store.Close()); err != nil {
		m.t.Errorf("Close: %v", err)
	}
}

// put proposes one put and returns its revision.
// put writes key; again if a busy machine has made the members elect another
// leader meanwhile.
func (m *member) put(key, value string) int64 {
	m.t.Helper()
	for end := time.Now().Add(deadline); ; {
		rev, err := m.tryPut(context.Background(), key, value)
		switch {
		case err == nil:
			return rev
		case !errors.Is(err, ErrLeaderChanged) && !errors.Is(err, ErrNoLeader) || time.Now().After(end):
			m.t.Fatalf("put %s: %v", key, err)
		}
	}
}

func (m *member) tryPut(ctx context.Context, key, value string) (int64, error) {
	resp, err := m.Propose(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		return 0, err
	}
	return resp.(*pb.PutResponse).Header.Revision, nil
}

// value reads key; "" if it is absent.
func (m *member) value(key string) string {
	m.t.Helper()
	row, err := m.store.View().Get(key)
	if err != nil {
		m.t.Fatalf("Get(%s): %v", key, err)
	}
	if row == nil {
		return ""
	}
	return string(row.Value)
}

func (m *member) hash() sqlstore.Hash {
	m.t.Helper()
	h, err := m.store.HashKV(context.Background(), 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return h
}

// until waits for a condition that nothing announces.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// gate makes raft's main goroutine wait in the middle of writing the log.
type gate struct {
	closed  atomic.Bool
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1), open: make(chan struct{})} }

func (g *gate) pass() {
	if g.closed.CompareAndSwap(true, false) {
		g.entered <- struct{}{}
		<-g.open
	}
}

func TestProposeAndRead(t *testing.T) {
	var told []bool
	m := start(t, t.TempDir(), func(c *Config) { c.OnLeader = func(leads bool) { told = append(told, leads) } })
	if rev := m.put("a", "1"); rev != 2 || m.value("a") != "1" {
		t.Errorf("revision %d, value %q; want 2, 1", rev, m.value("a"))
	}
	if err := m.ReadIndex(t.Context()); err != nil {
		t.Errorf("ReadIndex: %v", err)
	}
	if err := m.confirm(); err != nil {
		t.Errorf("confirm: %v", err)
	}
	if _, err := m.Propose(t.Context(), &pb.PutRequest{Key: []byte("a"), Lease: 9}); !errors.Is(err, txn.ErrLeaseNotFound) {
		t.Errorf("a put with an unknown lease: %v", err)
	}
	if _, err := m.Propose(t.Context(), "no command"); err == nil {
		t.Error("Propose took a string")
	}
	st := m.Status()
	if st.Leader != 0xabc || st.MemberID != 0xabc || st.Applied != st.Committed || st.Pending != 0 || st.Term == 0 || st.State != "Leader" || !m.Leading() {
		t.Errorf("status %+v", st)
	}
	m.stop()
	if len(told) == 0 || !told[0] {
		t.Errorf("OnLeader heard %v, want that this member leads", told)
	}
}

// TestProposalsShareEntries: what arrives while the log is being written goes
// into one entry, and each proposer gets its own result.
func TestProposalsShareEntries(t *testing.T) {
	g := newGate()
	m := start(t, t.TempDir(), func(c *Config) { c.Observe.Sync = func(time.Duration, int) { g.pass() } })
	const n = 3*maxBatchCount + 10
	before := m.Status().LastIndex
	revs := make([]int64, n)
	var wg sync.WaitGroup
	propose := func(i int) {
		// Owner: this test; ends with its proposal.
		wg.Go(func() {
			var err error
			if revs[i], err = m.tryPut(t.Context(), fmt.Sprint("k", i), fmt.Sprint(i)); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
		})
	}
	g.closed.Store(true)
	propose(0)
	<-g.entered
	for i := 1; i < n; i++ {
		propose(i)
	}
	until(t, "all proposals wait", func() bool { return m.Status().Pending == n })
	close(g.open)
	wg.Wait()
	if entries := m.Status().LastIndex - before; entries != 5 {
		t.Errorf("%d proposals took %d entries, want 5: one, three full ones, the rest", n, entries)
	}
	seen := make(map[int64]bool)
	for i, rev := range revs {
		row, err := m.store.View().Get(fmt.Sprint("k", i))
		if err != nil || row == nil || row.ID.Rev() != rev || string(row.Value) != fmt.Sprint(i) || seen[rev] {
			t.Fatalf("proposal %d was told revision %d, and the store has %+v, %v", i, rev, row, err)
		}
		seen[rev] = true
	}
}

// TestEntriesAreBoundedInBytes: large proposals do not share.
func TestEntriesAreBoundedInBytes(t *testing.T) {
	g := newGate()
	var largest atomic.Int64
	m := start(t, t.TempDir(), func(c *Config) {
		c.Observe.Sync = func(_ time.Duration, bytes int) {
			largest.Store(max(largest.Load(), int64(bytes)))
			g.pass()
		}
	})
	g.closed.Store(true)
	var wg sync.WaitGroup
	for i := range 10 {
		// Owner: this test; ends with its proposal.
		wg.Go(func() { m.put(fmt.Sprint("k", i), strings.Repeat("x", 300<<10)) })
	}
	<-g.entered
	until(t, "all proposals wait", func() bool { return m.Status().Pending == 10 })
	close(g.open)
	wg.Wait()
	if got := largest.Load(); got > maxBatchBytes+1024 || got < 600<<10 {
		t.Errorf("the largest entry has %d bytes, want some hundred KiB and at most %d", got, maxBatchBytes)
	}
	// One that is larger than an entry still goes, alone.
	m.put("huge", strings.Repeat("x", 2*maxBatchBytes))
	if len(m.value("huge")) != 2*maxBatchBytes {
		t.Error("the huge value is not there")
	}
}

func TestRequestTooLarge(t *testing.T) {
	m := start(t, t.TempDir(), func(c *Config) { c.MaxRequestBytes = 1000 })
	if _, err := m.tryPut(t.Context(), "k", strings.Repeat("x", 1000)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a request of more than 1000 bytes: %v, want ErrTooLarge", err)
	}
	m.put("k", strings.Repeat("x", 900))
}

// TestCallerGivesUp: when the caller's context ends first, the command happens
// all the same, and nobody is left waiting.
func TestCallerGivesUp(t *testing.T) {
	g := newGate()
	m := start(t, t.TempDir(), func(c *Config) { c.Observe.Sync = func(time.Duration, int) { g.pass() } })
	g.closed.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	// Owner: this test; ends with cancel.
	go func() {
		_, err := m.tryPut(ctx, "a", "1")
		failed <- err
	}()
	<-g.entered
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Propose: %v, want canceled", err)
	}
	close(g.open)
	m.put("b", "1")
	if m.value("a") != "1" || m.Status().Pending != 0 {
		t.Errorf("a = %q with %d pending, want 1 with 0", m.value("a"), m.Status().Pending)
	}
}

// TestProposeTimeout: a disk that does not answer makes proposals fail, those
// under way and those that wait; once it answers, all goes on, and what was
// under way has happened.
func TestProposeTimeout(t *testing.T) {
	g := newGate()
	m := start(t, t.TempDir(), func(c *Config) {
		c.ProposeTimeout = 2 * lookAfter
		c.Observe.Sync = func(time.Duration, int) { g.pass() }
	})
	g.closed.Store(true)
	failed := make(chan error, 20)
	for i := range cap(failed) {
		// Owner: this test; ends with the timeout.
		go func() {
			_, err := m.tryPut(context.Background(), fmt.Sprint("k", i), "1")
			failed <- err
		}()
		if i == 0 {
			<-g.entered
		}
	}
	for range cap(failed) {
		if err := <-failed; !errors.Is(err, ErrTimeout) {
			t.Errorf("Propose: %v, want ErrTimeout", err)
		}
	}
	if n := m.Status().Pending; n != 0 {
		t.Errorf("%d proposals pending, want 0", n)
	}
	close(g.open)
	until(t, "the log goes on", func() bool {
		_, err := m.tryPut(context.Background(), "after", "1")
		return err == nil
	})
	if m.value("k0") != "1" || m.value("k1") != "" {
		t.Errorf("k0 = %q, k1 = %q; want the first to have happened, and no other", m.value("k0"), m.value("k1"))
	}
}

// TestLogCannotBeWritten: when the log fails, every proposer hears of it, and
// the member stops leading.
func TestLogCannotBeWritten(t *testing.T) {
	var leads atomic.Bool
	m := start(t, t.TempDir(), func(c *Config) {
		c.OnLeader, c.ProposeTimeout = leads.Store, 200*time.Millisecond
		// No election: raft panics when it cannot note the term.
		c.ElectionTimeout, c.HeartbeatTimeout = time.Hour, time.Hour
	})
	m.put("a", "1")
	if err := m.logs.WAL.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if rev, err := m.tryPut(t.Context(), "b", "1"); err == nil {
			t.Errorf("a put without a log is acknowledged at %d", rev)
		}
	}
	until(t, "the member stops leading", func() bool { return !leads.Load() && !m.Leading() })
	if m.value("a") != "1" || m.value("b") != "" {
		t.Errorf("a = %q, b = %q; want 1 and nothing", m.value("a"), m.value("b"))
	}
}

// TestQueueIsBounded: past the bounds proposals are refused.
func TestQueueIsBounded(t *testing.T) {
	never := func([]byte) raft.ApplyFuture { return nil }
	for name, fill := range map[string]func(*proposer) error{
		"count": func(p *proposer) error {
			for range maxQueueCount + 1 {
				if err := p.enqueue(&proposal{since: time.Now(), result: make(chan result, 1)}); err != nil {
					return err
				}
			}
			return p.enqueue(&proposal{since: time.Now(), result: make(chan result, 1)})
		},
		"bytes": func(p *proposer) error {
			data := make([]byte, 1<<20)
			for range maxQueueBytes>>20 + 1 {
				if err := p.enqueue(&proposal{since: time.Now(), data: data, result: make(chan result, 1)}); err != nil {
					return err
				}
			}
			return p.enqueue(&proposal{since: time.Now(), data: data, result: make(chan result, 1)})
		},
	} {
		p := newProposer(1, 0, time.Hour)
		p.where, p.apply, p.format = func() route { return route{local: true} }, never, func() byte { return 1 }
		if err := fill(p); !errors.Is(err, ErrTooManyRequests) {
			t.Errorf("%s: %v, want ErrTooManyRequests", name, err)
		}
		p.close()
		if err := p.enqueue(&proposal{}); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: a closed proposer says %v, want ErrStopped", name, err)
		}
	}
}

// TestRestarts: nothing acknowledged is lost and revisions go on, whether the
// store was flushed or not.
func TestRestarts(t *testing.T) {
	dir := t.TempDir()
	rev := int64(1)
	var hash sqlstore.Hash
	for round := range 6 {
		m := start(t, dir, nil)
		if round > 0 && m.hash() != hash {
			t.Fatalf("round %d: hash %+v, want %+v", round, m.hash(), hash)
		}
		for i := range 10 {
			rev++
			if got := m.put(fmt.Sprint("k", round, i), "v"); got != rev {
				t.Fatalf("round %d: revision %d, want %d", round, got, rev)
			}
		}
		if round%2 == 0 {
			_ = m.store.WaitDurable(t.Context(), m.store.Applied())
		}
		hash = m.hash()
		m.stop()
	}
}

// copyDir copies what a power cut would leave of a member that never flushed:
// the database first, then the log, which goes on growing meanwhile.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.Mkdir(filepath.Join(to, "raft"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"limpet.db", "limpet.db-wal", "raft/*"} {
		files, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if os.IsNotExist(err) {
				continue // the spare segment comes and goes
			}
			rel, relErr := filepath.Rel(from, file)
			if err := errors.Join(err, relErr, os.WriteFile(filepath.Join(to, rel), data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return to
}

// TestPowerCuts: a copy of the files of a running member has everything that
// was acknowledged before, whatever was torn.
func TestPowerCuts(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	acked := make([]atomic.Int64, 4) // by writer: puts acknowledged
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range acked {
		// Owner: this test; ends with cancel.
		wg.Go(func() {
			for i := int64(1); ctx.Err() == nil; i++ {
				if _, err := m.tryPut(context.Background(), fmt.Sprint("w", w), fmt.Sprint(i)); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				acked[w].Store(i)
			}
		})
	}
	for range 5 {
		goal := acked[0].Load() + 20
		until(t, "more puts", func() bool { return acked[0].Load() >= goal })
		want := make([]int64, len(acked))
		for w := range acked {
			want[w] = acked[w].Load()
		}
		after := start(t, copyDir(t, m.dir), nil)
		for w := range want {
			var got int64
			_, _ = fmt.Sscan(after.value(fmt.Sprint("w", w)), &got)
			if got < want[w] {
				t.Errorf("writer %d had %d puts acknowledged, the copy has %d", w, want[w], got)
			}
		}
		rev := after.store.Rev()
		if got := after.put("after", "1"); got != rev+1 {
			t.Errorf("revision %d after %d", got, rev)
		}
		after.stop()
	}
	cancel()
	wg.Wait()
}

// TestReplayGivesTheSame: a member that lost its whole database to a power cut
// reaches the same state from the log, although it then decodes every command
// instead of having it at hand.
func TestReplayGivesTheSame(t *testing.T) {
	var effects []txn.Effects
	m := start(t, t.TempDir(), func(c *Config) { c.OnEffects = func(e txn.Effects) { effects = append(effects, e) } })
	r := rand.New(rand.NewPCG(1, 1))
	commands := []txn.Command{
		&pb.LeaseGrantRequest{ID: 5, TTL: 100}, &pb.LeaseGrantRequest{ID: 6, TTL: 100},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 3, Alarm: pb.AlarmType_CORRUPT},
		&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 3, Alarm: pb.AlarmType_CORRUPT},
		&txn.Found{Cluster: 1, Members: []*txn.Member{{ID: 7, Name: "seven", ClientURLs: []string{"http://c"}}}},
	}
	for i := range 300 {
		key := fmt.Appendf(nil, "k%d", r.IntN(20))
		switch r.IntN(4) {
		case 0:
			commands = append(commands, &pb.DeleteRangeRequest{Key: key})
		case 1:
			commands = append(commands, &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 1}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
				Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Lease: 5}}}},
			})
		default:
			commands = append(commands, &pb.PutRequest{Key: key, Value: fmt.Append(nil, i), Lease: 6 * (r.Int64N(2))})
		}
	}
	commands = append(commands, &pb.CompactionRequest{Revision: 50}, &pb.LeaseRevokeRequest{ID: 5})
	for _, c := range commands {
		_, _ = m.Propose(t.Context(), c) // some are refused
	}
	want, members, rev := m.hash(), m.Membership().Members, m.store.Rev()
	dir := t.TempDir()
	m.stop()
	if err := os.Rename(filepath.Join(m.dir, "raft"), filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	after := start(t, dir, nil)
	if after.hash() != want || after.store.Rev() != rev {
		t.Errorf("hash %+v at revision %d, want %+v at %d", after.hash(), after.store.Rev(), want, rev)
	}
	if got := after.Membership().Members; len(got) != len(members) || got[0].Name != "seven" || len(after.Alarms()) != 0 {
		t.Errorf("members %v, alarms %v; want member seven and no alarm", got, after.Alarms())
	}
	var granted, revoked int
	for _, e := range effects {
		for _, l := range e.Leases {
			if l.Revoked {
				revoked++
			} else {
				granted++
			}
		}
	}
	if granted != 2 || revoked != 1 {
		t.Errorf("OnEffects heard of %d grants and %d revocations, want 2 and 1", granted, revoked)
	}
}

// TestLogIsBounded: the log's files stay within the bound, and it is never cut
// above what SQLite holds (I3).
func TestLogIsBounded(t *testing.T) {
	const bound = 8 << 20
	var m *member
	var started atomic.Bool
	m = start(t, t.TempDir(), func(c *Config) {
		c.MaxLogBytes = bound
		c.Observe.Snap = func(time.Duration, uint64) {
			if !started.Load() {
				return
			}
			if first, err := m.logs.FirstIndex(); err != nil || first > m.store.Durable()+1 {
				t.Errorf("the log begins at %d, the database ends at %d, %v", first, m.store.Durable(), err)
			}
		}
	})
	started.Store(true)
	most := int64(0)
	for i := range 200 {
		m.put(fmt.Sprint("k", i%10), strings.Repeat("x", 128<<10))
		most = max(most, logFiles(t, m.dir))
	}
	// A segment goes as a whole, one is being filled, one is spare, and trimming
	// runs beside the writes.
	if limit := int64(bound + 3*segmentBytes); most > limit {
		t.Errorf("25 MiB were written, and the log had %d MiB of files, want at most %d", most>>20, limit>>20)
	}
	metas, err := (&manifestStore{dir: m.cfg.Dir, store: m.store}).List()
	if err != nil || len(metas) != 1 || metas[0].Index > m.store.Durable() {
		t.Errorf("manifest %+v, %v; want one at most at %d", metas, err, m.store.Durable())
	}
	hash := m.hash()
	m.stop()
	after := start(t, m.dir, func(c *Config) { c.MaxLogBytes = bound })
	if after.hash() != hash {
		t.Errorf("hash %+v after a restart with a cut log, want %+v", after.hash(), hash)
	}
}

func logFiles(t testing.TB, dir string) (n int64) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "raft", "*.wal"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			n += info.Size()
		}
	}
	return n
}

// TestRestartDoesNotTrimAtEachWrite: a restart with a log of some size is no
// reason to take a snapshot, and with it flush the database, at each write.
func TestRestartDoesNotTrimAtEachWrite(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir, func(c *Config) { c.MaxLogBytes = 8 << 20 })
	for i := range 40 {
		m.put("k", strings.Repeat("x", 128<<10)+fmt.Sprint(i))
	}
	m.stop()
	var snaps atomic.Int64
	m = start(t, dir, func(c *Config) {
		c.MaxLogBytes = 8 << 20
		c.Observe.Snap = func(time.Duration, uint64) { snaps.Add(1) }
	})
	for i := range 50 {
		m.put("k", fmt.Sprint(i))
	}
	m.stop()
	if n := snaps.Load(); n > 3 {
		t.Errorf("%d snapshots during 50 small writes after a restart, want a few at most", n)
	}
}

// TestLogRemoved: a database without its log, or with an older one, is refused
// in words.
func TestLogRemoved(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir, nil)
	m.put("a", "1")
	old := copyDir(t, dir)
	m.put("a", "2")
	m.stop()
	for name, spoil := range map[string]func(raftDir string) error{
		"older":   func(d string) error { return os.Rename(filepath.Join(old, "raft"), d) },
		"removed": func(string) error { return nil },
	} {
		if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
			t.Fatal(err)
		}
		if err := spoil(filepath.Join(dir, "raft")); err != nil {
			t.Fatal(err)
		}
		if m, err := tryStart(t, dir, nil); err == nil || !strings.Contains(err.Error(), "the log was removed or is damaged") {
			t.Errorf("%s: %v, %v; want a refusal", name, m, err)
		}
	}
}

// TestEveryProposerGetsAnAnswer: closing answers all who wait, also those whose
// entry is committed while the FSM is busy with an earlier one.
func TestEveryProposerGetsAnAnswer(t *testing.T) {
	for range 6 {
		busy, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		var armed atomic.Bool
		m := start(t, t.TempDir(), func(c *Config) {
			c.OnCommit = func([]*sqlstore.Commit) {
				if armed.Load() {
					once.Do(func() { close(busy); <-release })
				}
			}
		})
		armed.Store(true)
		const n = 10
		answers := make(chan error, n)
		for i := range n {
			// Owner: this test; ends with its answer.
			go func() {
				_, err := m.tryPut(context.Background(), fmt.Sprint("k", i), "v")
				answers <- err
			}()
			if i == 0 {
				<-busy
			}
		}
		until(t, "the proposals are in the log or the queue", func() bool { return m.Status().Pending >= n-1 })
		closed := make(chan error, 1)
		// Owner: this test; ends with Close.
		go func() { closed <- m.Node.Close() }()
		until(t, "raft shuts down", func() bool { return m.raft.State() == raft.Shutdown })
		close(release)
		for i := range n {
			select {
			case err := <-answers:
				if err != nil && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrLeaderChanged) && !errors.Is(err, ErrNoLeader) {
					t.Errorf("answer %v", err)
				}
			case <-time.After(deadline):
				t.Fatalf("%d of %d proposers got an answer", i, n)
			}
		}
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// TestCloseUnderLoad: proposers in a loop all end when the node does.
func TestCloseUnderLoad(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	var wg sync.WaitGroup
	var puts atomic.Int64
	for w := range 20 {
		// Owner: this test; ends when the node closes.
		wg.Go(func() {
			for {
				if _, err := m.tryPut(context.Background(), fmt.Sprint("w", w), "v"); err != nil {
					return
				}
				puts.Add(1)
			}
		})
	}
	until(t, "some puts", func() bool { return puts.Load() > 100 })
	if err := errors.Join(m.Node.Close(), m.Node.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
	if _, err := m.tryPut(t.Context(), "late", "v"); !errors.Is(err, ErrStopped) && !errors.Is(err, ErrNoLeader) {
		t.Errorf("a put after Close: %v", err)
	}
	if err := m.ReadIndex(t.Context()); err == nil {
		t.Error("ReadIndex works after Close")
	}
}

// TestPublishedThenMarkedThenAnswered is I9: whoever is told of revision R can
// read R, and the watchers have been marked.
func TestPublishedThenMarkedThenAnswered(t *testing.T) {
	var m *member
	var marked atomic.Int64
	ready := make(chan struct{})
	m = start(t, t.TempDir(), func(c *Config) {
		store := c.Store
		c.OnCommit = func(commits []*sqlstore.Commit) {
			select {
			case <-ready:
			default:
				return
			}
			last := commits[len(commits)-1].Rev
			if rev := store.Rev(); rev < last {
				t.Errorf("watchers are told of revision %d, and the view is at %d", last, rev)
			}
			marked.Store(last)
		}
	})
	close(ready)
	var wg sync.WaitGroup
	for w := range 8 {
		// Owner: this test; ends with its puts.
		wg.Go(func() {
			for range 50 {
				rev, err := m.tryPut(context.Background(), fmt.Sprint("w", w), "v")
				if err != nil || m.store.Rev() < rev || marked.Load() < rev {
					t.Errorf("told revision %d (%v), with the view at %d and watchers marked up to %d", rev, err, m.store.Rev(), marked.Load())
				}
			}
		})
	}
	wg.Wait()
}

// TestWithoutALeader: a member of no cluster waits for a leader, and not longer
// than it may.
func TestWithoutALeader(t *testing.T) {
	m, err := tryStart(t, t.TempDir(), func(c *Config) { c.Bootstrap, c.ProposeTimeout = nil, 100*time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.tryPut(t.Context(), "a", "1"); !errors.Is(err, ErrUnsent) {
		t.Errorf("Propose: %v, want ErrUnsent", err)
	}
	brief, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if err := m.ReadIndex(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadIndex: %v, want DeadlineExceeded", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.ReadIndex(ctx); err == nil {
		t.Error("ReadIndex with a canceled context works")
	}
	select {
	case <-m.Ready():
		t.Error("it calls itself ready")
	default:
	}
	if m.Leader() != 0 || m.Leading() || m.ReadsLocally() {
		t.Errorf("leader %x, leading %v, reads locally %v; want none", m.Leader(), m.Leading(), m.ReadsLocally())
	}
}

// newFSM is an fsm without raft.
func newFSM(t *testing.T) *fsm { return fsmAt(t, filepath.Join(t.TempDir(), "limpet.db")) }

func fsmAt(t *testing.T, path string) *fsm {
	t.Helper()
	store, err := sqlstore.Open(sqlstore.Config{Path: path, FlushAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	state, err := txn.Load(store)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &Config{MemberID: 1, Store: store}
	return &fsm{state: state, v2: newV2(state.V2()), store: store, cfg: cfg, proposer: newProposer(1, 0, time.Hour)}
}

func entryAt(t *testing.T, index uint64, cmds ...txn.Command) *raft.Log {
	t.Helper()
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: encode(t, entryHead{member: 2, batch: index, time: 1}, cmds...)}
}

// TestAppliedIsSkipped is I6.
func TestAppliedIsSkipped(t *testing.T) {
	f := newFSM(t)
	put := func(value string) txn.Command { return &pb.PutRequest{Key: []byte("a"), Value: []byte(value)} }
	f.ApplyBatch([]*raft.Log{{Index: 3, Type: raft.LogConfiguration}, entryAt(t, 4, put("1")), entryAt(t, 5, put("2"), put("3"))})
	if f.store.Applied() != 5 || f.store.Rev() != 4 {
		t.Fatalf("applied %d, revision %d; want 5, 4", f.store.Applied(), f.store.Rev())
	}
	f.ApplyBatch([]*raft.Log{entryAt(t, 4, put("4")), entryAt(t, 5, put("5"))})
	f.Apply(entryAt(t, 1, put("6")))
	if f.store.Applied() != 5 || f.store.Rev() != 4 {
		t.Errorf("applied %d, revision %d after old entries; want 5, 4", f.store.Applied(), f.store.Rev())
	}
	f.ApplyBatch([]*raft.Log{entryAt(t, 5, put("7")), entryAt(t, 6, put("8"))})
	if row, err := f.store.View().Get("a"); err != nil || string(row.Value) != "8" || row.Version != 4 {
		t.Errorf("a = %+v, %v; want 8, version 4", row, err)
	}
}

// TestMalformedEntryStops: an entry that cannot be understood stops the member
// before anything of it is applied.
func TestMalformedEntryStops(t *testing.T) {
	put := &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}
	whole := entryAt(t, 2, put, put).Data
	for name, data := range map[string][]byte{
		"short":         whole[:10],
		"newer format":  append([]byte{newestFormat + 1}, whole[1:]...),
		"cut":           whole[:len(whole)-1],
		"unknown kind":  appendCommand(slices.Clone(whole), 200, nil),
		"empty":         nil,
		"length is off": append(slices.Clone(whole), 1, 0xff, 0xff, 0xff, 0xff, 0x0f),
	} {
		f := newFSM(t)
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "apply index 2") {
					t.Errorf("%s: panic %v, want one that names the index", name, p)
				}
			}()
			f.ApplyBatch([]*raft.Log{{Index: 2, Type: raft.LogCommand, Data: data}})
		}()
		if f.store.Applied() != 0 || f.store.Rev() != 1 {
			t.Errorf("%s: applied %d, revision %d; want 0, 1", name, f.store.Applied(), f.store.Rev())
		}
	}
}
