package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
)

// Config wires a Node.
type Config struct {
	Dir       string // folder of the log; created if absent
	MemberID  uint64
	Bootstrap []uint64 // if nothing was ever agreed on here, begin a cluster of these members
	Store     *sqlstore.Store
	Transport raft.Transport // whose addresses are member IDs in hex
	Peers     Peers          // nil: there are no other members

	ElectionTimeout  time.Duration // 1 s
	HeartbeatTimeout time.Duration // 1 s
	MaxRequestBytes  int           // 0: unbounded
	ProposeTimeout   time.Duration // after which Propose gives up; 7 s
	MaxLogBytes      int64         // bound of the log on disk; 64 MiB
	SnapshotEntries  uint64        // entries after which the log may be trimmed; 10000
	Format           int           // newest format of entries to write; EntryFormat
	NoSync           bool          // the log is not synced: a power cut may take what was acknowledged

	Logger *slog.Logger
	// OnCommit hears of each batch's commits, after they can be read and
	// before their proposers are answered. It must not block.
	OnCommit func([]*sqlstore.Commit)
	// OnJump hears that revisions passed without OnCommit: the database was
	// replaced by a newer one.
	OnJump func()
	// OnEffects hears of what else each batch changed, leases above all; once
	// at the start, of the leases there are. It must not block.
	OnEffects func(txn.Effects)
	// OnLeader hears when this member becomes leader, having applied an entry
	// of its own term, and when it ceases to be.
	OnLeader func(leading bool)
	// OnNewLeader hears of each leader that this member sees, itself included.
	OnNewLeader func(id uint64)
	// OnBroken hears that this member cannot go on and should be stopped.
	OnBroken func(error)
	Observe  Observer
}

// Peers reaches the other members. Its methods return when ctx ends.
type Peers interface {
	// Propose has leader agree on entry if it still leads in term: Node.Accept
	// there. ErrNotLeader means that certainly nothing happened.
	Propose(ctx context.Context, leader, term uint64, entry []byte) error
	// ReadIndex is Node.ConfirmedIndex there.
	ReadIndex(ctx context.Context, leader uint64) (uint64, error)
	// Hear is Node.Hear at member.
	Hear(ctx context.Context, member, leader, term uint64) (Hearing, error)
}

// Observer receives durations; any field may be nil. It must not block.
type Observer struct {
	Sync  func(took time.Duration, bytes int)    // the log written and synced
	Apply func(took time.Duration, entries int)  // a batch applied
	Wait  func(took time.Duration, failed bool)  // a read index obtained
	Snap  func(took time.Duration, index uint64) // the log trimmed
}

// Node is this member's part in the agreement. All methods may be called
// concurrently.
type Node struct {
	cfg       Config
	log       *slog.Logger
	raft      *raft.Raft
	logs      *logStore
	mark      *commitMark
	fsm       *fsm
	proposer  *proposer
	transport *transport

	tail      position      // the newest entry that went to the log; raft's main goroutine's
	slow      int           // writes of the log in a row that took long; raft's main goroutine's
	giveWay   chan struct{} // holds one: the disk is slow
	led       chan struct{} // holds one: there is a leader to ask for reads
	trimTried int64         // logs.written when trimming was last asked for; raft's main goroutine's
	started   atomic.Bool   // raft is set
	opened    atomic.Uint64 // the term whose first entry of our own is applied
	leading   atomic.Bool   // leader, and an entry of this term is applied
	reads     chan *read
	snapshot  chan struct{} // holds one: the log has grown
	ready     chan struct{} // closed once a leader is known and caught up with
	readyOnce sync.Once
	ctx       context.Context // the node's lifetime
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	lead atomic.Pointer[leadership] // the newest leader seen; nil: none yet

	turnMu sync.Mutex    // guards turn
	turn   chan struct{} // closed once raft's loop has answered; nil: it is not asked
}

