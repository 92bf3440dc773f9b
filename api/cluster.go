package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"limpet/raftfsm"
	"limpet/txn"
)

const (
	// healthInterval is how long members must have been connected before the
	// set of voters may change (etcd HealthInterval).
	healthInterval = 5 * time.Second
	// silent is when a member that leads counts another as not active: it hears
	// from it every tenth of an election timeout.
	silent = 3 * time.Second
	// readyShare is how much of the leader's log a learner must have to become a
	// voter (etcd readyPercent).
	readyShare = 0.9
	// askAgain is the pause before the leader is looked for again.
	askAgain = 50 * time.Millisecond
)

// clusterServer answers who is in the cluster, and changes it. Its headers
// carry no revision, as in etcd.
type clusterServer struct {
	pb.UnsafeClusterServer
	s *Server
}

// MemberList implements pb.ClusterServer.
func (c *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := c.s.confirm(ctx); err != nil {
			return nil, wireError(err)
		}
	}
	if err := c.s.known(ctx); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: c.s.sign(&pb.ResponseHeader{}), Members: wireMembers(c.s.cfg.Node.Membership().Members)}, nil
}

// MemberAdd implements pb.ClusterServer.
func (c *clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if _, err := PeerURLs(r.PeerURLs); err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if err := c.s.admin(ctx); err != nil {
		return nil, err
	}
	return c.s.AddMember(ctx, r)
}

// AddMember is MemberAdd for a caller who is known to be allowed to.
func (s *Server) AddMember(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := PeerURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if s.cutOff(ctx) {
		return nil, rpctypes.ErrGRPCUnhealthy
	}
	r = &pb.MemberAddRequest{PeerURLs: urls, IsLearner: r.IsLearner}
	return change(ctx, s, "MemberAdd", r, s.LeadMemberAdd)
}

// MemberRemove implements pb.ClusterServer.
func (c *clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := c.s.admin(ctx); err != nil {
		return nil, err
	}
	return c.s.RemoveMember(ctx, r)
}

// RemoveMember is MemberRemove for a caller who is known to be allowed to.
func (s *Server) RemoveMember(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if r.ID == s.cfg.MemberID && s.cutOff(ctx) {
		return nil, rpctypes.ErrGRPCUnhealthy
	}
	gone := s.cfg.Node.Membership().WasRemoved(r.ID)
	resp, err := change(ctx, s, "MemberRemove", r, s.LeadMemberRemove)
	if now := s.cfg.Node.Membership(); err != nil && !gone && now.WasRemoved(r.ID) {
		// A leader that removes itself may be gone before its answer is here.
		return &pb.MemberRemoveResponse{Header: s.sign(&pb.ResponseHeader{}), Members: wireMembers(now.Members)}, nil
	}
	return resp, err
}

// MemberUpdate implements pb.ClusterServer.
func (c *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := c.s.admin(ctx); err != nil {
		return nil, err
	}
	return c.s.UpdateMember(ctx, r)
}

// UpdateMember is MemberUpdate for a caller who is known to be allowed to.
func (s *Server) UpdateMember(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return change(ctx, s, "MemberUpdate", r, s.LeadMemberUpdate)
}

// MemberPromote implements pb.ClusterServer.
func (c *clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := c.s.admin(ctx); err != nil {
		return nil, err
	}
	return change(ctx, c.s, "MemberPromote", r, c.s.LeadMemberPromote)
}

// change has the leader change the members, and returns when this member sees
// the change.
func change[Req proto.Message, Resp any, PResp interface {
	*Resp
	proto.Message
	GetHeader() *pb.ResponseHeader
}](ctx context.Context, s *Server, method string, req Req, local func(context.Context, Req) (PResp, error)) (PResp, error) {
	resp, err := atLeader(ctx, s, method, req, local)
	if errors.Is(err, raftfsm.ErrNoLeader) && method != "MemberPromote" {
		// etcd forwards a promotion alone. Other changes its raft takes up once
		// there is a leader, and this is how that wait ends; there the client's
		// deadline alone bounds it.
		err = raftfsm.ErrUnsent
	}
	if err != nil {
		return nil, wireError(err)
	}
	s.sign(resp.GetHeader())
	if r, ok := any(req).(*pb.MemberRemoveRequest); ok && r.ID == s.cfg.MemberID {
		return resp, nil // nobody tells this member anything any more
	}
	return resp, wireError(s.confirm(ctx)) // whoever was answered sees it here
}

