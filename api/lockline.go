package api

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

// placeTTL is how long, in seconds, the lease of somebody lasts who named none;
// only its owner can keep it alive.
const placeTTL = 60

// line is where callers wait for their turn under a name, as clients do by
// themselves with etcd's package client/v3/concurrency: both kinds can wait under
// one name. A place in it is a key, NAME/LEASE, and the key that was created
// first has its turn until it is gone. All methods may be called concurrently.
//
// Whatever a line does it does with the rights of who calls, by the same services
// that a client would ask.
type line struct{ s *Server }

// place is somebody's in a line.
type place struct {
	key   []byte
	rev   int64 // create revision of key
	lease int64
	value []byte             // what the key holds
	first bool               // nobody was before, when the place was taken
	taken *pb.ResponseHeader // of the transaction that took the place
}

func (l line) kv() *kvServer { return &kvServer{s: l.s} }

// lease is the one that a caller named, or another that is granted for it.
func (l line) lease(ctx context.Context, id int64) (int64, error) {
	if id != 0 {
		return id, nil
	}
	resp, err := (&leaseServer{s: l.s}).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: placeTTL})
	return resp.GetID(), err
}

// take takes a place with value in the key. A lease that has one keeps it, with
// the value it has.
func (l line) take(ctx context.Context, name []byte, leaseID int64, value []byte) (*place, error) {
	leaseID, err := l.lease(ctx, leaseID)
	if err != nil {
		return nil, err
	}
	p := &place{lease: leaseID, key: fmt.Appendf(bytes.Clone(name), "/%x", leaseID), value: value}
	first := rangeOp(oldest(name))
	// Whether it came to something has to be known, also when the caller goes away
	// meanwhile: then the place is given up.
	resp, err := l.kv().Txn(context.WithoutCancel(ctx), &pb.TxnRequest{
		Compare: createdAt(p.key, 0),
		Success: []*pb.RequestOp{putOp(p.key, value, leaseID), first},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: p.key}), first},
	})
	if err != nil {
		return nil, err
	}
	p.taken, p.rev = resp.Header, resp.Header.Revision
	if !resp.Succeeded {
		own := resp.Responses[0].GetResponseRange().Kvs[0]
		p.rev, p.value = own.CreateRevision, own.Value
	}
	p.first = resp.Responses[1].GetResponseRange().Kvs[0].CreateRevision == p.rev
	if p.first && resp.Succeeded && ctx.Err() != nil {
		l.giveUp(ctx, p)
		return nil, context.Cause(ctx)
	}
	return p, nil
}

// await returns when all places before p are gone, whether p still is or not.
// On error p is given up.
func (l line) await(ctx context.Context, name []byte, p *place) error {
	if p.first {
		return nil
	}
	before := oldest(name)
	before.MaxCreateRevision, before.SortOrder = p.rev-1, pb.RangeRequest_DESCEND
	for {
		// The last one before: when it is gone, so that one waiter wakes up for each
		// place that is given up.
		resp, err := l.kv().Range(ctx, before)
		if err == nil && len(resp.Kvs) > 0 {
			err = l.watch(ctx, one(resp.Kvs[0].Key), resp.Header.Revision+1, untilDeleted)
		}
		switch {
		case err != nil:
			l.giveUp(ctx, p)
			return cmp.Or(context.Cause(ctx), err)
		case len(resp.Kvs) == 0:
			return nil
		}
	}
}

func untilDeleted(_ int64, e *mvccpb.Event) (done bool, err error) {
	return e.Type == mvccpb.Event_DELETE, nil
}

// giveUp deletes the key of p, which nobody waits for any more: its caller may be
// gone and its token with it, so the member does what is its own to clean up. If
// that fails, the key goes with its lease.
func (l line) giveUp(ctx context.Context, p *place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.s.RequestTimeout())
	defer cancel()
	root := auth.Caller{User: auth.Root, Revision: math.MaxUint64} // whatever the rules become meanwhile
	if _, err := l.s.cfg.Node.Propose(ctx, &txn.As{Caller: root, Command: p.leaving()}); err != nil {
		l.s.log.Debug("a place in a line was not given up: it lasts as long as its lease", "lease", p.lease, "error", err)
	}
}

// leaving deletes the key, unless another has taken its place since.
func (p *place) leaving() *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: createdAt(p.key, p.rev),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: p.key}}}},
	}
}

// watch calls each with what happens to span from revision start on, and the
// store's revision, until it is done. It returns nil, too, when it cannot tell all
// because of a compaction: whoever waits has to look again.
func (l line) watch(ctx context.Context, span sqlstore.Span, start int64, each func(rev int64, e *mvccpb.Event) (done bool, err error)) error {
	stream := l.s.cfg.Hub.NewStream()
	defer stream.Close()
	if err := stream.Watch(ctx, watch.Request{Span: span, Start: start}); err != nil {
		return err
	}
	for {
		r, err := stream.Next(ctx, nil)
		switch {
		case err != nil:
			return cmp.Or(context.Cause(ctx), err)
		case r.Canceled:
			return nil
		}
		for _, e := range events(r.Events) {
			if done, err := each(r.Rev, e); done || err != nil {
				return err
			}
		}
	}
}

// places is where the places under name are: [first, end).
func places(name []byte) (first, end []byte) {
	return append(bytes.Clone(name), '/'), append(bytes.Clone(name), '/'+1)
}

// oldest asks for the place whose turn it is.
func oldest(name []byte) *pb.RangeRequest {
	first, end := places(name)
	return &pb.RangeRequest{Key: first, RangeEnd: end, Limit: 1, SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND}
}

func one(key []byte) sqlstore.Span { return sqlstore.Span{Key: string(key), Single: true} }

func createdAt(key []byte, rev int64) []*pb.Compare {
	return []*pb.Compare{{Key: key, Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}}
}

func putOp(key, value []byte, leaseID int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: leaseID}}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// clientError is err as etcd's Lock and Election services answer it: they ask by
// way of a client of their own, whose errors have lost their codes.
func clientError(err error) error {
	var known rpctypes.EtcdError
	if errors.Is(err, rpctypes.ErrGRPCStopped) || !errors.As(rpctypes.Error(err), &known) {
		return wireError(err)
	}
	return status.Error(codes.Unknown, known.Error())
}
