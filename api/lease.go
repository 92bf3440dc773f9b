package api

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"limpet/auth"
	"limpet/lease"
	"limpet/raftfsm"
	"limpet/txn"
)

type leaseServer struct {
	pb.UnsafeLeaseServer
	s *Server
}

// LeaseGrant implements pb.LeaseServer. What must not differ between members,
// the id and the effective time, is settled here, before proposing.
func (l *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := l.s.known(ctx); err != nil {
		return nil, err
	}
	grant := &pb.LeaseGrantRequest{ID: r.ID, TTL: max(r.TTL, l.s.minLeaseTTL())}
	for grant.ID == 0 {
		grant.ID = rand.Int64()
	}
	resp, err := write[*pb.LeaseGrantResponse](ctx, l.s, grant)
	if err != nil {
		return nil, err
	}
	l.s.fill(resp.Header)
	return resp, nil
}

// LeaseRevoke implements pb.LeaseServer.
func (l *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := l.s.known(ctx); err != nil {
		return nil, err
	}
	resp, err := write[*pb.LeaseRevokeResponse](ctx, l.s, r)
	if err != nil {
		return nil, err
	}
	l.s.fill(resp.Header)
	return resp, nil
}

// RevokeExpired removes a lease whose time is up; one that is gone already is
// no error. The lease package calls it on the leader.
func (s *Server) RevokeExpired(ctx context.Context, id int64) error {
	// Only as the leader whose clock it was: one that was paused finds deadlines
	// passed that were extended at the next one (etcd#15247).
	root := auth.Caller{User: auth.Root}
	_, err := s.cfg.Node.ProposeAsLeader(ctx, &txn.As{Caller: root, Command: &pb.LeaseRevokeRequest{ID: id}})
	if errors.Is(err, txn.ErrLeaseNotFound) {
		return nil
	}
	if err == nil && s.cfg.Metrics != nil {
		s.cfg.Metrics.LeaseExpired.Inc()
	}
	return err
}

// LeaseKeepAlive implements pb.LeaseServer: one answer for each request, in
// order, until the client closes its side.
func (l *leaseServer) LeaseKeepAlive(g pb.Lease_LeaseKeepAliveServer) error {
	ctx := g.Context()
	done := make(chan error, 1)
	// Owner: this call; ends when the call returns, as Recv and Send then fail.
	go func() { done <- l.keepAlive(g) }()
	select {
	case err := <-done:
		return wireError(err)
	case <-ctx.Done():
		// Without this a client that neither sends nor closes could hold the
		// handler after the server decided to end the stream.
		return wireError(context.Cause(ctx))
	}
}

func (l *leaseServer) keepAlive(g pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// The header before the renewal: a lease revoked at revision 4 must not
		// seem to have been alive at 4.
		resp := &pb.LeaseKeepAliveResponse{ID: r.ID, Header: l.s.fill(&pb.ResponseHeader{})}
		if err := overLease(g.Context(), l.s, r.ID, (*auth.Rules).Lease); err != nil {
			return err
		}
		renewed, err := renew(g.Context(), l.s, r)
		if err != nil {
			return err
		}
		resp.TTL = renewed.TTL
		if err := g.Send(resp); err != nil {
			return err
		}
	}
}

// renew has the leader, who alone knows deadlines, renew a lease.
func renew(ctx context.Context, s *Server, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	if s.cfg.Node.Leading() {
		if resp, err := s.LeadKeepAlive(ctx, r); !errors.Is(err, raftfsm.ErrNotLeader) {
			return resp, err
		}
	}
	return atLeader(ctx, s, "LeaseKeepAlive", r, s.LeadKeepAlive)
}

// LeadKeepAlive renews a lease at the leader. A lease that is gone has TTL 0.
func (s *Server) LeadKeepAlive(ctx context.Context, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	if err := s.cfg.Node.StillLeads(ctx); err != nil {
		return nil, err
	}
	ttl, err := s.cfg.Lease.Renew(r.ID)
	switch {
	case errors.Is(err, lease.ErrNotFound):
		return &pb.LeaseKeepAliveResponse{ID: r.ID}, nil
	case errors.Is(err, lease.ErrNotLeader):
		return nil, raftfsm.ErrNotLeader
	case err != nil:
		return nil, err
	case s.cfg.Metrics != nil:
		s.cfg.Metrics.LeaseRenewed.Inc()
	}
	return &pb.LeaseKeepAliveResponse{ID: r.ID, TTL: ttl}, nil
}

// LeadTimeToLive tells of a lease at the leader. An unknown one has TTL -1.
func (s *Server) LeadTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp := &pb.LeaseTimeToLiveResponse{ID: r.ID}
	remaining, granted, err := s.cfg.Lease.TimeToLive(r.ID)
	switch {
	case errors.Is(err, lease.ErrNotFound):
		resp.TTL = -1
		return resp, nil
	case errors.Is(err, lease.ErrNotLeader):
		return nil, raftfsm.ErrNotLeader
	case err != nil:
		return nil, err
	}
	resp.TTL, resp.GrantedTTL = remaining, granted
	return resp, nil
}

// LeaseTimeToLive implements pb.LeaseServer. An unknown lease is no error: its
// TTL is -1.
func (l *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	may := l.s.known
	if r.Keys {
		may = func(ctx context.Context) error { return overLease(ctx, l.s, r.ID, (*auth.Rules).ReadLease) }
	}
	if err := may(ctx); err != nil {
		return nil, err
	}
	if err := l.s.confirm(ctx); errors.Is(err, errTimeout) && l.s.cfg.Node.Leader() == 0 {
		return nil, rpctypes.ErrGRPCNoLeader
	} else if err != nil {
		return nil, wireError(err)
	}
	resp, err := atLeader(ctx, l.s, "LeaseTimeToLive", r, l.s.LeadTimeToLive)
	if err != nil {
		return nil, wireError(err)
	}
	resp.Header = l.s.fill(&pb.ResponseHeader{})
	if r.Keys && resp.TTL >= 0 {
		keys := l.s.cfg.Store.LeaseKeys(r.ID)
		slices.Sort(keys)
		for _, k := range keys {
			resp.Keys = append(resp.Keys, []byte(k))
		}
		if err := may(ctx); err != nil { // a key may have come
			return nil, err
		}
	}
	return resp, nil
}

// LeaseLeases implements pb.LeaseServer. As in etcd it is local, and works
// without a leader.
func (l *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := l.s.known(ctx); err != nil {
		return nil, err
	}
	resp := &pb.LeaseLeasesResponse{Header: l.s.fill(&pb.ResponseHeader{})}
	for _, id := range l.s.cfg.Lease.Leases() {
		if err := overLease(ctx, l.s, id, (*auth.Rules).ReadLease); err != nil {
			return nil, err
		}
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}
