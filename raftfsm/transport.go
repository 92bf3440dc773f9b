package raftfsm

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

var (
	errStalled   = errors.New("raftfsm: the disk of this member has stalled")
	errNoPreVote = errors.New("raftfsm: the transport knows no pre-vote")
)

// transport wraps raft's transport with what the library does not tell or do:
//
//   - how far each member has come, and when it last answered;
//   - commit hints: followers hear of a commit at once instead of with the next
//     entry, which may be long in coming (raft#282);
//   - a leader whose disk has stalled falls silent, so that the others choose
//     another one: raft's heartbeats do not wait for the disk (raft#503);
//   - this member can tell itself to stand for election now.
type transport struct {
	raft.Transport
	local   raft.ServerAddress
	log     *slog.Logger
	stalled func() bool
	rpcs    chan raft.RPC
	quit    chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex // guards peers
	peers map[raft.ServerID]*progress
}

func newTransport(t raft.Transport, local raft.ServerAddress, stalled func() bool, log *slog.Logger) *transport {
	k := &transport{
		Transport: t, local: local, log: log, stalled: stalled,
		rpcs: make(chan raft.RPC, 1), quit: make(chan struct{}),
		peers: make(map[raft.ServerID]*progress),
	}
	// Owner: Node; ends when close closes quit.
	k.wg.Go(k.pass)
	return k
}

// pass hands on what the network brings.
func (t *transport) pass() {
	for {
		select {
		case rpc := <-t.Transport.Consumer():
			select {
			case t.rpcs <- rpc:
			case <-t.quit:
				return
			}
		case <-t.quit:
			return
		}
	}
}

func (t *transport) close() {
	close(t.quit)
	t.wg.Wait()
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// LocalAddr implements raft.Transport. Addresses are advisory: a member is
// called by its ID, and whoever dials finds out where it is.
func (t *transport) LocalAddr() raft.ServerAddress { return t.local }

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.stalled() {
		return errStalled
	}
	p := t.peer(id)
	heartbeat := req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
	if !heartbeat {
		p.turn.Lock()
		defer p.turn.Unlock()
	}
	began := time.Now()
	err := t.Transport.AppendEntries(id, at, req, resp)
	t.note(id, p, err)
	if err == nil && !heartbeat {
		p.sent(req, resp)
	}
	if err == nil && len(req.Entries) > 0 {
		p.wrote(time.Since(began))
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport. Pipelines gain nothing over
// short ways, and have wedged for others (raft#612).
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// InstallSnapshot implements raft.Transport. What follows the image must stay
// in the log until the member has taken it from there.
func (t *transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	p := t.peer(id)
	p.hold(req.LastLogIndex)
	t.log.Info("sending the database to a member that is too far behind for the log", "member", string(id), "bytes", req.Size)
	err := t.Transport.InstallSnapshot(id, at, req, resp, data)
	t.note(id, p, err)
	if err != nil || !resp.Success {
		p.release()
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, at raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	pre, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return errNoPreVote
	}
	return pre.RequestPreVote(id, at, req, resp)
}

func (t *transport) peer(id raft.ServerID) *progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		p = &progress{hints: make(chan struct{}, 1)}
		t.peers[id] = p
	}
	return p
}

// note keeps when a member answered, and says so once when it ceases to.
func (t *transport) note(id raft.ServerID, p *progress, err error) {
	switch changed := p.contacted(err); {
	case !changed:
	case err != nil:
		t.log.Warn("a member does not answer", "member", string(id), "error", err)
	default:
		t.log.Info("a member answers", "member", string(id))
	}
}

// reset forgets what an earlier time as leader has found out.
func (t *transport) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		p.mu.Lock()
		p.match, p.commit, p.news, p.held = 0, 0, hint{}, nil
		p.mu.Unlock()
	}
}

// floor is the index above which members that were sent an image still need
// the log; ok is false if none does.
func (t *transport) floor() (index uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if i, held := p.needs(); held && (!ok || i < index) {
			index, ok = i, true
		}
	}
	return index, ok
}

