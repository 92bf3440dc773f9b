package txn

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/sqlstore"
)

// A transaction runs in three steps, as in etcd (etcdserver/txn.Txn):
//
//  1. All compares, those of nested transactions included, are evaluated
//     against the state before the transaction. That fixes the path: which
//     branch each (nested) transaction takes.
//  2. Every operation on the path is checked. An error here leaves no trace.
//  3. The operations run in order and see each other's changes. Nothing can
//     fail any more.

// path is the branch taken by a transaction and, in order, those of the
// transactions nested on it.
type path struct {
	succeeded bool
	nested    []path
}

func (p path) ops(r *pb.TxnRequest) []*pb.RequestOp {
	if p.succeeded {
		return r.Success
	}
	return r.Failure
}

// ReadOnly reports whether neither branch of r can change anything: all its
// operations are ranges. An r that nests another transaction does not count,
// as in etcd.
func ReadOnly(r *pb.TxnRequest) bool { return all(r, func(*pb.RangeRequest) bool { return true }) }

// Serializable reports whether all operations of r are serializable ranges.
func Serializable(r *pb.TxnRequest) bool { return all(r, (*pb.RangeRequest).GetSerializable) }

func all(r *pb.TxnRequest, ok func(*pb.RangeRequest) bool) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if rr := op.GetRequestRange(); rr == nil || !ok(rr) {
				return false
			}
		}
	}
	return true
}

// ReadTxn answers a transaction that only reads, from view.
func ReadTxn(view sqlstore.View, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	p, err := takePath(view, r)
	if err != nil {
		return nil, readError(err)
	}
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: view.Rev()}, Succeeded: p.succeeded}
	floor := view.Store().Floor()
	for _, op := range p.ops(r) {
		if err := checkRange(op.GetRequestRange(), view.Rev(), floor); err != nil {
			return nil, err
		}
	}
	for _, op := range p.ops(r) {
		rr, err := Range(view, op.GetRequestRange())
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rr}})
	}
	return resp, nil
}

func (st *State) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	p := must(takePath(st.kv.View(), r))
	n := 0
	if err := st.check(r, p, &n); err != nil {
		return nil, err
	}
	resp := st.run(r, p)
	resp.Header = st.header()
	return resp, nil
}

func (st *State) check(r *pb.TxnRequest, p path, changes *int) error {
	nested := p.nested
	for _, op := range p.ops(r) {
		var err error
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = checkRange(o.RequestRange, st.kv.Base(), st.kv.Floor())
		case *pb.RequestOp_RequestPut:
			*changes++
			err = st.checkPut(o.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			if !st.fits(o.RequestDeleteRange, *changes) {
				err = ErrTooManyChanges
			}
		case *pb.RequestOp_RequestTxn:
			err = st.check(o.RequestTxn, nested[0], changes)
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRange refuses revisions that cannot be read, rev being the newest.
// Unlike a range of its own, one within a transaction does not take a negative
// revision for the newest (etcd checkRange).
func checkRange(r *pb.RangeRequest, rev, floor int64) error {
	switch {
	case r.Revision == 0:
		return nil
	case r.Revision > rev:
		return ErrFutureRev
	case r.Revision < floor:
		return ErrCompacted
	}
	return nil
}

func (st *State) run(r *pb.TxnRequest, p path) *pb.TxnResponse {
	ops, nested := p.ops(r), p.nested
	resp := &pb.TxnResponse{Succeeded: p.succeeded, Header: &pb.ResponseHeader{}}
	resp.Responses = make([]*pb.ResponseOp, len(ops))
	for i, op := range ops {
		out := &pb.ResponseOp{}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			st.effects.Ops.Ranges++
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: must(Range(st.kv.View(), o.RequestRange))}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: st.doPut(o.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: st.doDelete(o.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: st.run(o.RequestTxn, nested[0])}
			nested = nested[1:]
		}
		resp.Responses[i] = out
	}
	return resp
}

func takePath(view sqlstore.View, r *pb.TxnRequest) (path, error) {
	p := path{succeeded: true}
	for _, c := range r.Compare {
		ok, err := holds(view, c)
		if err != nil {
			return p, err
		}
		if !ok {
			p.succeeded = false
			break
		}
	}
	for _, op := range p.ops(r) {
		if t := op.GetRequestTxn(); t != nil {
			sub, err := takePath(view, t)
			if err != nil {
				return p, err
			}
			p.nested = append(p.nested, sub)
		}
	}
	return p, nil
}

// holds evaluates one compare. Over a range it must hold for every key; an
// empty range is like one missing key, whose numbers are all 0 and whose value
// compares to nothing: there is no way to say "missing" for a value.
func holds(view sqlstore.View, c *pb.Compare) (bool, error) {
	var rows []*sqlstore.Row
	end, single := sqlstore.End(c.Key, c.RangeEnd)
	if single {
		read := view.Meta
		if c.Target == pb.Compare_VALUE {
			read = view.Get
		}
		row, err := read(string(c.Key))
		if err != nil {
			return false, err
		}
		if row != nil {
			rows = []*sqlstore.Row{row}
		}
	} else {
		res, err := view.Range(string(c.Key), end, sqlstore.RangeOptions{KeysOnly: c.Target != pb.Compare_VALUE})
		if err != nil {
			return false, err
		}
		rows = res.Rows
	}
	if len(rows) == 0 {
		return c.Target != pb.Compare_VALUE && verdict(c, &sqlstore.Row{}), nil
	}
	for _, row := range rows {
		if !verdict(c, row) {
			return false, nil
		}
	}
	return true, nil
}

func verdict(c *pb.Compare, row *sqlstore.Row) bool {
	var d int
	switch c.Target {
	case pb.Compare_VALUE:
		d = bytes.Compare(row.Value, c.GetValue())
	case pb.Compare_CREATE:
		d = cmp.Compare(row.Create, c.GetCreateRevision())
	case pb.Compare_MOD:
		d = cmp.Compare(row.ID.Rev(), c.GetModRevision())
	case pb.Compare_VERSION:
		d = cmp.Compare(row.Version, c.GetVersion())
	case pb.Compare_LEASE:
		d = cmp.Compare(row.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return d == 0
	case pb.Compare_NOT_EQUAL:
		return d != 0
	case pb.Compare_GREATER:
		return d > 0
	case pb.Compare_LESS:
		return d < 0
	}
	return true
}
