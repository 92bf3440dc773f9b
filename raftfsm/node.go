package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"limpet/sqlstore"
	"limpet/txn"
)

// Config wires a Node.
type Config struct {
	Dir       string // folder of the log; created if absent
	MemberID  uint64
	Bootstrap bool // if nothing was ever agreed on here, begin a cluster of this one member
	Store     *sqlstore.Store
	Transport raft.Transport

	ElectionTimeout  time.Duration // 1 s
	HeartbeatTimeout time.Duration // 1 s
	MaxRequestBytes  int           // 0: unbounded
	ProposeTimeout   time.Duration // after which Propose gives up; 7 s
	MaxLogBytes      int64         // bound of the log on disk; 64 MiB
	SnapshotEntries  uint64        // entries after which the log may be trimmed; 10000

	Logger *slog.Logger
	// OnCommit hears of each batch's commits, after they can be read and
	// before their proposers are answered. It must not block.
	OnCommit func([]*sqlstore.Commit)
	// OnEffects hears of what else each batch changed, leases above all; once
	// at the start, of the leases there are. It must not block.
	OnEffects func(txn.Effects)
	// OnLeader hears when this member becomes leader, having applied an entry
	// of its own term, and when it ceases to be.
	OnLeader func(leading bool)
	// OnBroken hears that this member cannot go on and should be stopped.
	OnBroken func(error)
	Observe  Observer
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
	fsm       *fsm
	proposer  *proposer
	transport *kickable

	trimTried int64       // logs.written when trimming was last asked for; raft's main goroutine's
	leading   atomic.Bool // leader, and an entry of this term is applied
	reads     chan chan error
	snapshot  chan struct{} // holds one: the log has grown
	ready     chan struct{} // closed once a leader is known and caught up with
	readyOnce sync.Once
	ctx       context.Context // the node's lifetime
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open starts the member: the log is opened, what it holds beyond the store is
// applied again, and raft runs.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	state, err := txn.Load(cfg.Store)
	if err != nil {
		return nil, err
	}
	logs, err := openLogStore(cfg.Dir, cfg.MaxLogBytes/4)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, logs: logs,
		transport: newKickable(cfg.Transport),
		reads:     make(chan chan error),
		snapshot:  make(chan struct{}, 1),
		ready:     make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.proposer = newProposer(cfg.MemberID, cfg.MaxRequestBytes, cfg.ProposeTimeout, func(entry []byte) raft.ApplyFuture {
		return n.raft.Apply(entry, 0)
	})
	n.fsm = &fsm{state: state, store: cfg.Store, proposer: n.proposer, cfg: &n.cfg}
	n.fsm.publishAlarms()
	n.fsm.publishMembers()
	if cfg.OnEffects != nil {
		cfg.OnEffects(txn.Effects{Granted: state.Leases()})
	}
	logs.onStored = n.stored
	logs.observe = cfg.Observe.Sync
	logs.onBroken = cfg.OnBroken
	if err := n.start(); err != nil {
		n.proposer.close()
		n.transport.close()
		return nil, errors.Join(err, logs.Close())
	}
	return n, nil
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
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (n *Node) start() error {
	leader := make(chan bool, 16)
	conf := raft.DefaultConfig()
	conf.LocalID = serverID(n.cfg.MemberID)
	conf.ElectionTimeout = n.cfg.ElectionTimeout
	conf.HeartbeatTimeout = n.cfg.HeartbeatTimeout
	conf.LeaderLeaseTimeout = min(conf.LeaderLeaseTimeout, conf.HeartbeatTimeout)
	conf.NoSnapshotRestoreOnStart = true // the state is on disk already
	conf.SnapshotThreshold = n.cfg.SnapshotEntries
	conf.TrailingLogs = 1 // logStore keeps a tail by bytes instead
	conf.NotifyCh = leader
	conf.BatchApplyCh = true // room for what is proposed while the log is written
	conf.Logger = newRaftLogger(n.log)
	conf.NoLegacyTelemetry = true

	snaps := &manifestStore{dir: n.cfg.Dir, store: n.cfg.Store}
	last, err := n.checkDisk(snaps)
	if err != nil {
		return err
	}
	if n.cfg.Bootstrap && last == 0 {
		err := raft.BootstrapCluster(conf, n.logs, n.logs, snaps, n.transport, raft.Configuration{
			Servers: []raft.Server{{ID: conf.LocalID, Address: n.transport.LocalAddr()}},
		})
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return fmt.Errorf("begin a cluster: %w", err)
		}
	}
	n.raft, err = raft.NewRaft(conf, n.fsm, n.logs, n.logs, snaps, n.transport)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	// Owner: Node for all of these; each ends when Close cancels ctx.
	n.wg.Go(func() { n.watchLeadership(leader) })
	n.wg.Go(n.serveReads)
	n.wg.Go(n.trimLog)
	if n.soleVoter() {
		n.transport.kick(conf.LocalID)
	}
	return nil
}

