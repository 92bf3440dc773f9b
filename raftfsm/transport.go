package raftfsm

import (
	"errors"

	"github.com/hashicorp/raft"
)

// kickable wraps a transport so that this member can tell itself to stand for
// election now. A sole voter need not wait a second for heartbeats of a leader
// that cannot exist.
type kickable struct {
	raft.Transport
	rpcs chan raft.RPC
	quit chan struct{}
}

func newKickable(t raft.Transport) *kickable {
	k := &kickable{Transport: t, rpcs: make(chan raft.RPC, 1), quit: make(chan struct{})}
	// Owner: Node; ends when close closes quit.
	go func() {
		for {
			select {
			case rpc := <-t.Consumer():
				select {
				case k.rpcs <- rpc:
				case <-k.quit:
					return
				}
			case <-k.quit:
				return
			}
		}
	}()
	return k
}

// RequestPreVote implements raft.WithPreVote.
func (k *kickable) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	t, ok := k.Transport.(raft.WithPreVote)
	if !ok {
		return errors.New("raftfsm: the transport knows no pre-vote")
	}
	return t.RequestPreVote(id, addr, req, resp)
}

// Consumer implements raft.Transport.
func (k *kickable) Consumer() <-chan raft.RPC { return k.rpcs }

// kick makes raft a candidate, as a leader does that hands over.
func (k *kickable) kick(id raft.ServerID) {
	rpc := raft.RPC{
		Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(k.LocalAddr()),
		}},
		RespChan: make(chan raft.RPCResponse, 1),
	}
	select {
	case k.rpcs <- rpc:
	case <-k.quit:
	}
}

func (k *kickable) close() { close(k.quit) }
