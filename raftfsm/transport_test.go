package raftfsm

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// With an election timeout that no test outlives, a sole voter leads because
// it was told to, or never; at the first start as at later ones.
func TestSoleVoterNeedNotWait(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		m := start(t, dir, func(c *Config) { c.ElectionTimeout, c.HeartbeatTimeout = time.Hour, time.Hour })
		if !m.Leading() || m.Leader() != 0xabc || !m.ReadsLocally() {
			t.Fatalf("start %d: leading %v, leader %x, reads locally %v; want it to lead", i, m.Leading(), m.Leader(), m.ReadsLocally())
		}
		m.put("k", "v")
		m.stop()
	}
}

// silent is a transport that only has a consumer.
type silent struct {
	raft.Transport
	rpcs chan raft.RPC
}

// newQuiet is the transport of member here, whose disk is well.
func newQuiet(under raft.Transport) *transport {
	return newTransport(under, "here", func() bool { return false }, func(uint64) bool { return true }, slog.New(slog.DiscardHandler))
}

func newSilent() *silent { return &silent{rpcs: make(chan raft.RPC)} }

func (s *silent) Consumer() <-chan raft.RPC     { return s.rpcs }
func (s *silent) LocalAddr() raft.ServerAddress { return "here" }

// beaten is silent, and keeps who handles heartbeats.
type beaten struct {
	*silent
	handle func(raft.RPC)
}

func (b *beaten) SetHeartbeatHandler(handle func(raft.RPC)) { b.handle = handle }

func nextRPC(t *testing.T, from <-chan raft.RPC) raft.RPC {
	t.Helper()
	select {
	case rpc := <-from:
		return rpc
	case <-time.After(deadline):
		t.Fatal("no call arrives")
		panic("unreachable")
	}
}

// What others send arrives beside what the member tells itself.
func TestTransportKeepsTheOthersCalls(t *testing.T) {
	under := newSilent()
	k := newQuiet(under)
	defer k.close()
	for range 3 {
		under.rpcs <- raft.RPC{Command: "append"}
		if got := nextRPC(t, k.Consumer()).Command; got != "append" {
			t.Errorf("got %v, want the call that was sent", got)
		}
		k.kick("abc")
		req, ok := nextRPC(t, k.Consumer()).Command.(*raft.TimeoutNowRequest)
		if !ok || string(req.ID) != "abc" || string(req.Addr) != "here" {
			t.Errorf("after kick: got %+v, want a TimeoutNowRequest of abc, here", req)
		}
	}
}

// Whoever answers must not wait for somebody who looks at it: nobody does.
func TestKickHasRoomForTheAnswer(t *testing.T) {
	k := newQuiet(newSilent())
	defer k.close()
	k.kick("abc")
	rpc := nextRPC(t, k.Consumer())
	rpc.Respond(&raft.TimeoutNowResponse{}, nil)
}

// A heartbeat that is being handled is waited for, and none is handled after that:
// raft would write its term to a log that is closed.
func TestCloseWaitsForHeartbeats(t *testing.T) {
	under := &beaten{silent: newSilent()}
	k := newQuiet(under)
	handling, goOn, closed := make(chan bool, 2), make(chan bool), make(chan bool)
	k.SetHeartbeatHandler(func(rpc raft.RPC) {
		handling <- true
		<-goOn
		rpc.Respond(nil, nil)
	})
	beat := func() chan raft.RPCResponse {
		answered := make(chan raft.RPCResponse, 1)
		// Owner: the test; ends when the heartbeat is answered.
		go under.handle(raft.RPC{Command: &raft.AppendEntriesRequest{}, RespChan: answered})
		return answered
	}
	first := beat()
	<-handling
	// Owner: the test, which waits for closed.
	go func() {
		k.close()
		close(closed)
	}()
	until(t, "close to wait", func() bool {
		waits := !k.beats.TryRLock()
		if !waits {
			k.beats.RUnlock()
		}
		return waits
	})
	select {
	case <-closed:
		t.Error("close did not wait for a heartbeat")
	default:
	}
	close(goOn)
	<-first
	<-closed
	if got := <-beat(); !errors.Is(got.Error, raft.ErrTransportShutdown) {
		t.Errorf("a heartbeat after close: got %v, want %v", got.Error, raft.ErrTransportShutdown)
	}
}

// Nobody takes calls any more, and nobody waits.
func TestTransportClose(t *testing.T) {
	under := newSilent()
	k := newQuiet(under)
	k.kick("abc") // fills the room for one
	under.rpcs <- raft.RPC{Command: "append"}
	kicked := make(chan struct{})
	go func() { defer close(kicked); k.kick("abc") }()
	k.close()
	<-kicked
	select {
	case under.rpcs <- raft.RPC{Command: "append"}:
		// The goroutine may take one before it sees the end.
	default:
	}
}

func TestTransportPreVote(t *testing.T) {
	k := newQuiet(newSilent())
	defer k.close()
	if err := k.RequestPreVote("b", "there", nil, nil); err == nil {
		t.Error("pre-vote over a transport that knows none: got no error")
	}
	_, inmem := raft.NewInmemTransport("")
	over := newQuiet(inmem)
	defer over.close()
	err := over.RequestPreVote("b", "there", &raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{})
	if err == nil || err.Error() == k.RequestPreVote("b", "there", nil, nil).Error() {
		t.Errorf("pre-vote to a member that is not there: got %v, want the transport's own error", err)
	}
}

// beating is a transport that hands heartbeats to their handler.
type beating struct {
	*silent
	handle func(raft.RPC)
}

func (b *beating) SetHeartbeatHandler(handle func(raft.RPC)) { b.handle = handle }

// Only a follower's heartbeats in its own term overtake raft's main goroutine: a
// leader that was taken into a new term beside it would go on writing entries, in
// that term.
func TestHeartbeatsThatMustNotOvertake(t *testing.T) {
	under := &beating{silent: newSilent()}
	follows := uint64(3)
	k := newTransport(under, "here", func() bool { return false }, func(term uint64) bool { return term == follows }, slog.New(slog.DiscardHandler))
	defer k.close()
	var handled []uint64
	k.SetHeartbeatHandler(func(rpc raft.RPC) { handled = append(handled, rpc.Command.(*raft.AppendEntriesRequest).Term) })
	for _, term := range []uint64{3, 4, 2} {
		under.handle(raft.RPC{Command: &raft.AppendEntriesRequest{Term: term}})
		if term == follows {
			continue
		}
		if got := nextRPC(t, k.Consumer()).Command.(*raft.AppendEntriesRequest).Term; got != term {
			t.Errorf("raft's main goroutine got a heartbeat of term %d, want %d", got, term)
		}
	}
	if len(handled) != 1 || handled[0] != follows {
		t.Errorf("heartbeats of terms %v overtook, want that of term %d only", handled, follows)
	}
}