// checkDisk makes sure that log and database belong together, and returns the
// last index of the log.
func (n *Node) checkDisk(snaps *manifestStore) (last uint64, err error) {
	first, err := n.logs.FirstIndex()
	if err != nil {
		return 0, err
	}
	if last, err = n.logs.LastIndex(); err != nil {
		return 0, err
	}
	metas, err := snaps.List()
	if err != nil {
		return 0, err
	}
	trimmed := max(first, 1) - 1 // newest index that is not in the log any more
	if len(metas) > 0 {
		trimmed = max(trimmed, metas[0].Index) // raft does not look further back
	}
	applied := n.cfg.Store.Applied()
	switch {
	case applied > last:
		// What SQLite holds was in the log, synced, before: the log was lost.
		// Beginning a new one would skip its first entries as applied (I6).
		return 0, fmt.Errorf("the raft log in %s ends at index %d, but the database holds index %d: the log was removed or is damaged; restore the folder, or start with an empty data directory", n.cfg.Dir, last, applied)
	case first > 1 && len(metas) == 0:
		return 0, fmt.Errorf("the raft log in %s begins at index %d, but %s is missing: it was removed; restore the folder", n.cfg.Dir, first, manifestName)
	case applied < trimmed:
		return 0, fmt.Errorf("the database holds index %d, but the raft log in %s was trimmed up to index %d: the database was removed or replaced by an older one; restore it, or start with an empty data directory", applied, n.cfg.Dir, trimmed)
	}
	return last, nil
}

func serverID(member uint64) raft.ServerID { return raft.ServerID(strconv.FormatUint(member, 16)) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stored runs on raft's main goroutine after each write of the log.
func (n *Node) stored() {
	n.proposer.onStored()
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

// soleVoter reports whether this member alone decides.
func (n *Node) soleVoter() bool {
	voters, self := 0, false
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || s.ID == serverID(n.cfg.MemberID)
		}
	}
	return self && voters == 1
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
			if !leads {
				n.leading.Store(false)
				if n.cfg.OnLeader != nil {
					n.cfg.OnLeader(false)
				}
				continue
			}
			if err := n.openTerm(); err != nil {
				n.log.Warn("leadership was lost before it could be used", "error", err)
				continue
			}
			n.leading.Store(true)
			if n.cfg.OnLeader != nil {
				n.cfg.OnLeader(true)
			}
			n.readyOnce.Do(func() { close(n.ready) })
		}
	}
}

func (n *Node) openTerm() error {
	head := entryHead{member: n.cfg.MemberID, time: time.Now().UnixMilli()}
	return await(n.ctx.Done(), n.raft.Apply(appendHead(nil, head), 0))
}

// Ready is closed once this member has caught up with the cluster and serves.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Propose has the cluster agree on cmd and returns its result. When ctx or
// Config.ProposeTimeout (ErrTimeout) ends first, the command may still happen.
func (n *Node) Propose(ctx context.Context, cmd txn.Command) (any, error) {
	if n.raft.State() != raft.Leader {
		return nil, ErrNoLeader
	}
	return n.proposer.propose(ctx, cmd)
}