// fastest is the member of ids that answers and wrote its newest entries in
// the least time; empty if there is none.
func (t *transport) fastest(ids []raft.ServerID) (id raft.ServerID, took time.Duration) {
	for _, i := range ids {
		p := t.peer(i)
		p.mu.Lock()
		ok, d := p.lost.IsZero() && p.write > 0, p.write
		p.mu.Unlock()
		if ok && (id == "" || d < took) {
			id, took = i, d
		}
	}
	return id, took
}

// kick makes raft a candidate, as a leader does that hands over.
func (t *transport) kick(id raft.ServerID) {
	rpc := raft.RPC{
		Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(t.local),
		}},
		RespChan: make(chan raft.RPCResponse, 1),
	}
	select {
	case t.rpcs <- rpc:
	case <-t.quit:
	}
}

// hint is news of a commit: entry index of term is committed, by a leader of
// that very term.
type hint struct {
	header      raft.RPCHeader
	term, index uint64
}

// tell has the members hear of a commit. It does not block: of several hints
// the newest goes.
func (t *transport) tell(ids []raft.ServerID, h hint) {
	for _, id := range ids {
		p := t.peer(id)
		p.mu.Lock()
		p.news = h
		p.mu.Unlock()
		signal(p.hints)
		p.once.Do(func() {
			// Owner: transport; ends when close closes quit.
			t.wg.Go(func() { t.sendHints(id, p) })
		})
	}
}

func (t *transport) sendHints(id raft.ServerID, p *progress) {
	for {
		select {
		case <-p.hints:
		case <-t.quit:
			return
		}
		// What is under way may bring the news itself, and the member does one
		// thing at a time anyway.
		p.turn.Lock()
		h, due := p.due()
		p.turn.Unlock()
		if !due || t.stalled() {
			continue
		}
		// An append without entries, like those that raft itself sends: the
		// member checks that it has the very entry before it believes the commit.
		req := &raft.AppendEntriesRequest{
			RPCHeader: h.header, Term: h.term,
			PrevLogEntry: h.index, PrevLogTerm: h.term, LeaderCommitIndex: h.index,
		}
		resp := new(raft.AppendEntriesResponse)
		if err := t.Transport.AppendEntries(id, raft.ServerAddress(id), req, resp); err == nil {
			p.sent(req, resp)
		}
	}
}

// holdPatience is how long the log is kept for a member that was sent an image.
const holdPatience = 10 * time.Minute

// progress is what is known of another member while this one leads.
type progress struct {
	turn  sync.Mutex // held while an append is under way; before mu
	once  sync.Once
	hints chan struct{} // holds one: look at news

	mu      sync.Mutex
	match   uint64        // the highest index known to be in its log
	commit  uint64        // the highest commit index it was told
	news    hint          // the newest commit that it should hear of
	contact time.Time     // its last answer
	since   time.Time     // it has answered without a break since; zero if it does not
	write   time.Duration // what its newest write of entries took, with the way there and back
	lost    time.Time     // since when it has not answered; zero if it does
	held    *held
}

// held says: the log above index is needed.
type held struct {
	index uint64
	until time.Time
}

// contacted notes the outcome of a call; changed if it is unlike the one
// before.
func (p *progress) contacted(err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		changed = !p.lost.IsZero()
		p.contact, p.lost = time.Now(), time.Time{}
		if p.since.IsZero() {
			p.since = p.contact
		}
		return changed
	}
	p.since = time.Time{}
	if changed = p.lost.IsZero(); changed {
		p.lost = time.Now()
	}
	return changed
}

func (p *progress) sent(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if !resp.Success {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match = max(p.match, req.PrevLogEntry+uint64(len(req.Entries)))
	p.commit = max(p.commit, min(req.LeaderCommitIndex, p.match))
	if p.held != nil && p.match > p.held.index {
		p.held.index = p.match
	}
	if p.dueLocked() {
		signal(p.hints)
	}
}

// due returns the commit that the member is to hear of now. It is not due
// before the member has the entry; then sent asks again.
func (p *progress) due() (h hint, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.news, p.dueLocked()
}

func (p *progress) dueLocked() bool { return p.news.index > p.commit && p.news.index <= p.match }

func (p *progress) wrote(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write = took
}

func (p *progress) hold(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = &held{index, time.Now().Add(holdPatience)}
}

func (p *progress) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = nil
}

func (p *progress) needs() (index uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil || time.Now().After(p.held.until) {
		return 0, false
	}
	return p.held.index, true
}
