package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
)

func TestMain(m *testing.M) {
	// The tests wait more than they work: on two cores, two at a time would take
	// three times as long.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// raft leaves some futures unanswered when it is shut down.
		goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"),
		// memberlist does not wait for questions under way: each ends by itself, a second or ten later.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probe"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).pushPull"))
}

// deadline is for conditions that hold soon on any machine.
const deadline = 30 * time.Second

// quick timing, and yet none that a busy machine upsets.
const quick = 500 * time.Millisecond

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// errCrash is what ends a member at a chosen moment.
var errCrash = errors.New("crash")

// board is a machine with a data directory; a member runs on it between start
// and stop.
type board struct {
	t    *testing.T
	name string
	dir  string
	addr string        // of its peer port
	set  func(*Config) // how it is started; it may be changed between starts

	mu   sync.Mutex           // guards keep, disk and what comes of a start
	keep func(Identity) error // what the disk does on each write, nil: nothing special
	disk Identity
	node *raftfsm.Node // nil until it is in
	err  error         // why it could not get in, or had to stop

	*run
}

// run is a member that runs on a board.
type run struct {
	local  *Local
	port   *peer.Port
	raft   *raft.NetworkTransport
	store  *sqlstore.Store
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// newBoard is an empty board at an address of its own, also while its member is
// stopped: on 127.0.0.1 another program might get the port.
func newBoard(t *testing.T, name string, id uint64, set func(*Config)) *board {
	t.Helper()
	host := fmt.Sprintf("127.%d.%d.%d:0", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
	l, err := net.Listen("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	b := &board{t: t, name: name, dir: t.TempDir(), addr: l.Addr().String(), set: set, disk: Identity{Member: id}}
	t.Cleanup(b.stop)
	return b
}

func (b *board) url() string { return "http://" + b.addr }

// start starts the member and returns at once.
func (b *board) start() {
	b.t.Helper()
	ctx := b.open()
	// Owner: the board; ends when stop cancels ctx.
	b.wg.Go(func() {
		start, err := b.local.Enter(ctx)
		if err == nil {
			err = b.take(ctx, start)
		}
		b.fail(err)
	})
}

// open opens the member's port; ctx is for its life.
func (b *board) open() context.Context {
	b.t.Helper()
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.mu.Lock()
	b.run, b.node, b.err = &run{cancel: cancel}, nil, nil
	id := b.disk
	b.mu.Unlock()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("board", b.name)
	}
	cfg := Config{
		Identity: id, Keep: b.write, Name: b.name, Version: "0.1", Format: raftfsm.EntryFormat,
		PeerURLs: []string{b.url()}, ClientURLs: []string{"http://" + b.name}, Scheme: "http",
		Roster: OpenRoster(filepath.Join(b.dir, "peers.json")), Broken: b.fail, Logger: log,
	}
	if b.set != nil {
		b.set(&cfg)
	}
	b.local = New(cfg)
	b.port = peer.Open(peer.Config{
		Listeners: []net.Listener{l}, Logger: cfg.Logger,
		Self: b.local.Hello, Admit: b.local.Admit, Meet: b.local.Meet, Where: b.local.Where, Refused: b.local.Refused,
		Services: b.local.Services(nil),
	})
	b.local.Use(b.port)
	return ctx
}

// stream adapts the port's raft side to raft's types.
type stream struct{ *peer.Stream }

// Dial implements raft.StreamLayer.
func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.Stream.Dial(string(address), timeout)
}

// take opens what lies on disk and takes part.
func (b *board) take(ctx context.Context, start *Start) error {
	id := b.local.Identity().Member
	logs, db := filepath.Join(b.dir, "raft"), filepath.Join(b.dir, "limpet.db")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return err
	}
	if err := raftfsm.AdoptFile(logs, db, id); err != nil {
		return err
	}
	var err error
	if b.store, err = sqlstore.Open(sqlstore.Config{Path: db, Owner: id, FlushAge: time.Hour}); err != nil {
		return err
	}
	b.raft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream{b.port.Stream()}, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: deadline, Logger: raftfsm.NewRaftLogger(slog.New(slog.DiscardHandler)),
	})
	n, err := raftfsm.Open(raftfsm.Config{
		Dir: logs, MemberID: id, Bootstrap: start.Bootstrap, Store: b.store, Transport: b.raft, Peers: b.local,
		ElectionTimeout: quick, HeartbeatTimeout: quick, OnBroken: b.fail,
		OnEffects: func(e txn.Effects) {
			if e.Members {
				b.local.Wake()
			}
		},
	})
	if err != nil {
		return err
	}
	b.local.Attach(n)
	b.mu.Lock()
	b.node = n
	b.mu.Unlock()
	b.local.Run(ctx)
	return nil
}

