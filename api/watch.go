package api

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

type watchServer struct {
	pb.UnsafeWatchServer
	s *Server
}

// errNegativeStart is what etcd answers to a watch from a negative revision.
var errNegativeStart = errors.New("etcdserver: mvcc: required revision has been compacted")

// Watch implements pb.WatchServer. The handler's goroutine sends; another
// receives. The client closing its side does not end the stream.
func (ws *watchServer) Watch(g pb.Watch_WatchServer) error {
	stream := ws.s.cfg.Hub.NewStream()
	defer stream.Close()
	ctx, cancel := context.WithCancelCause(g.Context())
	defer cancel(nil)
	// Owner: this call; ends when the call returns, as Recv then fails.
	go func() {
		if err := ws.receive(ctx, g, stream); err != nil {
			cancel(err)
		}
	}()
	err := ws.send(ctx, g, stream)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return wireError(err)
}

func (ws *watchServer) receive(ctx context.Context, g pb.Watch_WatchServer, stream *watch.Stream) error {
	for {
		req, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			err = ws.create(ctx, r.CreateRequest, stream)
		case *pb.WatchRequest_CancelRequest:
			err = stream.Cancel(ctx, r.CancelRequest.GetWatchId())
		case *pb.WatchRequest_ProgressRequest:
			stream.RequestProgress()
		}
		if err != nil {
			return err
		}
	}
}

func (ws *watchServer) create(ctx context.Context, r *pb.WatchCreateRequest, stream *watch.Stream) error {
	if r == nil {
		return nil
	}
	if r.StartRevision < 0 {
		return stream.Reject(ctx, errNegativeStart)
	}
	key := r.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	if err := ws.permitted(ctx, key, r.RangeEnd); err != nil {
		return stream.Reject(ctx, err)
	}
	end, single := sqlstore.End(key, r.RangeEnd)
	req := watch.Request{
		ID:    r.WatchId,
		Span:  sqlstore.Span{Key: string(key), End: end, Single: single},
		Start: r.StartRevision, PrevKV: r.PrevKv, Progress: r.ProgressNotify, Fragment: r.Fragment,
	}
	for _, f := range r.Filters {
		req.NoPut = req.NoPut || f == pb.WatchCreateRequest_NOPUT
		req.NoDelete = req.NoDelete || f == pb.WatchCreateRequest_NODELETE
	}
	return stream.Watch(ctx, req)
}

// permitted returns an error, in the words that a client gets, unless the caller
// may read what it wants to watch. It is asked once: as in etcd, a watch that runs
// goes on whatever becomes of its user.
func (ws *watchServer) permitted(ctx context.Context, key, end []byte) error {
	c, err := ws.s.caller(ctx)
	if err == nil {
		err = ws.s.rules().Read(c, key, end)
	}
	return wireError(err)
}

func (ws *watchServer) send(ctx context.Context, g pb.Watch_WatchServer, stream *watch.Stream) error {
	// Jitter keeps streams that began together from asking together.
	every := ws.s.cfg.ProgressEvery
	ticker := time.NewTicker(every + rand.N(every/10+1))
	defer ticker.Stop()
	for {
		r, err := stream.Next(ctx, ticker.C)
		if err != nil {
			return err
		}
		if err := ws.sendOne(g, &r); err != nil {
			return err
		}
	}
}

func (ws *watchServer) sendOne(g pb.Watch_WatchServer, r *watch.Response) error {
	out := &pb.WatchResponse{
		Header:  ws.s.sign(&pb.ResponseHeader{Revision: r.Rev}),
		WatchId: r.ID, Created: r.Created, Canceled: r.Canceled, CompactRevision: max(r.Floor, 0),
		Events: events(r.Events),
	}
	switch {
	case errors.Is(r.Err, watch.ErrDuplicateID):
		out.CancelReason = "mvcc: duplicate watch ID provided on the WatchStream"
	case errors.Is(r.Err, watch.ErrEmptySpan):
		out.CancelReason = "mvcc: watcher range is empty"
	case r.Err != nil:
		out.CancelReason = r.Err.Error()
	}
	if r.Fragment && len(out.Events) > 1 {
		return ws.sendFragments(g, out)
	}
	return g.Send(out)
}

// sendFragments cuts a response that is larger than a request may be, between
// events; all parts but the last say that more is coming.
func (ws *watchServer) sendFragments(g pb.Watch_WatchServer, out *pb.WatchResponse) error {
	limit := ws.s.cfg.MaxRequestBytes + grpcOverhead
	if proto.Size(out) < limit {
		return g.Send(out)
	}
	rest := out.Events
	for len(rest) > 0 {
		part := &pb.WatchResponse{Header: out.Header, WatchId: out.WatchId, Fragment: true}
		size := proto.Size(part)
		n := 0
		for n < len(rest) {
			size += proto.Size(rest[n]) + 8
			if n > 0 && size >= limit {
				break
			}
			n++
		}
		part.Events, rest = rest[:n], rest[n:]
		part.Fragment = len(rest) > 0
		if err := g.Send(part); err != nil {
			return err
		}
	}
	return nil
}

func events(in []watch.Event) []*mvccpb.Event {
	out := make([]*mvccpb.Event, len(in))
	for i, e := range in {
		ev := &mvccpb.Event{}
		if e.Row.Tombstone() {
			ev.Type = mvccpb.Event_DELETE
			ev.Kv = &mvccpb.KeyValue{Key: e.Row.KeyBytes(), ModRevision: e.Row.ID.Rev()}
		} else {
			ev.Kv = txn.KeyValue(e.Row)
		}
		if e.Prev != nil {
			ev.PrevKv = txn.KeyValue(e.Prev)
		}
		out[i] = ev
	}
	return out
}
