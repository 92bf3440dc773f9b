package side

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (g *Generator) planTxn() { g.call("/etcdserverpb.KV/Txn", g.txnRequest(), nil) }

// txnRequest makes a transaction. Most keep clear of writing one key twice, which is refused
// whole; some do not.
func (g *Generator) txnRequest() *pb.TxnRequest {
	switch g.rng.IntN(60) {
	case 0:
		return g.crowdedTxn()
	case 1:
		return &pb.TxnRequest{}
	}
	w := &txnWriter{g: g}
	if g.chance(80) {
		w.used = map[string]bool{}
	}
	return w.txn(3)
}

// crowdedTxn has as many operations as are allowed, or one more, at one of two depths.
func (g *Generator) crowdedTxn() *pb.TxnRequest {
	n := pick(g, 127, 128, 129)
	t := &pb.TxnRequest{}
	switch g.rng.IntN(4) {
	case 0:
		for range n {
			t.Compare = append(t.Compare, &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER})
		}
	case 1:
		for range n {
			t.Failure = append(t.Failure, rangeOp(&pb.RangeRequest{Key: []byte("a")}))
		}
	case 2: // an inner one: the outer level's longest list is taken from its allowance
		inner := &pb.TxnRequest{}
		for range n - 1 {
			inner.Success = append(inner.Success, rangeOp(&pb.RangeRequest{Key: []byte("b")}))
		}
		t.Success = append(t.Success, txnOp(inner))
	default:
		for i := range n {
			t.Success = append(t.Success, putOp(&pb.PutRequest{Key: []byte{'m', byte(i)}, Value: []byte{byte(i)}}))
		}
	}
	return t
}

// txnWriter makes one transaction with all that is nested in it.
type txnWriter struct {
	g    *Generator
	used map[string]bool // keys written so far; nil if collisions are welcome
}

func (w *txnWriter) txn(depth int) *pb.TxnRequest {
	g, t := w.g, &pb.TxnRequest{}
	for range g.rng.IntN(3) {
		t.Compare = append(t.Compare, w.compare())
	}
	for range g.rng.IntN(5) {
		t.Success = append(t.Success, w.op(depth))
	}
	for range g.rng.IntN(4) {
		t.Failure = append(t.Failure, w.op(depth))
	}
	return t
}

func (w *txnWriter) op(depth int) *pb.RequestOp {
	g := w.g
	switch n := g.rng.IntN(100); {
	case n < 35:
		r := g.rangeRequest()
		if g.chance(70) { // one bad revision or sort fails the whole transaction
			r.Revision, r.SortOrder, r.SortTarget = 0, r.SortOrder&1, r.SortTarget&3
		}
		return rangeOp(r)
	case n < 70:
		return w.put()
	case n < 84:
		return w.delete()
	case n < 99:
		if depth == 0 {
			return rangeOp(&pb.RangeRequest{Key: []byte("a")})
		}
		return txnOp(w.txn(depth - 1))
	default:
		return &pb.RequestOp{}
	}
}

func (w *txnWriter) put() *pb.RequestOp {
	p := w.g.putRequest()
	if w.used != nil {
		for range 5 {
			if !w.used[string(p.Key)] && len(p.Key) > 0 {
				break
			}
			p.Key = w.g.key()
		}
		w.used[string(p.Key)] = true
		if w.g.chance(80) { // one missing key or lease fails the whole transaction
			p.IgnoreLease, p.IgnoreValue = false, false
			if p.Lease != 0 {
				p.Lease = w.g.leaseLive()
			}
		}
	}
	return putOp(p)
}

func (w *txnWriter) delete() *pb.RequestOp {
	d := w.g.deleteRequest()
	if w.used != nil && w.g.chance(90) {
		for range 5 {
			if !w.used[string(d.Key)] && len(d.Key) > 0 {
				break
			}
			d.Key = w.g.key()
		}
		w.used[string(d.Key)] = true
		d.RangeEnd = nil
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
}

func (w *txnWriter) compare() *pb.Compare {
	g := w.g
	c := &pb.Compare{
		Key:    g.key(),
		Result: pb.Compare_CompareResult(g.rng.IntN(4)),
		Target: pb.Compare_CompareTarget(g.rng.IntN(5)),
	}
	if g.chance(25) {
		c.Key, c.RangeEnd = g.span()
	}
	union := c.Target
	if g.chance(8) { // a value for another target than the one named
		union = pb.Compare_CompareTarget(g.rng.IntN(5))
	}
	switch {
	case g.chance(8): // no value at all
	case union == pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: g.rng.Int64N(4)}
	case union == pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.nearRevision() * g.rng.Int64N(2)}
	case union == pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.nearRevision() * g.rng.Int64N(2)}
	case union == pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.smallValue()}
	case union == pb.Compare_LEASE:
		// The order of lease IDs must not depend on what the servers chose.
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(g, 0, fixedLeases[g.rng.IntN(len(fixedLeases))])}
	}
	if g.chance(1) {
		c.Result = pick[pb.Compare_CompareResult](g, 4, -1)
	}
	if g.chance(1) {
		c.Target = pick[pb.Compare_CompareTarget](g, 5, -1)
	}
	if c.Target == pb.Compare_LEASE && g.attachAuto && c.Result != pb.Compare_EQUAL {
		c.Result = pb.Compare_NOT_EQUAL
	}
	return c
}

func (g *Generator) smallValue() []byte {
	v := g.value()
	return v[:min(len(v), 100)]
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(p *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}
}

func txnOp(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}