// cutOff reports whether this member has found no leader for a while. Then it
// is not connected to a quorum, which etcd finds at each member by itself.
func (s *Server) cutOff(ctx context.Context) bool {
	if s.cfg.RelaxedReconfig {
		return false
	}
	patience := time.NewTimer(noLeaderPatience * s.cfg.ElectionTimeout)
	defer patience.Stop()
	for s.cfg.Node.Leader() == 0 {
		select {
		case <-ctx.Done():
			return false
		case <-patience.C:
			return true
		case <-time.After(askAgain):
		}
	}
	return false
}

func wireMembers(members []*txn.Member) []*pb.Member {
	out := make([]*pb.Member, len(members))
	for i, m := range members {
		out[i] = &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner}
	}
	return out
}

// PeerURLs checks, cleans and sorts a list as etcd's types.NewURLs does, whose
// errors these are.
func PeerURLs(list []string) ([]string, error) {
	var urls []string
	for _, text := range list {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, text)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("URL must not contain a path: %s", text)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
		}
		urls = append(urls, u.String())
	}
	if len(urls) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	slices.Sort(urls)
	return urls, nil
}

// atLeader does a call here if this member leads, else has the leader do it;
// raftfsm.ErrNoLeader if none is found in time.
func atLeader[Req proto.Message, Resp any, PResp interface {
	*Resp
	proto.Message
}](ctx context.Context, s *Server, method string, req Req, local func(context.Context, Req) (PResp, error)) (PResp, error) {
	tctx, cancel := context.WithTimeout(ctx, s.RequestTimeout())
	defer cancel()
	for {
		resp, err := leadOnce(tctx, s, method, req, local)
		switch {
		case err == nil:
			return resp, nil
		case !errors.Is(err, raftfsm.ErrNoLeader) && !errors.Is(err, raftfsm.ErrNotLeader):
			return nil, s.ownTimeout(ctx, err)
		}
		select {
		case <-tctx.Done():
			return nil, cmp.Or(ctx.Err(), raftfsm.ErrNoLeader)
		case <-time.After(askAgain):
		}
	}
}

func leadOnce[Req proto.Message, Resp any, PResp interface {
	*Resp
	proto.Message
}](ctx context.Context, s *Server, method string, req Req, local func(context.Context, Req) (PResp, error)) (PResp, error) {
	if s.cfg.Node.Leading() {
		return local(ctx, req)
	}
	if s.cfg.Lead == nil {
		return nil, raftfsm.ErrNoLeader
	}
	resp := PResp(new(Resp))
	return resp, s.cfg.Lead(ctx, method, req, resp)
}

// LeadMemberAdd is MemberAdd at the leader.
func (s *Server) LeadMemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if err := s.mayAdd(r.IsLearner); err != nil {
		return nil, err
	}
	m := &txn.Member{PeerURLs: r.PeerURLs, Learner: r.IsLearner}
	for m.ID == 0 {
		m.ID = rand.Uint64()
	}
	all, err := write[txn.Membership](ctx, s, &txn.MemberAdd{Member: m, MaxLearners: s.cfg.MaxLearners})
	if err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{Header: s.sign(&pb.ResponseHeader{}), Member: wireMembers([]*txn.Member{m})[0], Members: wireMembers(all)}, nil
}

// LeadMemberRemove is MemberRemove at the leader.
func (s *Server) LeadMemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.mayRemove(r.ID); err != nil {
		return nil, err
	}
	all, err := write[txn.Membership](ctx, s, &txn.MemberRemove{ID: r.ID})
	if err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: s.sign(&pb.ResponseHeader{}), Members: wireMembers(all)}, nil
}

