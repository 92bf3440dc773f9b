package api

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/api/recipepb"
)

// errSessionExpired: the lease of who waited for a lock ended meanwhile.
var errSessionExpired = status.Error(codes.Unknown, "mutex: session is expired")

type lockServer struct {
	recipepb.UnsafeLockServer
	line line
}

// Lock implements recipepb.LockServer: it answers when the caller has the lock.
func (l *lockServer) Lock(ctx context.Context, r *recipepb.LockRequest) (*recipepb.LockResponse, error) {
	p, err := l.line.take(ctx, r.Name, r.Lease, nil)
	if err != nil {
		return nil, clientError(err)
	}
	if p.first {
		return &recipepb.LockResponse{Header: p.taken, Key: p.key}, nil
	}
	if err := l.line.await(ctx, r.Name, p); err != nil {
		return nil, clientError(err)
	}
	// As in etcd, that the own key is gone is told when its turn would have been.
	own, err := l.line.kv().Range(ctx, &pb.RangeRequest{Key: p.key})
	switch {
	case err != nil:
		l.line.giveUp(ctx, p)
		return nil, clientError(err)
	case len(own.Kvs) == 0:
		return nil, errSessionExpired
	}
	return &recipepb.LockResponse{Header: own.Header, Key: p.key}, nil
}

// Unlock implements recipepb.LockServer.
func (l *lockServer) Unlock(ctx context.Context, r *recipepb.UnlockRequest) (*recipepb.UnlockResponse, error) {
	resp, err := l.line.kv().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.Key})
	if err != nil {
		return nil, clientError(err)
	}
	return &recipepb.UnlockResponse{Header: resp.Header}, nil
}