// stop stops the member, if it runs; what is on disk stays.
func (b *board) stop() {
	if b.run == nil {
		return
	}
	b.cancel()
	if n := b.running(); n != nil {
		_ = n.Close()
	}
	_ = b.port.Close()
	b.wg.Wait()
	if n := b.running(); n != nil { // it got in while it was being stopped
		_ = n.Close()
	}
	if b.raft != nil {
		_ = b.raft.Close()
	}
	if b.store != nil {
		_ = b.store.Close()
	}
	b.run = nil
}

func (b *board) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// wipe gives the board a new disk, and so a new member.
func (b *board) wipe(id uint64) {
	b.t.Helper()
	b.stop()
	b.dir = b.t.TempDir()
	b.note(Identity{Member: id})
}

func (b *board) write(id Identity) error {
	b.mu.Lock()
	keep := b.keep
	b.mu.Unlock()
	if keep != nil {
		if err := keep(id); err != nil {
			return err
		}
	}
	b.note(id)
	return nil
}

// onWrite has the disk do something on each write; nil: nothing special.
func (b *board) onWrite(keep func(Identity) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = keep
}

func (b *board) note(id Identity) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disk = id
}

func (b *board) identity() Identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.disk
}

// fail notes the first error.
func (b *board) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

func (b *board) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// running is the member's node, nil until it is in.
func (b *board) running() *raftfsm.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.node
}

// awaitIn waits until the members take part, are known to the cluster as they
// are, and have written down that it exists.
func awaitIn(t *testing.T, boards ...*board) {
	t.Helper()
	for _, b := range boards {
		until(t, b.name+" to be in", func() bool {
			if err := b.failure(); err != nil {
				t.Fatalf("%s: %v", b.name, err)
			}
			n := b.running()
			return n != nil && n.Membership().Self != nil && n.Membership().Self.Started() && !b.identity().Forming
		})
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		err := b.local.Reported(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%s is not known as it is: %v", b.name, err)
		}
	}
}

func (b *board) awaitWaiting(what string) {
	b.t.Helper()
	until(b.t, b.name+" to wait "+what, func() bool { return contains(b.local.Doing(), what) })
}

func leader(t *testing.T, boards ...*board) *board {
	t.Helper()
	var found *board
	until(t, "a leader", func() bool {
		i := slices.IndexFunc(boards, func(b *board) bool { n := b.running(); return b.run != nil && n != nil && n.Leading() })
		if i >= 0 {
			found = boards[i]
		}
		return i >= 0
	})
	return found
}

func follower(t *testing.T, boards ...*board) *board {
	t.Helper()
	l := leader(t, boards...)
	return boards[slices.IndexFunc(boards, func(b *board) bool { return b != l })]
}

// static names boards as --initial-cluster does.
func static(boards ...*board) []Founder {
	var out []Founder
	for _, b := range boards {
		out = append(out, Founder{b.name, []string{b.url()}})
	}
	return out
}

// boards are n empty boards that are to found a cluster together.
func boards(t *testing.T, n int) []*board {
	t.Helper()
	var out []*board
	for i := range n {
		out = append(out, newBoard(t, fmt.Sprint("m", i+1), uint64(0xa1+i), nil))
	}
	for _, b := range out {
		b.set = func(c *Config) { c.Static, c.AutoAdd = static(out...), true }
	}
	return out
}

// founded are n boards that run as one cluster.
func founded(t *testing.T, n int) []*board {
	t.Helper()
	bs := boards(t, n)
	for _, b := range bs {
		b.start()
	}
	awaitIn(t, bs...)
	return bs
}

// joiner is an empty board that is to join at another one.
func joiner(t *testing.T, name string, id uint64, at *board, auto bool) *board {
	t.Helper()
	return newBoard(t, name, id, func(c *Config) {
		c.Existing, c.AutoAdd, c.Static = true, auto, []Founder{{"seed", []string{at.url()}}}
	})
}

// wantOne checks that the boards are the voters of one cluster.
func wantOne(t *testing.T, bs ...*board) {
	t.Helper()
	awaitIn(t, bs...)
	cluster := bs[0].identity().Cluster
	var want []string
	for _, b := range bs {
		want = append(want, fmt.Sprintf("{%d true}", b.identity().Member))
	}
	slices.Sort(want)
	for _, b := range bs {
		n := b.running()
		if got := b.identity().Cluster; got != cluster || n.Membership().Cluster != cluster {
			t.Errorf("%s is in cluster %x, its log in %x; want %x", b.name, got, n.Membership().Cluster, cluster)
		}
		var got []string
		for _, s := range n.Servers() {
			got = append(got, fmt.Sprint(s))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s votes among %v, want %v", b.name, got, want)
		}
		if got := len(n.Membership().Members); got != len(bs) {
			t.Errorf("%s knows %d members, want %d", b.name, got, len(bs))
		}
	}
}
