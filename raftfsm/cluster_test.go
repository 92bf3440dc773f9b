package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/sqlstore"
	"limpet/txn"
)

// cluster is several members in one process, whose network can be cut.
type cluster struct {
	t       *testing.T
	dir     string
	members map[uint64]*peerMember

	mu   sync.Mutex // guards down, and what the test changes of members: they look at each other
	down map[uint64]bool
}

// peerMember is a member of a cluster; member is nil while it is stopped.
type peerMember struct {
	*member
	c         *cluster
	id        uint64
	transport *raft.InmemTransport
	jumps     atomic.Int64
	set       func(*Config)
}

// quick timing, and yet none that a busy machine upsets.
const quick = 500 * time.Millisecond

func newCluster(t *testing.T, n int, set func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), members: make(map[uint64]*peerMember), down: make(map[uint64]bool)}
	var ids []uint64
	for id := uint64(1); id <= uint64(n); id++ {
		ids = append(ids, id)
	}
	for _, id := range ids {
		c.add(id, ids, set)
	}
	for _, id := range ids {
		c.members[id].awaitReady()
	}
	return c
}

func (c *cluster) add(id uint64, first []uint64, set func(*Config)) *peerMember {
	c.t.Helper()
	p := &peerMember{c: c, id: id, set: func(cfg *Config) {
		cfg.Bootstrap = first
		if set != nil {
			set(cfg)
		}
	}}
	c.mu.Lock()
	c.members[id] = p
	c.mu.Unlock()
	p.start()
	return p
}

func (p *peerMember) start() {
	p.c.t.Helper()
	dir := filepath.Join(p.c.dir, fmt.Sprint(p.id))
	logs, db := filepath.Join(dir, "raft"), filepath.Join(dir, "limpet.db")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		p.c.t.Fatal(err)
	}
	if err := AdoptFile(logs, db, p.id); err != nil {
		p.c.t.Fatal(err)
	}
	store, err := sqlstore.Open(sqlstore.Config{Path: db, Owner: p.id, FlushAge: 24 * time.Hour})
	if err != nil {
		p.c.t.Fatal(err)
	}
	_, p.transport = raft.NewInmemTransportWithTimeout(raft.ServerAddress(serverID(p.id)), quick)
	cfg := Config{
		Dir: logs, MemberID: p.id, Store: store, Transport: p.transport, Peers: link{p},
		ElectionTimeout: quick, HeartbeatTimeout: quick,
		OnJump: func() { p.jumps.Add(1) },
	}
	p.set(&cfg)
	n, err := Open(cfg)
	if err != nil {
		p.c.t.Fatal(errors.Join(err, store.Close()))
	}
	p.be(&member{n, p.c.t, dir, store})
	p.c.t.Cleanup(p.halt)
	p.c.connect()
}

func (p *peerMember) halt() {
	if p.member != nil {
		p.member.stop()
		p.be(nil)
		p.c.connect()
	}
}

// be sets what runs, which other members look at.
func (p *peerMember) be(m *member) {
	p.c.mu.Lock()
	p.member = m
	p.c.mu.Unlock()
}

func (p *peerMember) awaitReady() {
	p.c.t.Helper()
	select {
	case <-p.Ready():
	case <-time.After(deadline):
		p.c.t.Fatalf("member %d is not ready", p.id)
	}
}

// cut takes members off the network.
func (c *cluster) cut(ids ...uint64) {
	c.mu.Lock()
	clear(c.down)
	for _, id := range ids {
		c.down[id] = true
	}
	c.mu.Unlock()
	c.connect()
}

func (c *cluster) reaches(from, to uint64) bool { return c.reach(from, to) != nil }

// reach gives the member to as it runs, or nil if from cannot reach it.
func (c *cluster) reach(from, to uint64) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members[to] == nil || from != to && (c.down[from] || c.down[to]) {
		return nil
	}
	return c.members[to].member
}

func (c *cluster) connect() {
	for from, p := range c.members {
		for to, q := range c.members {
			at := raft.ServerAddress(serverID(to))
			switch {
			case from == to || p.member == nil:
			case c.reaches(from, to):
				p.transport.Connect(at, q.transport)
			default:
				p.transport.Disconnect(at)
			}
		}
	}
}

// link is the way from a member to the one that leads.
type link struct{ from *peerMember }

// Propose implements Peers.
func (l link) Propose(ctx context.Context, leader, term uint64, entry []byte) error {
	m := l.from.c.reach(l.from.id, leader)
	if m == nil {
		return errors.New("out of reach")
	}
	return m.Accept(ctx, term, entry)
}

// ReadIndex implements Peers.
func (l link) ReadIndex(ctx context.Context, leader uint64) (uint64, error) {
	m := l.from.c.reach(l.from.id, leader)
	if m == nil {
		return 0, errors.New("out of reach")
	}
	return m.ConfirmedIndex(ctx)
}

