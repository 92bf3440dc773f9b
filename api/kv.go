package api

import (
	"cmp"
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"limpet/auth"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
)

type kvServer struct {
	pb.UnsafeKVServer
	s *Server
}

// Range implements pb.KVServer.
func (k *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	began := time.Now()
	if !r.Serializable {
		if err := k.s.confirm(ctx); err != nil {
			return nil, wireError(err)
		}
	}
	reading := time.Now()
	resp, err := guarded(ctx, k.s, mayRange(r), func() (*pb.RangeResponse, error) { return k.read(r) })
	if err != nil {
		return nil, wireError(err)
	}
	k.s.sign(resp.Header)
	if m := k.s.cfg.Metrics; m != nil {
		m.Ranges.Inc()
		m.RangeTook.Observe(time.Since(reading).Seconds())
		m.RequestTook.Observe(time.Since(began).Seconds())
	}
	return resp, nil
}

func mayRange(r *pb.RangeRequest) func(*auth.Rules, auth.Caller) error {
	return func(rules *auth.Rules, c auth.Caller) error { return rules.Read(c, r.Key, r.RangeEnd) }
}

// read answers r.
func (k *kvServer) read(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return newest(k.s, func(v sqlstore.View) (*pb.RangeResponse, error) { return txn.Range(v, r) })
}

// newest answers from the newest state. When a compaction passes the view
// while it is read, the reader asked for nothing old and may look again.
func newest[Resp any](s *Server, read func(sqlstore.View) (Resp, error)) (Resp, error) {
	for {
		v := s.cfg.Store.View()
		resp, err := read(v)
		if !errors.Is(err, txn.ErrCompacted) || v.Rev() >= s.cfg.Store.Floor() {
			return resp, err
		}
	}
}

// chunk sizes of RangeStream: the first is small, so that the first bytes leave
// soon; then they grow towards the size of a large request, as in etcd.
const firstChunk = 10

// RangeStream implements pb.KVServer: a range in pieces, never held whole.
func (k *kvServer) RangeStream(r *pb.RangeRequest, out pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	if m := k.s.cfg.Metrics; m != nil {
		m.Ranges.Inc()
	}
	if !r.Serializable {
		if err := k.s.confirm(out.Context()); err != nil {
			return wireError(err)
		}
	}
	_, err := guarded(out.Context(), k.s, mayRange(r), func() (struct{}, error) { return struct{}{}, k.stream(r, out) })
	return wireError(err)
}

func (k *kvServer) stream(r *pb.RangeRequest, out pb.KV_RangeStreamServer) error {
	if r.CountOnly {
		resp, err := k.read(r)
		if err != nil {
			return err
		}
		return out.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: k.s.sign(resp.Header), Count: resp.Count}})
	}
	return k.chunks(r, out)
}

func (k *kvServer) chunks(r *pb.RangeRequest, out pb.KV_RangeStreamServer) error {
	view := k.s.cfg.Store.View()
	header := &pb.ResponseHeader{Revision: view.Rev()}
	at := view
	if r.Revision > 0 {
		var err error
		if at, err = view.Past(r.Revision); err != nil {
			return err
		}
	}
	key := string(r.Key)
	end, single := sqlstore.End(r.Key, r.RangeEnd)
	if single {
		end = key + "\x00"
	}
	left, count := r.Limit, int64(0)
	for chunk := int64(firstChunk); ; {
		n := chunk
		if r.Limit > 0 {
			n = min(n, left)
		}
		resp, next, err := txn.Chunk(at, key, end, int(n), r.KeysOnly)
		if err != nil {
			return err
		}
		count += int64(len(resp.Kvs))
		left -= int64(len(resp.Kvs))
		if next == "" || r.Limit > 0 && left == 0 {
			resp.Header, resp.More, resp.Count = k.s.sign(header), next != "", count
			if next != "" {
				rest, err := at.Range(next, end, sqlstore.RangeOptions{CountOnly: true})
				if err != nil {
					return err
				}
				resp.Count += int64(rest.Count)
			}
			return out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
		}
		size := proto.Size(resp)
		if err := out.Send(&pb.RangeStreamResponse{RangeResponse: resp}); err != nil {
			return err
		}
		key = next
		switch {
		case size < k.s.cfg.MaxRequestBytes/2:
			chunk *= 2
		case size > k.s.cfg.MaxRequestBytes*2:
			chunk = max(chunk/2, 1)
		}
	}
}

// Put implements pb.KVServer.
func (k *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := write[*pb.PutResponse](ctx, k.s, r)
	if err != nil {
		return nil, err
	}
	k.s.fill(resp.Header)
	return resp, nil
}

// DeleteRange implements pb.KVServer.
func (k *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDeleteRange(r); err != nil {
		return nil, err
	}
	resp, err := write[*pb.DeleteRangeResponse](ctx, k.s, r)
	if err != nil {
		return nil, err
	}
	k.s.fill(resp.Header)
	return resp, nil
}