// LeadMemberUpdate is MemberUpdate at the leader. Unlike etcd, whose members
// panic on them, it refuses URLs that MemberAdd refuses.
func (s *Server) LeadMemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if _, err := PeerURLs(r.PeerURLs); err != nil && s.cfg.Node.Membership().Member(r.ID) != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	all, err := write[txn.Membership](ctx, s, &txn.MemberUpdate{ID: r.ID, PeerURLs: r.PeerURLs})
	if err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: s.sign(&pb.ResponseHeader{}), Members: wireMembers(all)}, nil
}

// LeadMemberPromote is MemberPromote at the leader.
func (s *Server) LeadMemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	resp, err := s.promote(ctx, r)
	if s.cfg.Metrics != nil {
		s.cfg.Metrics.countPromotion(err)
	}
	return resp, err
}

func (s *Server) promote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := s.mayPromote(r.ID); err != nil {
		return nil, err
	}
	all, err := write[txn.Membership](ctx, s, &txn.MemberPromote{ID: r.ID})
	if err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: s.sign(&pb.ResponseHeader{}), Members: wireMembers(all)}, nil
}

// voters counts the voters without except, and those that have started.
func (s *Server) voters(except uint64) (all, started int) {
	for _, m := range s.cfg.Node.Membership().Members {
		if m.Learner || m.ID == except {
			continue
		}
		all++
		if m.Started() {
			started++
		}
	}
	return all, started
}

// connected counts the voters that have been active since then, this member
// among them.
func (s *Server) connected(since time.Time) int {
	n := 1
	progress := s.cfg.Node.Progress()
	for _, m := range s.cfg.Node.Membership().Members {
		i := slices.IndexFunc(progress, func(p raftfsm.Progress) bool { return p.ID == m.ID })
		if !m.Learner && i >= 0 && active(progress[i]) && progress[i].Since.Before(since) {
			n++
		}
	}
	return n
}

func active(p raftfsm.Progress) bool { return !p.Since.IsZero() && p.Silence < silent }

func quorum(n int) int { return n/2 + 1 }

// mayAdd protects the quorum (etcd mayAddMember).
func (s *Server) mayAdd(learner bool) error {
	if s.cfg.RelaxedReconfig {
		return nil
	}
	all, started := s.voters(0)
	if growing := started == 1 && all == 1; !learner && !growing && started < quorum(all+1) {
		return errNotEnoughStarted
	}
	if all > 1 && s.connected(time.Now().Add(-healthInterval)) < quorum(all+1) {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// mayRemove protects the quorum (etcd mayRemoveMember).
func (s *Server) mayRemove(id uint64) error {
	m := s.cfg.Node.Membership().Member(id)
	if s.cfg.RelaxedReconfig || m != nil && m.Learner {
		return nil
	}
	all, started := s.voters(id)
	if started < quorum(all) {
		return errNotEnoughStarted
	}
	if id != s.cfg.MemberID && !slices.ContainsFunc(s.cfg.Node.Progress(), func(p raftfsm.Progress) bool { return p.ID == id && active(p) }) {
		return nil // it is down: not part of the quorum
	}
	if all, _ = s.voters(0); s.connected(time.Now().Add(-healthInterval))-1 < 1+(all-1)/2 {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// mayPromote asks first whether the learner is ready, as etcd does.
func (s *Server) mayPromote(id uint64) error {
	if s.cfg.Node.Membership().Member(id) == nil {
		return rpctypes.ErrGRPCMemberNotFound
	}
	match := uint64(0)
	for _, p := range s.cfg.Node.Progress() {
		if p.ID == id {
			match = p.Match
		}
	}
	last := s.cfg.Node.Status().LastIndex
	if id == s.cfg.MemberID {
		match = last
	}
	if float64(match) < readyShare*float64(last) {
		return rpctypes.ErrGRPCLearnerNotReady
	}
	all, started := s.voters(id)
	if !s.cfg.RelaxedReconfig && started+1 < quorum(all+1) {
		return errNotEnoughStarted
	}
	return nil
}