// Hear implements Peers.
func (l link) Hear(_ context.Context, member, leader, term uint64) (Hearing, error) {
	m := l.from.c.reach(l.from.id, member)
	if m == nil {
		return Hearing{}, errors.New("out of reach")
	}
	return m.Hear(leader, term), nil
}

// leader waits for a leader among the members that are on the network.
func (c *cluster) leader() *peerMember {
	c.t.Helper()
	var found *peerMember
	until(c.t, "a leader", func() bool {
		for _, p := range c.members {
			if p.member != nil && c.reaches(p.id, p.id) && !c.down[p.id] && p.Leading() {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

// leaderAndHeir puts k=old, and gives the leader and another member, once all
// have it.
func (c *cluster) leaderAndHeir() (old, heir *peerMember) {
	c.t.Helper()
	old = c.leader()
	old.put("k", "old")
	for _, p := range c.members {
		until(c.t, "the write at every member", func() bool { return p.store.Rev() == old.store.Rev() })
		if p != old {
			heir = p
		}
	}
	return old, heir
}

// follower is some member that runs and does not lead.
func (c *cluster) follower() *peerMember {
	c.t.Helper()
	leader := c.leader()
	for id := uint64(1); id <= uint64(len(c.members)); id++ {
		if p := c.members[id]; p != leader && p.member != nil && !c.down[id] {
			return p
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// A follower's writes go through the leader; whoever was answered can read
// there, at once, and the others soon after.
func TestFollowerWrites(t *testing.T) {
	c := newCluster(t, 3, nil)
	f := c.follower()
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 20 {
				key, value := fmt.Sprint("k", w), fmt.Sprint(i)
				if _, err := f.tryPut(t.Context(), key, value); err != nil {
					t.Errorf("put at a follower: %v", err)
				}
				if got := f.value(key); got != value {
					t.Errorf("after its put the follower reads %q, want %q", got, value)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range c.members {
		if err := p.ReadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := p.value("k7"); got != "19" {
			t.Errorf("member %d reads %q after a read index, want 19", p.id, got)
		}
		if p.hash() != f.hash() {
			t.Errorf("member %d has another hash", p.id)
		}
	}
}

// A follower hears of commits from hints: raft itself would tell it half a
// second later.
func TestFollowersHearOfCommits(t *testing.T) {
	c := newCluster(t, 3, nil)
	f := c.follower()
	began := time.Now()
	const rounds = 20
	for i := range rounds {
		rev := c.leader().put("k", fmt.Sprint(i))
		until(t, "the commit at the follower", func() bool { return f.store.Rev() >= rev })
	}
	// Not a measurement: without hints, each round takes commitTimeout or more.
	if took := time.Since(began); took > rounds*commitTimeout/2 {
		t.Errorf("%d commits reached the follower in %v", rounds, took)
	}
}

// While there is no leader, writes and reads wait; they go on with the next.
func TestWaitForALeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	f := c.follower()
	c.cut(1, 2, 3)
	until(t, "nobody to lead", func() bool { return f.Leader() == 0 })
	done := make(chan error, 2)
	go func() { _, err := f.tryPut(t.Context(), "k", "v"); done <- err }()
	go func() { done <- f.ReadIndex(t.Context()) }()
	until(t, "the put to wait", func() bool { return f.Status().Pending == 1 })
	select {
	case err := <-done:
		t.Fatalf("without a leader: answered with %v", err)
	default:
	}
	c.cut()
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("with a leader again: %v", err)
		}
	}
	if got := f.value("k"); got != "v" {
		t.Errorf("k = %q, want v", got)
	}
}

// The side without a quorum neither takes writes nor confirms reads, whoever
// led before.
func TestMinority(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.ProposeTimeout = 5 * time.Second })
	old := c.leader()
	old.put("k", "1")
	c.cut(old.id)
	c.leader().put("k", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := old.ReadIndex(ctx); err == nil {
		t.Error("the old leader confirms a read")
	}
	if _, err := old.tryPut(t.Context(), "k", "3"); err == nil {
		t.Error("the old leader takes a write")
	}
	if got := old.value("k"); got != "1" {
		t.Errorf("the old leader has %q, want 1", got)
	}
	c.cut()
	until(t, "the old leader to follow", func() bool { return old.value("k") == "2" })
	if err := old.ReadIndex(t.Context()); err != nil {
		t.Errorf("back in the cluster: %v", err)
	}
}

// An entry is accepted only in the term it was sent in, and only whole.
func TestAcceptRefuses(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	good := encode(t, entryHead{member: 9, batch: 1, time: 1}, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	if err := l.Accept(t.Context(), l.Term()-1, good); !errors.Is(err, ErrNotLeader) {
		t.Errorf("an entry for an earlier term: %v, want ErrNotLeader", err)
	}
	if err := c.follower().Accept(t.Context(), l.Term(), good); !errors.Is(err, ErrNotLeader) {
		t.Errorf("an entry for a follower: %v, want ErrNotLeader", err)
	}
	for name, entry := range map[string][]byte{"empty": nil, "cut": good[:len(good)-1], "newer": append([]byte{99}, good[1:]...)} {
		if err := l.Accept(t.Context(), l.Term(), entry); err == nil {
			t.Errorf("%s entry: accepted", name)
		}
	}
	if err := l.Accept(t.Context(), l.Term(), good); err != nil || l.value("a") != "1" {
		t.Errorf("a good entry: %v, a = %q", err, l.value("a"))
	}
}

// Leadership can be handed to a member by name.
func TestHandOver(t *testing.T) {
	c := newCluster(t, 3, nil)
	f := c.follower()
	if err := f.HandOver(t.Context(), 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("HandOver at a follower: %v, want ErrNotLeader", err)
	}
	// raft gives up where the machine is too busy for an election in time.
	until(t, "the new leader", func() bool { return f.Leading() || c.leader().HandOver(t.Context(), f.id) == nil && f.Leading() })
	f.put("k", "v")
}

// A member that is too far behind for the log takes over the leader's
// database, and goes on with the log; also after it was stopped, and as leader.
func TestFarBehind(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.MaxLogBytes, cfg.SnapshotEntries = 1<<20, 10 })
	lag := c.follower()
	lag.put("k", "before")
	granted, err := lag.Propose(t.Context(), &pb.LeaseGrantRequest{ID: 5, TTL: 100})
	if err != nil {
		t.Fatal(granted, err)
	}
	c.cut(lag.id)
	leader := c.leader()
	big := string(make([]byte, 64<<10))
	for i := range 200 {
		leader.put(fmt.Sprint("big", i%10), big)
	}
	if _, err := leader.Propose(t.Context(), &txn.Found{Cluster: 77, Members: []*txn.Member{{ID: 1, Name: "one"}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the log to be trimmed", func() bool {
		first, err := leader.logs.FirstIndex()
		return err == nil && first > lag.Status().LastIndex+1
	})
	c.cut()
	until(t, "the database to be adopted", func() bool { return lag.jumps.Load() == 1 })
	if err := lag.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lag.hash() != c.leader().hash() || lag.Membership().Cluster != 77 {
		t.Errorf("after adoption: hash %+v, cluster %d; want %+v, 77", lag.hash(), lag.Membership().Cluster, c.leader().hash())
	}
	lag.put("k", "after")
	for range 2 {
		lag.halt()
		c.leader().put("k", "while it was away")
		lag.start()
		lag.awaitReady()
		if got := lag.value("k"); got != "while it was away" {
			t.Errorf("after a restart: k = %q", got)
		}
	}
	until(t, "it to lead", func() bool { return lag.Leading() || c.leader().HandOver(t.Context(), lag.id) == nil && lag.Leading() })
	until(t, "the adopted one to lead", lag.Leading)
	lag.put("k", "led")
	for _, p := range c.members {
		until(t, "everybody to have the same", func() bool { return p.store.Rev() == lag.store.Rev() && p.hash() == lag.hash() })
	}
}

// Members come and go; raft's own configuration is what AddServer and
// RemoveServer make it.
func TestServers(t *testing.T) {
	c := newCluster(t, 1, nil)
	one := c.members[1]
	one.put("k", "v")
	two := c.add(2, nil, nil)
	if err := one.AddServer(2, false); err != nil {
		t.Fatal(err)
	}
	two.awaitReady()
	until(t, "the learner to have the data", func() bool { return two.value("k") == "v" })
	if got := fmt.Sprint(one.Servers()); got != "[{1 true} {2 false}]" {
		t.Errorf("servers %s", got)
	}
	if err := one.AddServer(2, true); err != nil {
		t.Fatal(err)
	}
	two.put("k", "w")
	until(t, "progress to show", func() bool {
		p := one.Progress()
		return len(p) == 1 && p[0].ID == 2 && p[0].Match >= one.Status().Committed && p[0].Silence >= 0
	})
	if two.Progress() != nil {
		t.Error("a follower tells of progress")
	}
	leads, follows := one.Figures(), two.Figures()
	if leads.Leader != 1 || leads.Since.IsZero() || leads.SentAppends == 0 || leads.ReceivedAppends != 0 || one.Progress()[0].Appends.Done == 0 {
		t.Errorf("the leader's figures: %+v, %+v", leads, one.Progress()[0].Appends)
	}
	if follows.Leader != 1 || follows.Since.IsZero() || follows.SentAppends != 0 || follows.ReceivedAppends == 0 {
		t.Errorf("the follower's figures: %+v", follows)
	}
	if err := one.RemoveServer(2); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(one.Servers()); got != "[{1 true}]" {
		t.Errorf("servers %s", got)
	}
	one.put("k", "x")
}

// Members are upgraded one by one to a program that writes a newer format. It
// is written once all of them read it, and not before: those not upgraded yet
// go on.
func TestRollingUpgradeOfTheFormat(t *testing.T) {
	var newer sync.Map // IDs of the members that were upgraded
	old := func(cfg *Config) {
		cfg.Format = 1
		if _, ok := newer.Load(cfg.MemberID); ok {
			cfg.Format = 2
		}
	}
	c := newCluster(t, 3, old)
	report := func(p *peerMember) {
		t.Helper()
		if _, err := p.Propose(t.Context(), &txn.Member{ID: p.id, Name: fmt.Sprint("m", p.id), Format: p.cfg.Format}); err != nil {
			t.Fatal(err)
		}
	}
	first := &txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 1}, {ID: 2}, {ID: 3}}}
	if _, err := c.leader().Propose(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for id := uint64(1); id <= 3; id++ {
		report(c.members[id])
	}
	newest := func(p *peerMember) byte {
		t.Helper()
		p.put("k", "v")
		last, err := p.logs.LastIndex()
		l := new(raft.Log)
		if err = errors.Join(err, p.logs.GetLog(last, l)); err != nil {
			t.Fatal(err)
		}
		return l.Data[0]
	}
	for id := uint64(1); id <= 3; id++ {
		if got := newest(c.leader()); got != 1 {
			t.Errorf("with %d members upgraded, entries have format %d, want 1", id-1, got)
		}
		p := c.members[id]
		p.halt()
		newer.Store(id, true)
		c.leader().put("k", "while it was away")
		p.start()
		p.awaitReady()
		report(p)
	}
	leader := c.leader()
	until(t, "the leader to know of the last report", func() bool { return leader.Membership().Format() == 2 })
	if got := newest(leader); got != 2 {
		t.Errorf("with all members upgraded, entries have format %d, want 2", got)
	}
	for _, p := range c.members {
		until(t, "everybody to have applied it", func() bool { return p.store.Rev() == leader.store.Rev() })
		if p.hash() != leader.hash() {
			t.Errorf("member %d has another hash", p.id)
		}
	}
}

// An entry that was damaged is not stored, so that it cannot spread.
func TestDamagedEntryIsNotStored(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	entry := encode(t, entryHead{member: 1, batch: 1, time: 1}, &pb.PutRequest{Key: []byte("k")})
	entry[len(entry)-6] ^= 1
	if err := l.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: entry}); !errors.Is(err, errEntry) {
		t.Errorf("StoreLog of a damaged entry: %v, want errEntry", err)
	}
}

// A member that is killed before its database was ever written, and comes back
// alone, can be read as it was when it last answered: up to what it knows to be
// agreed on, and not beyond.
func TestKilledAndAlone(t *testing.T) {
	c := newCluster(t, 3, nil)
	old := c.leader()
	var others []uint64
	for id, p := range c.members {
		if p.put(fmt.Sprint("by", id), "kept"); id != old.id {
			others = append(others, id)
		}
	}
	c.cut(others...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	// Owner: this test; ends with cancel.
	wg.Go(func() { _, _ = old.tryPut(ctx, "alone", "not agreed on") })
	until(t, "the entry to be in the log", func() bool { return old.Status().LastIndex > old.Status().Applied })
	want, stored := old.store.Rev(), old.Status().LastIndex
	kept := copyDir(t, old.dir)
	cancel()
	wg.Wait()

	_, network := raft.NewInmemTransport(raft.ServerAddress(serverID(old.id)))
	for _, damaged := range []bool{false, true} {
		dir := copyDir(t, kept)
		if damaged {
			if err := os.Truncate(filepath.Join(dir, "raft", commitMarkName), 7); err != nil {
				t.Fatal(err)
			}
			want = 1 // that of an empty store
		}
		alone, err := tryStart(t, dir, func(c *Config) { c.MemberID, c.Transport = old.id, network })
		if err != nil {
			t.Fatal(err)
		}
		if got := alone.store.Rev(); got != want {
			t.Errorf("mark damaged %v: revision %d, want %d", damaged, got, want)
		}
		if got := alone.Status(); got.LastIndex != stored || got.Applied >= stored {
			t.Errorf("mark damaged %v: applied up to %d of %d, want less", damaged, got.Applied, got.LastIndex)
		}
		alone.stop()
	}
}