// Txn implements pb.KVServer. A transaction that only reads is answered
// without the log.
func (k *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, k.s.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	if !txn.ReadOnly(r) {
		resp, err := write[*pb.TxnResponse](ctx, k.s, r)
		if err != nil {
			return nil, err
		}
		k.s.fill(resp.Header)
		return resp, nil
	}
	began := time.Now()
	if !txn.Serializable(r) {
		if err := k.s.confirm(ctx); err != nil {
			return nil, wireError(err)
		}
	}
	may := func(rules *auth.Rules, c auth.Caller) error { return rules.Txn(c, r, nil) } // no put, no lease
	resp, err := guarded(ctx, k.s, may, func() (*pb.TxnResponse, error) {
		return newest(k.s, func(v sqlstore.View) (*pb.TxnResponse, error) { return txn.ReadTxn(v, r) })
	})
	if err != nil {
		return nil, wireError(err)
	}
	k.s.sign(resp.Header)
	if m := k.s.cfg.Metrics; m != nil {
		m.ReadTxnTook.Observe(time.Since(began).Seconds())
	}
	return resp, nil
}

// Compact implements pb.KVServer.
func (k *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if err := k.s.admin(ctx); err != nil {
		return nil, err
	}
	resp, err := write[*pb.CompactionResponse](ctx, k.s, r)
	if err != nil {
		return nil, err
	}
	if r.Physical {
		if err := k.s.cfg.Store.WaitCompacted(ctx, r.Revision); err != nil {
			return nil, wireError(err)
		}
	}
	k.s.fill(resp.Header)
	return resp, nil
}

// write proposes cmd as the caller's, if the quota admits it.
func write[Resp any](ctx context.Context, s *Server, cmd txn.Command) (Resp, error) {
	c, err := s.mayPropose(ctx, cmd)
	if err == nil {
		err = s.CheckQuota(ctx, cmd)
	}
	if err != nil {
		var none Resp
		return none, wireError(err)
	}
	if c != (auth.Caller{}) {
		cmd = &txn.As{Caller: c, Command: cmd}
	}
	return propose[Resp](ctx, s, cmd)
}

// mayPropose finds out who asks, and refuses at once what the caller may not do:
// what is refused anyway shall not wear out the disks. What counts is whether the
// caller may when cmd is applied.
func (s *Server) mayPropose(ctx context.Context, cmd txn.Command) (auth.Caller, error) {
	for fresh := false; ; fresh = true {
		c, err := s.caller(ctx)
		if err != nil {
			return c, err
		}
		denied := txn.Permit(s.rules(), c, cmd, s.cfg.Store)
		switch {
		case denied == nil:
			return c, nil
		case fresh:
			return c, cmp.Or(s.toldBefore(cmd), denied)
		}
		// This member may not have heard of a change of the rules.
		if err := s.confirm(ctx); err != nil {
			return c, err
		}
	}
}

// toldBefore is what etcd tells before that the caller may not do cmd.
func (s *Server) toldBefore(cmd txn.Command) error {
	if m, ok := cmd.(proto.Message); ok && proto.Size(m)+raftfsm.WireOverhead > s.cfg.MaxRequestBytes {
		return raftfsm.ErrTooLarge
	}
	if s.overQuota(cmd) {
		return txn.ErrNoSpace
	}
	return txn.Admit(s.cfg.Node.Alarms(), cmd)
}

// propose has cmd agreed on and translates the error.
func propose[Resp any](ctx context.Context, s *Server, cmd txn.Command) (Resp, error) {
	var none Resp
	resp, err := s.cfg.Node.Propose(ctx, cmd)
	if err != nil {
		err = wireError(err)
		if code := status.Code(err); s.cfg.Metrics != nil && (code == codes.Unavailable || code == codes.DeadlineExceeded) {
			s.cfg.Metrics.Failed.Inc()
		}
		return none, err
	}
	return resp.(Resp), nil
}

// overQuota reports whether cmd would outgrow the quota.
func (s *Server) overQuota(cmd txn.Command) bool {
	if s.cfg.QuotaBytes < 0 {
		return false
	}
	cost := int64(txn.Cost(cmd))
	return cost > 0 && s.cfg.Store.Stats().Size+cost >= s.cfg.QuotaBytes
}

// CheckQuota refuses what would outgrow the quota and raises the alarm that
// makes every member refuse from then on.
func (s *Server) CheckQuota(ctx context.Context, cmd txn.Command) error {
	if !s.overQuota(cmd) {
		return nil
	}
	_, err := s.cfg.Node.Propose(ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: s.cfg.MemberID, Alarm: pb.AlarmType_NOSPACE,
	})
	return cmp.Or(err, txn.ErrNoSpace)
}
