package api

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/lease"
	"limpet/txn"
)

type leaseServer struct {
	pb.UnsafeLeaseServer
	s *Server
}

// LeaseGrant implements pb.LeaseServer. What must not differ between members,
// the id and the effective time, is settled here, before proposing.
func (l *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
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
	_, err := s.cfg.Node.Propose(ctx, &pb.LeaseRevokeRequest{ID: id})
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
		resp.TTL, err = l.s.cfg.Lease.Renew(r.ID)
		switch {
		case errors.Is(err, lease.ErrNotFound): // TTL 0 says so
		case err != nil:
			return err
		case l.s.cfg.Metrics != nil:
			l.s.cfg.Metrics.LeaseRenewed.Inc()
		}
		if err := g.Send(resp); err != nil {
			return err
		}
	}
}

// LeaseTimeToLive implements pb.LeaseServer. An unknown lease is no error: its
// TTL is -1.
func (l *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := l.s.confirm(ctx); err != nil {
		return nil, wireError(err)
	}
	resp := &pb.LeaseTimeToLiveResponse{Header: l.s.fill(&pb.ResponseHeader{}), ID: r.ID}
	remaining, granted, err := l.s.cfg.Lease.TimeToLive(r.ID)
	switch {
	case errors.Is(err, lease.ErrNotFound):
		resp.TTL = -1
		return resp, nil
	case err != nil:
		return nil, wireError(err)
	}
	resp.TTL, resp.GrantedTTL = remaining, granted
	if r.Keys {
		keys := l.s.cfg.Store.LeaseKeys(r.ID)
		slices.Sort(keys)
		for _, k := range keys {
			resp.Keys = append(resp.Keys, []byte(k))
		}
	}
	return resp, nil
}

// LeaseLeases implements pb.LeaseServer.
func (l *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := l.s.confirm(ctx); err != nil {
		return nil, wireError(err)
	}
	resp := &pb.LeaseLeasesResponse{Header: l.s.fill(&pb.ResponseHeader{})}
	for _, id := range l.s.cfg.Lease.Leases() {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}
