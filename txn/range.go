package txn

import (
	"bytes"
	"errors"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"limpet/sqlstore"
)

// Range answers a range request from view, which is the state to be read when
// the request names no revision; the header's revision is view's also when an
// older one is read. Errors: ErrCompacted, ErrFutureRev, or the disk's.
func Range(view sqlstore.View, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	at, err := pin(view, r.Revision)
	if err != nil {
		return nil, err
	}
	key := string(r.Key)
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: view.Rev()}}
	end, single := sqlstore.End(r.Key, r.RangeEnd)
	var rows []*sqlstore.Row
	if single {
		rows, err = get(at, key, r)
		resp.Count = int64(len(rows))
		if r.CountOnly {
			rows = nil
		}
	} else {
		var res sqlstore.Range
		res, err = at.Range(key, end, sqlstore.RangeOptions{
			Limit:     rangeLimit(r),
			KeysOnly:  r.KeysOnly && r.SortTarget != pb.RangeRequest_VALUE,
			CountOnly: r.CountOnly,
		})
		rows, resp.Count = res.Rows, int64(res.Count)
	}
	if err != nil {
		return nil, readError(err)
	}
	if HasRevisionFilters(r) {
		rows = filter(rows, r)
	}
	order(rows, r)
	if r.Limit > 0 && int64(len(rows)) > r.Limit {
		rows, resp.More = rows[:r.Limit], true
	}
	resp.Kvs = keyValues(rows, r.KeysOnly, r.SortTarget != pb.RangeRequest_VALUE)
	return resp, nil
}

func get(at sqlstore.View, key string, r *pb.RangeRequest) ([]*sqlstore.Row, error) {
	read := at.Get
	if r.CountOnly || (r.KeysOnly && r.SortTarget != pb.RangeRequest_VALUE) {
		read = at.Meta
	}
	row, err := read(key)
	if row == nil || err != nil {
		return nil, err
	}
	return []*sqlstore.Row{row}, nil
}

// pin resolves a request's revision: none, or a negative one, is view itself.
func pin(view sqlstore.View, rev int64) (sqlstore.View, error) {
	if rev <= 0 {
		return view, nil
	}
	if rev > view.Rev() {
		return view, ErrFutureRev
	}
	at, err := view.Past(rev)
	return at, readError(err)
}

func readError(err error) error {
	switch {
	case errors.Is(err, sqlstore.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, sqlstore.ErrFuture):
		return ErrFutureRev
	}
	return err
}

// rangeLimit is how many rows must be read: one beyond the limit tells whether
// there are more; a sort or a filter needs them all (etcd rangeLimit).
func rangeLimit(r *pb.RangeRequest) int {
	if r.Limit <= 0 || !DefaultOrder(r) || HasRevisionFilters(r) {
		return 0
	}
	const most = int64(1) << 62
	return int(min(r.Limit, most)) + 1
}

// DefaultOrder reports whether the rows are wanted as they come, in key order.
// An order of NONE counts as default whatever the target, as in etcd, although
// the rows are then sorted after they were cut.
func DefaultOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE ||
		(r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND)
}

// HasRevisionFilters reports whether any of the four revision bounds is set.
func HasRevisionFilters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func filter(rows []*sqlstore.Row, r *pb.RangeRequest) []*sqlstore.Row {
	kept := rows[:0]
	for _, row := range rows {
		mod := row.ID.Rev()
		if r.MaxModRevision != 0 && mod > r.MaxModRevision ||
			r.MinModRevision != 0 && mod < r.MinModRevision ||
			r.MaxCreateRevision != 0 && row.Create > r.MaxCreateRevision ||
			r.MinCreateRevision != 0 && row.Create < r.MinCreateRevision {
			continue
		}
		kept = append(kept, row)
	}
	return kept
}

// order sorts as etcd does, down to the order of equals: the same algorithm
// (sort.Sort, not stable) over the same input and comparison.
func order(rows []*sqlstore.Row, r *pb.RangeRequest) {
	o := r.SortOrder
	if r.SortTarget != pb.RangeRequest_KEY && o == pb.RangeRequest_NONE {
		o = pb.RangeRequest_ASCEND
	}
	if o == pb.RangeRequest_NONE || (o == pb.RangeRequest_ASCEND && r.SortTarget == pb.RangeRequest_KEY) {
		return
	}
	var s sort.Interface = byTarget{rows, lessBy(r.SortTarget)}
	if o == pb.RangeRequest_DESCEND {
		s = sort.Reverse(s)
	}
	sort.Sort(s)
}

func lessBy(target pb.RangeRequest_SortTarget) func(a, b *sqlstore.Row) bool {
	switch target {
	case pb.RangeRequest_VERSION:
		return func(a, b *sqlstore.Row) bool { return a.Version < b.Version }
	case pb.RangeRequest_CREATE:
		return func(a, b *sqlstore.Row) bool { return a.Create < b.Create }
	case pb.RangeRequest_MOD:
		return func(a, b *sqlstore.Row) bool { return a.ID.Rev() < b.ID.Rev() }
	case pb.RangeRequest_VALUE:
		return func(a, b *sqlstore.Row) bool { return bytes.Compare(a.Value, b.Value) < 0 }
	default:
		return func(a, b *sqlstore.Row) bool { return a.Key < b.Key }
	}
}

type byTarget struct {
	rows []*sqlstore.Row
	less func(a, b *sqlstore.Row) bool
}

func (s byTarget) Len() int           { return len(s.rows) }
func (s byTarget) Less(i, j int) bool { return s.less(s.rows[i], s.rows[j]) }
func (s byTarget) Swap(i, j int)      { s.rows[i], s.rows[j] = s.rows[j], s.rows[i] }

// KeyValue is the wire form of a row.
func KeyValue(row *sqlstore.Row) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: row.KeyBytes(), CreateRevision: row.Create, ModRevision: row.ID.Rev(),
		Version: row.Version, Value: row.Value, Lease: row.Lease,
	}
}

// keyValues converts rows. A keys-only answer has no values, and since etcd
// 3.7 no lease either unless it was sorted by value.
func keyValues(rows []*sqlstore.Row, keysOnly, noLease bool) []*mvccpb.KeyValue {
	kvs := make([]*mvccpb.KeyValue, len(rows))
	block := make([]mvccpb.KeyValue, len(rows)) // one allocation for all
	for i, row := range rows {
		kv := &block[i]
		kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version = row.KeyBytes(), row.Create, row.ID.Rev(), row.Version
		if !keysOnly {
			kv.Value = row.Value
		}
		if !keysOnly || !noLease {
			kv.Lease = row.Lease
		}
		kvs[i] = kv
	}
	return kvs
}

// Chunk reads up to limit keys of [key, end) from at, in key order, without
// counting the rest; next is where the next chunk begins, "" at the end. An
// empty end means all keys from key on.
func Chunk(at sqlstore.View, key, end string, limit int, keysOnly bool) (resp *pb.RangeResponse, next string, err error) {
	res, err := at.Range(key, end, sqlstore.RangeOptions{Limit: limit + 1, KeysOnly: keysOnly, NoCount: true})
	if err != nil {
		return nil, "", readError(err)
	}
	rows := res.Rows
	if len(rows) > limit {
		next, rows = rows[limit].Key, rows[:limit]
	}
	return &pb.RangeResponse{Kvs: keyValues(rows, keysOnly, true)}, next, nil
}