// ReadIndex returns once the store's published view reflects everything that
// was acknowledged, anywhere, before the call (I7).
func (n *Node) ReadIndex(ctx context.Context) error {
	if n.ReadsLocally() {
		return nil
	}
	done := make(chan error, 1)
	select {
	case n.reads <- done:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return ErrStopped
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ReadsLocally reports whether the published view is always up to date: this
// member leads and is the only voter, so nobody else can acknowledge anything,
// and it acknowledges only what it has published.
func (n *Node) ReadsLocally() bool { return n.leading.Load() && n.soleVoter() }

// serveReads confirms leadership once for all reads that wait.
func (n *Node) serveReads() {
	for {
		var waiting []chan error
		select {
		case <-n.ctx.Done():
			return
		case w := <-n.reads:
			waiting = append(waiting, w)
		}
		for more := true; more; {
			select {
			case w := <-n.reads:
				waiting = append(waiting, w)
			default:
				more = false
			}
		}
		err := n.confirm()
		for _, w := range waiting {
			w <- err
		}
	}
}

func (n *Node) confirm() error {
	began := time.Now()
	err := func() error {
		if !n.leading.Load() {
			return ErrNoLeader
		}
		index := n.raft.CommitIndex()
		if err := await(n.ctx.Done(), n.raft.VerifyLeader()); err != nil {
			return ErrLeaderChanged
		}
		return n.waitApplied(index)
	}()
	if n.cfg.Observe.Wait != nil {
		n.cfg.Observe.Wait(time.Since(began), err != nil)
	}
	return err
}

// waitApplied polls: the gap is one apply step, and the case is rare.
func (n *Node) waitApplied(index uint64) error {
	for n.cfg.Store.Applied() < index {
		select {
		case <-n.ctx.Done():
			return ErrStopped
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// Status is where this member stands in the agreement.
type Status struct {
	MemberID  uint64
	Leader    uint64 // 0 if there is none
	Term      uint64
	Committed uint64
	Applied   uint64
	Durable   uint64
	LastIndex uint64
	Pending   int   // proposals waiting
	LogBytes  int64 // bytes of the log since it was last trimmed
	State     string
}

// Status returns the current figures.
func (n *Node) Status() Status {
	_, leader := n.raft.LeaderWithID()
	id, _ := strconv.ParseUint(string(leader), 16, 64)
	return Status{
		MemberID: n.cfg.MemberID, Leader: id, Term: n.raft.CurrentTerm(),
		Committed: max(n.raft.CommitIndex(), n.cfg.Store.Applied()), Applied: n.cfg.Store.Applied(), Durable: n.cfg.Store.Durable(),
		LastIndex: n.raft.LastIndex(), Pending: n.proposer.pendingCount(), LogBytes: n.logs.size(),
		State: n.raft.State().String(),
	}
}

// Term is the current raft term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// Leader is the ID of the leader, 0 if none is known.
func (n *Node) Leader() uint64 {
	_, leader := n.raft.LeaderWithID()
	id, _ := strconv.ParseUint(string(leader), 16, 64)
	return id
}

// Leading reports whether this member leads and serves.
func (n *Node) Leading() bool { return n.leading.Load() }

// Alarms lists the raised alarms.
func (n *Node) Alarms() []txn.Alarm { return *n.fsm.alarms.Load() }

// Members lists the members by ID; they must not be changed.
func (n *Node) Members() []*txn.Member { return *n.fsm.members.Load() }

// Close stops taking part. The store stays open. It is safe to call twice.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.leading.Store(false)
		n.cancel()
		err := n.raft.Shutdown().Error()
		n.proposer.close()
		n.transport.close()
		n.wg.Wait()
		n.closeErr = errors.Join(err, n.logs.Close())
	})
	return n.closeErr
}

// newRaftLogger passes raft's log lines on. What raft calls info is of no use
// to an operator and becomes debug.
func newRaftLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: discard{}, Level: hclog.Debug})
	l.RegisterSink(raftSink{log})
	return l
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

type raftSink struct{ log *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s raftSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		to = slog.LevelWarn
	case hclog.Error:
		to = slog.LevelError
	}
	if !s.log.Enabled(context.Background(), to) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.log.Log(context.Background(), to, "raft: "+msg, args...)
}