// Open starts the member: the log is opened, what it holds beyond the store is
// applied again, and raft runs. AdoptFile comes before opening the store.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	logs, err := openLogStore(cfg.Dir, cfg.MaxLogBytes/4)
	if err != nil {
		return nil, err
	}
	logs.vfs.lazy = cfg.NoSync
	n := &Node{
		cfg: cfg, log: cfg.Logger, logs: logs,
		reads:    make(chan *read),
		snapshot: make(chan struct{}, 1),
		giveWay:  make(chan struct{}, 1),
		led:      make(chan struct{}, 1),
		ready:    make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.open(); err != nil {
		n.cancel()
		return nil, errors.Join(err, logs.Close())
	}
	return n, nil
}

func (n *Node) open() error {
	snaps := &manifestStore{dir: n.cfg.Dir, store: n.cfg.Store, logs: n.logs, onBroken: n.cfg.OnBroken}
	if err := snaps.finishAdoption(); err != nil {
		return err
	}
	if err := snaps.dropOldLog(); err != nil {
		return err
	}
	last, err := checkDisk(n.cfg, n.logs)
	if err != nil {
		return err
	}
	state, err := txn.Load(n.cfg.Store)
	if err != nil {
		return err
	}
	if n.mark, err = openCommitMark(filepath.Join(n.cfg.Dir, commitMarkName)); err != nil {
		return err
	}
	n.transport = newTransport(n.cfg.Transport, raft.ServerAddress(serverID(n.cfg.MemberID)), n.stalled, n.follows, n.log)
	n.proposer = newProposer(n.cfg.MemberID, n.cfg.MaxRequestBytes, n.cfg.ProposeTimeout)
	n.proposer.where = n.where
	n.proposer.format = n.format
	n.proposer.apply = func(entry []byte) raft.ApplyFuture { return n.raft.Apply(entry, 0) }
	n.proposer.forward = n.forward
	n.fsm = &fsm{state: state, store: n.cfg.Store, proposer: n.proposer, cfg: &n.cfg, snaps: snaps, mark: n.mark, committed: n.committed}
	n.fsm.v2 = newV2(state.V2())
	n.fsm.publishAlarms()
	n.fsm.publishMembers()
	n.fsm.rules.Store(state.Rules())
	if n.cfg.OnEffects != nil {
		n.cfg.OnEffects(txn.Effects{Leases: diffLeases(nil, state.Leases())})
	}
	n.logs.onStoring = n.storing
	n.logs.onStored = n.stored
	n.logs.observe = n.cfg.Observe.Sync
	n.logs.onBroken = n.cfg.OnBroken
	n.logs.floor = n.transport.floor
	err = n.replay()
	if err == nil {
		err = n.start(snaps, last)
	}
	if err != nil {
		n.proposer.close()
		n.transport.close()
		return errors.Join(err, n.mark.close())
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	if c.HeartbeatTimeout == 0 {
		c.HeartbeatTimeout = time.Second
	}
	if c.ProposeTimeout == 0 {
		c.ProposeTimeout = 7 * time.Second
	}
	if c.MaxLogBytes == 0 {
		c.MaxLogBytes = 64 << 20
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 10000
	}
	if c.Format == 0 {
		c.Format = EntryFormat
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (n *Node) start(snaps *manifestStore, last uint64) error {
	leader := make(chan bool, 16)
	conf := raft.DefaultConfig()
	conf.LocalID = serverID(n.cfg.MemberID)
	conf.ElectionTimeout = n.cfg.ElectionTimeout
	conf.HeartbeatTimeout = n.cfg.HeartbeatTimeout
	conf.LeaderLeaseTimeout = min(conf.LeaderLeaseTimeout, conf.HeartbeatTimeout)
	conf.CommitTimeout = commitTimeout
	conf.NoSnapshotRestoreOnStart = true // the state is on disk already
	conf.SnapshotThreshold = n.cfg.SnapshotEntries
	conf.TrailingLogs = 1         // logStore keeps a tail by bytes instead
	conf.ShutdownOnRemove = false // whoever wires us stops us, and says why
	conf.NotifyCh = leader
	conf.BatchApplyCh = true // room for what is proposed while the log is written
	conf.Logger = NewRaftLogger(n.log)
	conf.NoLegacyTelemetry = true

	if len(n.cfg.Bootstrap) > 0 && last == 0 {
		err := raft.BootstrapCluster(conf, n.logs, n.logs, snaps, n.transport, configuration(n.cfg.Bootstrap))
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return fmt.Errorf("begin a cluster: %w", err)
		}
	}
	var err error
	n.raft, err = raft.NewRaft(conf, n.fsm, n.logs, n.logs, snaps, n.transport)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	n.started.Store(true)
	seen := make(chan raft.Observation, 16)
	n.raft.RegisterObserver(raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	// Owner: Node for all of these; each ends when Close cancels ctx.
	n.wg.Go(func() { n.watchLeaders(seen) })
	n.wg.Go(func() { n.watchLeadership(leader) })
	n.wg.Go(n.serveReads)
	n.wg.Go(n.trimLog)
	n.wg.Go(n.catchUp)
	n.wg.Go(n.watchDisk)
	n.wg.Go(n.watchSilence)
	n.wg.Go(n.expireV2)
	if n.soleVoter() {
		n.transport.kick(conf.LocalID)
	}
	return nil
}

// checkDisk makes sure that log and database belong together, and returns the
// last index that they reach together.
func checkDisk(cfg Config, logs *logStore) (last uint64, err error) {
	first, err := logs.FirstIndex()
	if err != nil {
		return 0, err
	}
	if last, err = logs.LastIndex(); err != nil {
		return 0, err
	}
	trimmed := max(first, 1) - 1 // newest index that is not in the log any more
	man, err := readManifest(filepath.Join(cfg.Dir, manifestName))
	known := err == nil
	switch {
	case known:
		trimmed = max(trimmed, man.Index) // raft does not look further back
		last = max(last, man.Index)
	case errors.Is(err, os.ErrNotExist):
		man = new(manifest)
	default:
		return 0, err
	}
	applied := cfg.Store.Applied()
	switch {
	case applied > max(last, man.Image):
		// What SQLite holds was in the log, synced, before: the log was lost.
		// Beginning a new one would skip its first entries as applied (I6).
		return 0, fmt.Errorf("the raft log in %s ends at index %d, but the database holds index %d: the log was removed or is damaged; restore the folder, or start with an empty data directory", cfg.Dir, last, applied)
	case first > 1 && !known:
		return 0, fmt.Errorf("the raft log in %s begins at index %d, but %s is missing: it was removed; restore the folder", cfg.Dir, first, manifestName)
	case applied < trimmed:
		return 0, fmt.Errorf("the database holds index %d, but the raft log in %s was trimmed up to index %d: the database was removed or replaced by an older one; restore it, or start with an empty data directory", applied, cfg.Dir, trimmed)
	}
	return last, logs.readable(applied)
}

func serverID(member uint64) raft.ServerID { return raft.ServerID(strconv.FormatUint(member, 16)) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stored runs on raft's main goroutine after each write of the log.
func (n *Node) stored(took time.Duration) {
	n.proposer.send()
	if took < n.cfg.ElectionTimeout/2 {
		n.slow = 0
	} else if n.slow++; n.slow >= slowWrites {
		n.slow = 0
		signal(n.giveWay)
	}
	written := n.logs.written.Load()
	if n.logs.size() > n.cfg.MaxLogBytes/2 && written-n.trimTried >= n.cfg.MaxLogBytes/16 {
		n.trimTried = written
		signal(n.snapshot)
	}
}

// trimLog takes a (virtual) snapshot whenever the log has outgrown half its
// bound; raft then trims it.
func (n *Node) trimLog() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.snapshot:
		}
		began := time.Now()
		err := await(n.ctx.Done(), n.raft.Snapshot())
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && n.ctx.Err() == nil {
			n.log.Warn("the log could not be trimmed; trying again when it has grown", "error", err)
			continue
		}
		if n.cfg.Observe.Snap != nil {
			n.cfg.Observe.Snap(time.Since(began), n.cfg.Store.Durable())
		}
	}
}

// watchLeadership follows raft's notices. A new leader first puts an empty
// entry of its own through the log: once that is applied, everything that was
// ever committed is, too.
func (n *Node) watchLeadership(notices <-chan bool) {
	for {
		select {
		case <-n.ctx.Done():
			return
		case leads := <-notices:
			n.transport.reset()
			if !leads {
				n.leading.Store(false)
				if n.cfg.OnLeader != nil {
					n.cfg.OnLeader(false)
				}
				continue
			}
			term := n.raft.CurrentTerm()
			if err := n.openTerm(); err != nil {
				n.log.Warn("leadership was lost before it could be used", "error", err)
				continue
			}
			n.opened.Store(term)
			n.leading.Store(true)
			signal(n.fsm.v2.due)
			if n.cfg.OnLeader != nil {
				n.cfg.OnLeader(true)
			}
			n.nowReady()
			n.proposer.send()
		}
	}
}

func (n *Node) openTerm() error {
	head := entryHead{format: n.format(), member: n.cfg.MemberID, time: time.Now().UnixMilli()}
	return await(n.ctx.Done(), n.raft.Apply(sealEntry(appendHead(nil, head)), 0))
}

// Ready is closed once this member has caught up with the cluster and serves.
func (n *Node) Ready() <-chan struct{} { return n.ready }

func (n *Node) nowReady() { n.readyOnce.Do(func() { close(n.ready) }) }

// Status is where this member stands in the agreement.
type Status struct {
	MemberID  uint64
	Leader    uint64 // 0 if there is none
	Term      uint64
	Committed uint64
	Applied   uint64
	Durable   uint64
	LastIndex uint64
	Pending   int           // proposals waiting
	LogBytes  int64         // bytes of the log since it was last trimmed
	Sync      time.Duration // of the newest writes of the log, one in a hundred took so long or longer
	State     string
}

// Status returns the current figures.
func (n *Node) Status() Status {
	_, leader := n.raft.LeaderWithID()
	id, _ := strconv.ParseUint(string(leader), 16, 64)
	return Status{
		MemberID: n.cfg.MemberID, Leader: id, Term: n.raft.CurrentTerm(),
		Committed: n.Committed(), Applied: n.cfg.Store.Applied(), Durable: n.cfg.Store.Durable(),
		LastIndex: max(n.raft.LastIndex(), n.cfg.Store.Applied()), Pending: n.proposer.pendingCount(), LogBytes: n.logs.size(), Sync: n.logs.syncTime(),
		State: n.raft.State().String(),
	}
}

// LastTerm is the term of the last entry of the log, or of what stands for it.
func (n *Node) LastTerm() uint64 {
	stats := n.raft.Stats()
	log, _ := strconv.ParseUint(stats["last_log_term"], 10, 64)
	snap, _ := strconv.ParseUint(stats["last_snapshot_term"], 10, 64)
	return max(log, snap)
}

// Committed is the index up to which the log is known to be agreed on.
func (n *Node) Committed() uint64 { return max(n.raft.CommitIndex(), n.cfg.Store.Applied()) }

// Term is the current raft term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// Leader is the ID of the leader, 0 if none is known.
func (n *Node) Leader() uint64 {
	_, leader := n.raft.LeaderWithID()
	id, _ := strconv.ParseUint(string(leader), 16, 64)
	return id
}

// Leading reports whether this member leads and serves. One whose disk has
// stalled does not, though raft has not heard of that yet.
func (n *Node) Leading() bool { return n.leading.Load() && !n.stalled() }

// Alarms lists the raised alarms.
func (n *Node) Alarms() []txn.Alarm { return *n.fsm.alarms.Load() }

// Rules are who may do what, as of what is applied.
func (n *Node) Rules() *auth.Rules { return n.fsm.rules.Load() }

// Membership is what the members have agreed on about themselves.
func (n *Node) Membership() *Membership { return n.fsm.members.Load() }

// Close stops taking part. The store stays open. It is safe to call twice.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.leading.Store(false)
		n.cancel()
		n.transport.interrupt()
		err := n.raft.Shutdown().Error()
		n.proposer.close()
		n.transport.close()
		n.wg.Wait()
		n.closeErr = errors.Join(err, n.mark.close(), n.logs.Close())
	})
	return n.closeErr
}
