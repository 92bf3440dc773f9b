package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

type joinRequest struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	Format     int      `json:"format"` // newest format of log entries that it reads; 0: 1
	// Follows: its peer URLs are where gossip finds it now, and nobody gave them.
	Follows bool `json:"follows,omitempty"`
}

type joinReply struct {
	Cluster uint64 `json:"cluster"`
	ID      uint64 `json:"id"`   // maybe another than asked for: that of a member added by an operator
	Name    string `json:"name"` // maybe another: that one was taken
}

// intake is where the leader takes new members in.
type intake struct {
	me    *standing
	line  *line
	joins chan struct{}     // holds one: a new member is being taken in
	given map[uint64]string // names that were promised to new members, by ID; of the holder of joins

	mu   sync.Mutex        // guards away
	away map[uint64]string // why new members were last turned away, by ID
}

// serveJoin takes in a new member, here if this member leads, else at the
// leader.
func (i *intake) serveJoin(ctx context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	n := i.me.node.Load()
	if n == nil {
		return nil, status.Error(codes.Unavailable, "limpet: this member is in no cluster yet")
	}
	if !n.Leading() {
		if who, _ := peer.From(ctx); who.Purpose == peer.Call {
			return nil, toWire(raftfsm.ErrNotLeader)
		}
		resp := new(wrapperspb.BytesValue)
		if err := i.line.callLeader(ctx, "Join", r, resp); err != nil {
			return nil, status.Errorf(codes.Unavailable, "%s", plain(toWire(err)))
		}
		return resp, nil
	}
	req := new(joinRequest)
	if err := json.Unmarshal(r.Value, req); err != nil || req.ID == 0 {
		return nil, status.Error(codes.InvalidArgument, "limpet: a request to join without a member")
	}
	reply, err := i.takeIn(ctx, n, req)
	if err != nil {
		i.turnAway(req, plain(err))
		return nil, status.Errorf(codes.FailedPrecondition, "%s", plain(err))
	}
	return answer(reply)
}

// awayKept bounds what those who were turned away can make us remember.
const awayKept = 256

// turnAway logs why a member was not taken in, once: it will ask again and
// again.
func (i *intake) turnAway(req *joinRequest, why string) {
	i.mu.Lock()
	said := i.away[req.ID] == why
	if len(i.away) >= awayKept {
		clear(i.away)
	}
	i.away[req.ID] = why
	i.mu.Unlock()
	if !said {
		i.me.log.Warn("a member was not taken in", "member", fmt.Sprintf("%x", req.ID), "name", req.Name, "reason", why)
	}
}

// takeIn finds or makes a place for a new member; for one at a time, so that
// no two get the same.
func (i *intake) takeIn(ctx context.Context, n *raftfsm.Node, req *joinRequest) (*joinReply, error) {
	select {
	case i.joins <- struct{}{}:
		defer func() { <-i.joins }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ms := n.Membership()
	if ms.Cluster == 0 {
		return nil, errors.New("limpet: the cluster is being founded")
	}
	if used := ms.Format(); max(req.Format, 1) < used {
		return nil, fmt.Errorf("limpet: the log of this cluster has format %d, member %s reads format %d: upgrade limpet there", used, req.Name, max(req.Format, 1))
	}
	maps.DeleteFunc(i.given, func(id uint64, _ string) bool { return ms.Member(id) == nil })
	reply := &joinReply{Cluster: ms.Cluster, ID: req.ID, Name: cmp.Or(i.given[req.ID], req.Name)}
	if ms.Member(req.ID) != nil {
		return reply, nil // it was taken in, and did not hear of it
	}
	add, err := i.place(ctx, n, ms, req, reply)
	if add == nil || err != nil {
		return reply, err
	}
	if _, err := n.Propose(ctx, &txn.MemberAdd{Member: add}); err != nil {
		return nil, err
	}
	i.given[add.ID] = reply.Name
	i.me.log.Info("a member joins", "member", fmt.Sprintf("%x", add.ID), "name", reply.Name, "replaces", fmt.Sprintf("%x", add.Replaces))
	i.me.Wake()
	return reply, nil
}

// place is the record with which a new member is added, nil if an operator has
// added it; what else it is told goes into reply.
func (i *intake) place(ctx context.Context, n *raftfsm.Node, ms *raftfsm.Membership, req *joinRequest, reply *joinReply) (*txn.Member, error) {
	add := &txn.Member{ID: req.ID, PeerURLs: req.PeerURLs, Learner: true, Auto: true}
	m := byURL(ms, req.PeerURLs)
	if m != nil && m.Started() && req.Follows {
		// DHCP gives the address of a board that is switched off to another one,
		// which is nobody's successor for that. What it reports brings the URL.
		add.PeerURLs, m = nil, nil
	}
	if m != nil {
		if !i.line.away(ctx, m.ID) {
			return nil, fmt.Errorf("limpet: member %x, %s, runs with one of the peer URLs %v", m.ID, m.Name, req.PeerURLs)
		}
		if !m.Started() && !votes(n, m.ID) {
			reply.ID = m.ID
			return nil, nil
		}
		add.Replaces = m.ID
	}
	if !i.me.cfg.AutoAdd && add.Replaces == 0 {
		return nil, fmt.Errorf("limpet: the cluster has no member with the peer URLs %v; add it first: etcdctl member add %s --peer-urls=%s", req.PeerURLs, req.Name, hostURL(req.PeerURLs))
	}
	if m := i.named(ms, req.Name); m != nil && add.Replaces == 0 {
		if !m.Started() || !i.line.away(ctx, m.ID) {
			reply.Name = fmt.Sprintf("%s-%04x", req.Name, uint16(req.ID))
		} else {
			add.Replaces = m.ID
		}
	}
	return add, nil
}

func hostURL(urls []string) string {
	if len(urls) == 0 {
		return ""
	}
	return urls[0]
}

func byURL(ms *raftfsm.Membership, urls []string) *txn.Member {
	for _, m := range ms.Members {
		if slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(m.PeerURLs, u) }) {
			return m
		}
	}
	return nil
}

// named is the member that has the name, or was promised it and has not
// reported itself yet.
func (i *intake) named(ms *raftfsm.Membership, name string) *txn.Member {
	for _, m := range ms.Members {
		if m.Name == name || !m.Started() && i.given[m.ID] == name {
			return m
		}
	}
	return nil
}

// votes reports whether raft counts on a member: one that is lost without ever
// having reported itself may have voted, and its ID must not be used again.
func votes(n *raftfsm.Node, id uint64) bool {
	return slices.ContainsFunc(n.Servers(), func(s raftfsm.Server) bool { return s.ID == id && s.Voter })
}
