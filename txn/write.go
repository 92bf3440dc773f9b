package txn

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"limpet/sqlstore"
)

// must is for reads on the apply path. The state cannot go on without the
// value, and no other member would miss it: stopping is the only answer that
// keeps members equal.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("txn: the database cannot be read while applying: %v", err))
	}
	return v
}

func (st *State) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := st.checkPut(r); err != nil {
		return nil, err
	}
	return st.doPut(r), nil
}

// checkPut finds what would make a put fail, before anything is changed.
func (st *State) checkPut(r *pb.PutRequest) error {
	if r.Lease != 0 {
		if _, ok := st.leases[r.Lease]; !ok {
			return ErrLeaseNotFound
		}
	}
	if (r.IgnoreValue || r.IgnoreLease) && must(st.kv.View().Meta(string(r.Key))) == nil {
		return ErrKeyNotFound
	}
	return nil
}

func (st *State) doPut(r *pb.PutRequest) *pb.PutResponse {
	key, value, lease := string(r.Key), r.Value, r.Lease
	resp := &pb.PutResponse{}
	st.effects.Ops.Puts++
	st.effects.Ops.PutBytes += int64(len(r.Key) + len(r.Value))
	if r.IgnoreValue || r.IgnoreLease || r.PrevKv {
		st.effects.Ops.Ranges++
	}
	if r.IgnoreValue || r.PrevKv {
		if prev := must(st.kv.View().Get(key)); prev != nil {
			if r.IgnoreValue {
				value = prev.Value
			}
			if r.PrevKv {
				resp.PrevKv = KeyValue(prev)
			}
		}
	}
	if r.IgnoreLease {
		if prev := must(st.kv.View().Meta(key)); prev != nil {
			lease = prev.Lease
		}
	}
	st.kv.Put(key, value, lease)
	resp.Header = st.header()
	return resp
}

func (st *State) deleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if !st.fits(r, 0) {
		return nil, ErrTooManyChanges
	}
	return st.doDelete(r), nil
}

// fits reports whether deleting r's keys stays within what one revision can
// hold, after n other changes.
func (st *State) fits(r *pb.DeleteRangeRequest, n int) bool {
	end, single := sqlstore.End(r.Key, r.RangeEnd)
	if single {
		return true
	}
	view := st.kv.View()
	if view.Store().Stats().Keys+n <= sqlstore.MaxChanges {
		return true
	}
	res := must(view.Range(string(r.Key), end, sqlstore.RangeOptions{CountOnly: true}))
	return res.Count+n <= sqlstore.MaxChanges
}

func (st *State) doDelete(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	st.effects.Ops.Deletes++
	if r.PrevKv {
		st.effects.Ops.Ranges++
	}
	end, single := sqlstore.End(r.Key, r.RangeEnd)
	key := string(r.Key)
	view := st.kv.View()
	switch {
	case single:
		if r.PrevKv {
			if prev := must(view.Get(key)); prev != nil {
				resp.PrevKvs = []*mvccpb.KeyValue{KeyValue(prev)}
			}
		}
		if st.kv.Delete(key) {
			resp.Deleted = 1
		}
	default:
		res := must(view.Range(key, end, sqlstore.RangeOptions{KeysOnly: !r.PrevKv}))
		if r.PrevKv {
			resp.PrevKvs = keyValues(res.Rows, false, false)
		}
		for _, row := range res.Rows {
			st.kv.Delete(row.Key)
		}
		resp.Deleted = int64(len(res.Rows))
	}
	resp.Header = st.header()
	return resp
}
