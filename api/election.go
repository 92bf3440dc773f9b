package api

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/api/recipepb"
	"limpet/sqlstore"
)

// etcd sends these as plain errors, so they travel as Unknown.
var (
	errNoElected   = status.Error(codes.Unknown, "election: no leader")
	errNotElected  = status.Error(codes.Unknown, "election: not leader")
	errNoLeaderKey = status.Error(codes.Unknown, `"leader" field must be provided`)
)

type electionServer struct {
	recipepb.UnsafeElectionServer
	line line
}

// Campaign implements recipepb.ElectionServer: it answers when the caller is the
// leader. As in etcd, a caller whose lease ends meanwhile is not told: it has to
// keep its lease in any case, and finds out there.
func (e *electionServer) Campaign(ctx context.Context, r *recipepb.CampaignRequest) (*recipepb.CampaignResponse, error) {
	p, err := e.line.take(ctx, r.Name, r.Lease, r.Value)
	if err != nil {
		return nil, clientError(err)
	}
	leader := &recipepb.LeaderKey{Name: r.Name, Key: p.key, Rev: p.rev, Lease: p.lease}
	if !bytes.Equal(p.value, r.Value) {
		if _, err := e.proclaim(ctx, leader, r.Value); err != nil {
			e.line.giveUp(ctx, p)
			return nil, clientError(err)
		}
	}
	if err := e.line.await(ctx, r.Name, p); err != nil {
		return nil, clientError(err)
	}
	return &recipepb.CampaignResponse{Header: p.taken, Leader: leader}, nil
}

// Proclaim implements recipepb.ElectionServer.
func (e *electionServer) Proclaim(ctx context.Context, r *recipepb.ProclaimRequest) (*recipepb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderKey
	}
	header, err := e.proclaim(ctx, r.Leader, r.Value)
	if err != nil {
		return nil, clientError(err)
	}
	return &recipepb.ProclaimResponse{Header: header}, nil
}

func (e *electionServer) proclaim(ctx context.Context, leader *recipepb.LeaderKey, value []byte) (*pb.ResponseHeader, error) {
	leaseID, err := e.line.lease(ctx, leader.Lease)
	if err != nil {
		return nil, err
	}
	resp, err := e.line.kv().Txn(ctx, &pb.TxnRequest{
		Compare: createdAt(leader.Key, leader.Rev),
		Success: []*pb.RequestOp{putOp(leader.Key, value, leaseID)},
	})
	switch {
	case err != nil:
		return nil, err
	case !resp.Succeeded:
		return nil, errNotElected
	}
	return resp.Header, nil
}

// Leader implements recipepb.ElectionServer.
func (e *electionServer) Leader(ctx context.Context, r *recipepb.LeaderRequest) (*recipepb.LeaderResponse, error) {
	resp, err := e.line.kv().Range(ctx, oldest(r.Name))
	switch {
	case err != nil:
		return nil, clientError(err)
	case len(resp.Kvs) == 0:
		return nil, errNoElected
	}
	return &recipepb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
}

// Observe implements recipepb.ElectionServer: the leader, and each change of who
// that is or what it has to say, until the caller goes away. Leaders that came and
// went while one was looked for may be left out. As in etcd, the stream ends
// without a reason if the leader cannot be found out, or the caller may not know.
func (e *electionServer) Observe(r *recipepb.LeaderRequest, out recipepb.Election_ObserveServer) error {
	ctx := out.Context()
	tell := func(rev int64, ev *mvccpb.Event) (gone bool, err error) {
		if ev.Type == mvccpb.Event_DELETE {
			return true, nil
		}
		header := e.line.s.sign(&pb.ResponseHeader{Revision: rev})
		return false, out.Send(&recipepb.LeaderResponse{Header: header, Kv: ev.Kv})
	}
	for {
		leader, err := e.await(ctx, r.Name)
		if err != nil {
			return clientError(context.Cause(ctx))
		}
		if leader == nil {
			continue
		}
		if err := out.Send(leader); err != nil {
			return err
		}
		if err := e.line.watch(ctx, one(leader.Kv.Key), leader.Header.Revision+1, tell); err != nil {
			return clientError(context.Cause(ctx))
		}
	}
}

// await waits until there is a leader, and tells who it is; nil: look again.
func (e *electionServer) await(ctx context.Context, name []byte) (*recipepb.LeaderResponse, error) {
	resp, err := e.line.kv().Range(ctx, oldest(name))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) > 0 {
		return &recipepb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
	}
	var leader *recipepb.LeaderResponse
	first, end := places(name)
	span := sqlstore.Span{Key: string(first), End: string(end)}
	err = e.line.watch(ctx, span, resp.Header.Revision+1, func(_ int64, ev *mvccpb.Event) (bool, error) {
		if ev.Type == mvccpb.Event_DELETE {
			return false, nil
		}
		// What the leader proclaimed since is told next.
		leader = &recipepb.LeaderResponse{Header: e.line.s.sign(&pb.ResponseHeader{Revision: ev.Kv.ModRevision}), Kv: ev.Kv}
		return true, nil
	})
	return leader, err
}

// Resign implements recipepb.ElectionServer. Who is not the leader any more is not
// told so.
func (e *electionServer) Resign(ctx context.Context, r *recipepb.ResignRequest) (*recipepb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderKey
	}
	resp, err := e.line.kv().Txn(ctx, (&place{key: r.Leader.Key, rev: r.Leader.Rev}).leaving())
	if err != nil {
		return nil, clientError(err)
	}
	return &recipepb.ResignResponse{Header: resp.Header}, nil
}
