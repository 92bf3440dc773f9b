package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
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
}

type joinReply struct {
	Cluster uint64 `json:"cluster"`
	ID      uint64 `json:"id"`   // maybe another than asked for: that of a member added by an operator
	Name    string `json:"name"` // maybe another: that one was taken
}

func (l *Local) askJoin(ctx context.Context, d *Description) (*joinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	h, reply := l.Hello(), new(joinReply)
	err := l.ask(ctx, d.Address, "Join", joinRequest{h.ID, h.Name, l.PeerURLs(), l.clientURLs(), l.cfg.Format}, reply)
	return reply, err
}

// serveJoin takes in a new member, here if this member leads, else at the
// leader.
func (l *Local) serveJoin(ctx context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	n := l.node.Load()
	if n == nil {
		return nil, status.Error(codes.Unavailable, "limpet: this member is in no cluster yet")
	}
	if !n.Leading() {
		if who, _ := peer.From(ctx); who.Purpose == peer.Call {
			return nil, toWire(raftfsm.ErrNotLeader)
		}
		resp := new(wrapperspb.BytesValue)
		if err := l.CallLeader(ctx, "Join", r, resp); err != nil {
			return nil, status.Errorf(codes.Unavailable, "%s", plain(toWire(err)))
		}
		return resp, nil
	}
	req := new(joinRequest)
	if err := json.Unmarshal(r.Value, req); err != nil || req.ID == 0 {
		return nil, status.Error(codes.InvalidArgument, "limpet: a request to join without a member")
	}
	reply, err := l.takeIn(ctx, n, req)
	if err != nil {
		l.turnAway(req, plain(err))
		return nil, status.Errorf(codes.FailedPrecondition, "%s", plain(err))
	}
	return answer(reply)
}

// awayKept bounds what those who were turned away can make us remember.
const awayKept = 256

// turnAway logs why a member was not taken in, once: it will ask again and
// again.
func (l *Local) turnAway(req *joinRequest, why string) {
	l.mu.Lock()
	said := l.away[req.ID] == why
	if len(l.away) >= awayKept {
		clear(l.away)
	}
	l.away[req.ID] = why
	l.mu.Unlock()
	if !said {
		l.log.Warn("a member was not taken in", "member", fmt.Sprintf("%x", req.ID), "name", req.Name, "reason", why)
	}
}

// takeIn finds or makes a place for a new member; for one at a time, so that
// no two get the same.
func (l *Local) takeIn(ctx context.Context, n *raftfsm.Node, req *joinRequest) (*joinReply, error) {
	select {
	case l.joins <- struct{}{}:
		defer func() { <-l.joins }()
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
	maps.DeleteFunc(l.given, func(id uint64, _ string) bool { return ms.Member(id) == nil })
	reply := &joinReply{Cluster: ms.Cluster, ID: req.ID, Name: cmp.Or(l.given[req.ID], req.Name)}
	if ms.Member(req.ID) != nil {
		return reply, nil // it was taken in, and did not hear of it
	}
	add := &txn.Member{ID: req.ID, PeerURLs: req.PeerURLs, Learner: true, Auto: true}
	if m := byURL(ms, req.PeerURLs); m != nil {
		if l.answers(ctx, m.ID) {
			return nil, fmt.Errorf("limpet: member %x, %s, runs with one of the peer URLs %v", m.ID, m.Name, req.PeerURLs)
		}
		if !m.Started() && !votes(n, m.ID) {
			reply.ID = m.ID // an operator has added it
			return reply, nil
		}
		add.Replaces = m.ID
	}
	if !l.cfg.AutoAdd && add.Replaces == 0 {
		return nil, fmt.Errorf("limpet: the cluster has no member with the peer URLs %v; add it first: etcdctl member add %s --peer-urls=%s", req.PeerURLs, req.Name, hostURL(req.PeerURLs))
	}
	if m := l.named(ms, req.Name); m != nil && add.Replaces == 0 {
		if !m.Started() || l.answers(ctx, m.ID) {
			reply.Name = fmt.Sprintf("%s-%04x", req.Name, uint16(req.ID))
		} else {
			add.Replaces = m.ID
		}
	}
	if _, err := n.Propose(ctx, &txn.MemberAdd{Member: add}); err != nil {
		return nil, err
	}
	l.given[add.ID] = reply.Name
	l.log.Info("a member joins", "member", fmt.Sprintf("%x", add.ID), "name", reply.Name, "replaces", fmt.Sprintf("%x", add.Replaces))
	l.Wake()
	return reply, nil
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
func (l *Local) named(ms *raftfsm.Membership, name string) *txn.Member {
	for _, m := range ms.Members {
		if m.Name == name || !m.Started() && l.given[m.ID] == name {
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

// answers reports whether a member runs.
func (l *Local) answers(ctx context.Context, id uint64) bool {
	if id == l.Identity().Member {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return l.port.Invoke(ctx, id, memberPath+"Ping", new(emptypb.Empty), new(emptypb.Empty)) == nil
}
