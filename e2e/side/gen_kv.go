package side

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func (g *Generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Serializable: g.chance(30)}
	r.Key, r.RangeEnd = g.span()
	if g.chance(40) {
		r.Limit = pick[int64](g, 1, 2, 3, 5, 10, 13, 1000, -1, math.MaxInt64)
	}
	if g.chance(40) {
		r.Revision = g.revision()
	}
	if g.chance(40) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
	}
	if g.chance(2) {
		r.SortOrder = pick[pb.RangeRequest_SortOrder](g, 3, -1, 100)
	}
	if g.chance(2) {
		r.SortTarget = pick[pb.RangeRequest_SortTarget](g, 5, -1, 100)
	}
	r.KeysOnly, r.CountOnly = g.chance(15), g.chance(10)
	if g.chance(20) {
		for _, filter := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
			if g.chance(40) {
				*filter = g.nearRevision()
			}
		}
	}
	return r
}

func (g *Generator) planRange() { g.call("/etcdserverpb.KV/Range", g.rangeRequest(), nil) }

func (g *Generator) planRangeStream() {
	r := g.rangeRequest()
	if g.chance(60) { // else most would be refused
		r.SortOrder, r.SortTarget = 0, 0
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	}
	if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget > 0 {
		r.SortTarget = 0 // etcd sorts each chunk by itself, and the chunks may differ
	}
	g.add(Stream{r}, nil)
}

func (g *Generator) putRequest() *pb.PutRequest {
	p := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(40)}
	if g.chance(20) {
		p.Lease = g.leaseToAttach()
	}
	if g.chance(8) {
		p.IgnoreValue = true
		if g.chance(80) {
			p.Value = nil
		}
	}
	if g.chance(8) {
		p.IgnoreLease = true
		if g.chance(80) {
			p.Lease = 0
		}
	}
	return p
}

func (g *Generator) planPut() { g.call("/etcdserverpb.KV/Put", g.putRequest(), nil) }

func (g *Generator) deleteRequest() *pb.DeleteRangeRequest {
	d := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.chance(50)}
	if g.chance(30) {
		d.Key, d.RangeEnd = g.span()
	}
	if len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0 && g.chance(80) { // rarely everything
		d.RangeEnd = nil
	}
	return d
}

func (g *Generator) planDelete() { g.call("/etcdserverpb.KV/DeleteRange", g.deleteRequest(), nil) }

// planCompact compacts, after every watcher has caught up: whether one that has not would be told
// of the compaction is a matter of milliseconds.
func (g *Generator) planCompact() {
	g.watches.settle(g)
	g.later(func() planned {
		c := &pb.CompactionRequest{Revision: g.revision(), Physical: g.chance(30)}
		if g.chance(60) {
			c.Revision = g.pastRevision()
		}
		return planned{Call{Method: "/etcdserverpb.KV/Compact", Request: c}, func(a Answer) {
			if len(a.Messages) == 1 {
				g.compacted = c.Revision
				g.compactions[c.Revision] = true
			}
		}}
	})
}

// planDamaged sends bytes that are nearly a request. Only methods whose every outcome is
// independent of time take part.
func (g *Generator) planDamaged() {
	var method string
	var req proto.Message
	switch g.rng.IntN(5) {
	case 0, 1:
		method, req = "/etcdserverpb.KV/Range", g.rangeRequest()
	case 2:
		method, req = "/etcdserverpb.KV/Put", g.putRequest()
	case 3:
		method, req = "/etcdserverpb.KV/DeleteRange", g.deleteRequest()
	default:
		method, req = "/etcdserverpb.KV/Txn", g.txnRequest()
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		panic(err) // a message made of plain numbers and bytes
	}
	switch {
	case len(b) == 0 || g.chance(10):
		b = g.bytes(g.rng.IntN(40))
	case g.chance(40):
		b = b[:g.rng.IntN(len(b))]
	case g.auth == nil && g.chance(50): // among users it might turn a range round, see span
		b[g.rng.IntN(min(len(b), 64))] ^= byte(1 << g.rng.IntN(8))
	default:
		b = append(b, g.bytes(1+g.rng.IntN(6))...)
	}
	g.add(RawCall{method, b}, nil)
}
