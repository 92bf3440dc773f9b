package api

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/sqlstore"
	"limpet/txn"
)

// The form of requests, checked before anything else; same order and errors as
// etcd's v3rpc/key.go.

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if !txn.DefaultOrder(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if txn.HasRevisionFilters(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDeleteRange(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

func checkTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkOps(r, maxOps); err != nil {
		return err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := checkOverlap(ops); err != nil {
			return err
		}
	}
	return nil
}

// checkOps bounds the operations of r and of the transactions nested in it,
// which share the budget that the longest list of r leaves.
func checkOps(r *pb.TxnRequest, maxOps int) error {
	longest := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if longest > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := checkOp(op, maxOps-longest); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDeleteRange(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkOps(o.RequestTxn, maxOps)
	}
	return rpctypes.ErrGRPCKeyNotFound // an empty operation
}

// touched is what the operations of a branch write: the keys put and the spans
// deleted, those of nested transactions included.
type touched struct {
	puts map[string]bool
	dels []sqlstore.Span
}

func (t *touched) put(key string) error {
	if t.puts[key] || t.deletes(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	t.puts[key] = true
	return nil
}

func (t *touched) deletes(key string) bool {
	for _, d := range t.dels {
		if d.Contains(key) {
			return true
		}
	}
	return false
}

// checkOverlap refuses a branch that puts a key twice, or puts and deletes it:
// the result would depend on the order within one revision. Deletes may
// overlap each other, and the two branches of a nested transaction may put the
// same key, as only one runs. The order of the checks is etcd's
// (checkIntervals): this level's deletes, nested transactions, then its puts.
func checkOverlap(ops []*pb.RequestOp) (touched, error) {
	t := touched{puts: make(map[string]bool)}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			// The end is taken as it stands, so that one of "\0", from the key
			// on, covers nothing here: etcd accepts such a branch.
			t.dels = append(t.dels, sqlstore.Span{Key: string(d.Key), End: string(d.RangeEnd), Single: len(d.RangeEnd) == 0})
		}
	}
	for _, op := range ops {
		r := op.GetRequestTxn()
		if r == nil {
			continue
		}
		then, err := checkOverlap(r.Success)
		if err != nil {
			return t, err
		}
		other, err := checkOverlap(r.Failure)
		if err != nil {
			return t, err
		}
		if err := t.merge(then, other); err != nil {
			return t, err
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := t.put(string(p.Key)); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

func (t *touched) merge(then, other touched) error {
	for key := range then.puts {
		if err := t.put(key); err != nil {
			return err
		}
	}
	for key := range other.puts {
		if then.puts[key] {
			continue // put in either branch: only one runs
		}
		if err := t.put(key); err != nil {
			return err
		}
	}
	t.dels = append(append(t.dels, then.dels...), other.dels...)
	return nil
}
