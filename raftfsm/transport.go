package raftfsm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

var (
	errStalled   = errors.New("raftfsm: the disk of this member has stalled")
	errAway      = errors.New("raftfsm: the member does not answer")
	errNoPreVote = errors.New("raftfsm: the transport knows no pre-vote")
)

// transport wraps raft's transport with what the library does not tell or do:
//
//   - how far each member has come, and when it last answered;
//   - commit hints: followers hear of a commit at once instead of with the next
//     entry, which may be long in coming (raft#282);
//   - entries on their way to the others while this leader's own disk takes them
//     (Raft thesis, 10.2.1; the library does one after the other);
//   - whether a quorum still follows this leader, asked when a read needs it;
//   - heartbeats do not change a leader behind its back (raft#695);
//   - members that were away are caught up as soon as they answer;
//   - a leader whose disk has stalled falls silent, so that the others choose
//     another one: raft's heartbeats do not wait for the disk (raft#503);
//   - this member can tell itself to stand for election now.
type transport struct {
	raft.Transport
	local   raft.ServerAddress
	log     *slog.Logger
	stalled func() bool
	follows func(term uint64) bool // this member is a follower in term
	rpcs    chan raft.RPC
	quit    chan struct{}
	wg      sync.WaitGroup
	pulses  *pulses
	beats   sync.RWMutex // held, for reading, while a heartbeat is handled

	sent, received atomic.Uint64 // appends, without heartbeats

	mu    sync.Mutex // guards the fields below
	peers map[raft.ServerID]*progress
	ended bool // nothing waits any more
}

func newTransport(t raft.Transport, local raft.ServerAddress, stalled func() bool, follows func(uint64) bool, log *slog.Logger) *transport {
	k := &transport{
		Transport: t, local: local, log: log, stalled: stalled, follows: follows,
		rpcs: make(chan raft.RPC, 1), quit: make(chan struct{}),
		peers: make(map[raft.ServerID]*progress),
	}
	k.pulses = newPulses(k)
	// Owner: Node; ends when close closes quit.
	k.wg.Go(k.pass)
	return k
}

// pass hands on what the network brings, if raft can take it.
func (t *transport) pass() {
	for {
		select {
		case rpc := <-t.Transport.Consumer():
			if err := wellFormed(rpc.Command); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && !isHeartbeat(req) {
				t.received.Add(1)
			}
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

func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}

// wellFormed refuses what can be sent, and what raft takes for granted not to be:
// an entry that is none would end the process, and an image without a byte would
// count as a snapshot of our own.
func wellFormed(call any) error {
	switch req := call.(type) {
	case *raft.AppendEntriesRequest:
		if slices.Contains(req.Entries, nil) {
			return fmt.Errorf("%w: one of %d is nothing", errEntry, len(req.Entries))
		}
	case *raft.InstallSnapshotRequest:
		if req.Size <= sha256.Size {
			return fmt.Errorf("%w: it has %d bytes, want more than its checksum", errDamaged, req.Size)
		}
	}
	return nil
}

// interrupt ends what waits for members, for good: raft is about to end.
func (t *transport) interrupt() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.reset()
}

// close returns when nothing that the network has brought is being handled: the
// stores that raft writes to may be closed then.
func (t *transport) close() {
	t.interrupt()
	t.beats.Lock()
	close(t.quit)
	t.beats.Unlock()
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
	if isHeartbeat(req) {
		began := time.Now()
		err := t.Transport.AppendEntries(id, at, req, resp)
		t.note(id, p, err)
		p.confirmed(began, err == nil && resp.Success)
		return err
	}
	// raft rests for up to ten seconds after its calls have failed for a while,
	// also when the member is back. Here they wait for the heartbeats instead,
	// which go on.
	if !p.awaitContact() {
		return errAway
	}
	if p.awaitAhead(req) {
		*resp = raft.AppendEntriesResponse{RPCHeader: req.RPCHeader, Term: req.Term, LastLog: req.PrevLogEntry + uint64(len(req.Entries)), Success: true}
		return nil
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	return t.append(id, at, p, req, resp)
}

// append makes the call. The caller has p's turn.
func (t *transport) append(id raft.ServerID, at raft.ServerAddress, p *progress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	began := time.Now()
	t.sent.Add(1)
	err := t.Transport.AppendEntries(id, at, req, resp)
	t.note(id, p, err)
	p.confirmed(began, err == nil && resp.Success)
	p.measured(time.Since(began), err)
	if err != nil {
		return err
	}
	p.sent(req, resp)
	if len(req.Entries) > 0 {
		p.wrote(time.Since(began))
	}
	return nil
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
		p = newProgress()
		p.ended = t.ended
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

// answered counts the members of ids that have confirmed this leader in answer to
// what they were sent after since.
func (t *transport) answered(ids []raft.ServerID, since time.Time) (n int) {
	for _, id := range ids {
		p := t.peer(id)
		p.mu.Lock()
		if p.asked.After(since) {
			n++
		}
		p.mu.Unlock()
	}
	return n
}

// SetHeartbeatHandler implements raft.Transport. The handler acts in the
// goroutine that brings a heartbeat, beside raft's own; that must not take the
// leader of an older term into a new one, in which it would go on to write
// entries until it looks at its state (raft#695). So only a follower's
// heartbeats in its own term go this way, and others wait their turn. raft does not
// wait for them when it shuts down, and a term that it could not write any more is a
// panic: that is what close waits for.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil {
		t.Transport.SetHeartbeatHandler(nil)
		return
	}
	t.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && t.follows(req.Term) {
			t.beat(rpc, handle)
			return
		}
		select {
		case t.rpcs <- rpc:
		case <-t.quit:
			rpc.Respond(nil, raft.ErrTransportShutdown)
		}
	})
}

func (t *transport) beat(rpc raft.RPC, handle func(raft.RPC)) {
	t.beats.RLock()
	defer t.beats.RUnlock()
	select {
	case <-t.quit:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	default:
		handle(rpc)
	}
}

// reset forgets what an earlier time as leader has found out.
func (t *transport) reset() {
	t.pulses.again()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		p.reset(t.ended)
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
