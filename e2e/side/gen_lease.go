package side

import (
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fixedLeases are the IDs clients choose for themselves.
var fixedLeases = []int64{1, 2, 3, 7, 42, 1 << 40, math.MaxInt64, -1, -7, math.MinInt64}

// leasePlan is what the generator knows of leases, by neutral ID.
type leasePlan struct {
	live []int64
	gone []int64
	auto uint64 // leases granted with ID 0 so far
}

func (p *leasePlan) granted(id int64) {
	p.live = append(p.live, id)
	p.gone = slices.DeleteFunc(p.gone, func(g int64) bool { return g == id })
}

func (p *leasePlan) revoked(id int64) {
	p.live = slices.DeleteFunc(p.live, func(l int64) bool { return l == id })
	p.gone = append(p.gone, id)
}

// lease gives an ID: mostly a live one.
func (g *Generator) lease() int64 {
	switch {
	case len(g.leases.live) > 0 && g.chance(75):
		return pick(g, g.leases.live...)
	case len(g.leases.gone) > 0 && g.chance(50):
		return pick(g, g.leases.gone...)
	}
	return pick(g, 0, 999_999, pick(g, fixedLeases...))
}

// leaseToAttach is a lease for a put, one the server chose only if this session may.
func (g *Generator) leaseToAttach() int64 {
	id := g.lease()
	if isAuto(id) && !g.attachAuto {
		return pick(g, fixedLeases...)
	}
	return id
}

// leaseLive is a lease a put succeeds with, or 0.
func (g *Generator) leaseLive() int64 {
	for range 5 {
		if id := g.leaseToAttach(); slices.Contains(g.leases.live, id) {
			return id
		}
	}
	return 0
}

func isAuto(id int64) bool { return uint64(id)>>56 == neutralLease>>56 }

func (g *Generator) planLease() {
	switch n := g.rng.IntN(100); {
	case n < 15:
		g.leases.auto++
		id := neutralLease + g.leases.auto
		g.add(Call{Method: "/etcdserverpb.Lease/LeaseGrant", Request: &pb.LeaseGrantRequest{TTL: g.longTTL()}, Binds: id}, func(a Answer) {
			if len(a.Messages) == 1 {
				g.leases.granted(int64(id))
			}
		})
	case n < 40:
		g.planGrant(pick(g, fixedLeases...), g.longTTL())
	case n < 47:
		g.planGrant(pick(g, fixedLeases...), pick[int64](g, 9_000_000_001, math.MaxInt64))
	case n < 52: // granted for two seconds, revoked in the next step
		id := pick(g, fixedLeases...)
		if slices.Contains(g.leases.live, id) || g.auth != nil { // who may grant need not be let revoke
			return
		}
		g.planGrant(id, pick[int64](g, 0, 1, 2, -5, math.MinInt64))
		g.planRevoke(id)
	case n < 64:
		g.later(func() planned { return g.revoke(g.lease()) })
	case n < 76:
		var ids []int64
		for range 1 + g.rng.IntN(4) {
			ids = append(ids, g.lease())
		}
		g.add(KeepAlive{ids}, nil)
	case n < 92:
		g.call("/etcdserverpb.Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.chance(60)}, nil)
	default:
		g.call("/etcdserverpb.Lease/LeaseLeases", &pb.LeaseLeasesRequest{}, nil)
	}
}

// longTTL outlives every session.
func (g *Generator) longTTL() int64 { return pick[int64](g, 5000, 9000, 86400, 9_000_000_000) }

func (g *Generator) planGrant(id, ttl int64) {
	g.call("/etcdserverpb.Lease/LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: ttl}, func(a Answer) {
		if len(a.Messages) == 1 {
			g.leases.granted(id)
		}
	})
}

func (g *Generator) planRevoke(id int64) { g.later(func() planned { return g.revoke(id) }) }

func (g *Generator) revoke(id int64) planned {
	return planned{Call{Method: "/etcdserverpb.Lease/LeaseRevoke", Request: &pb.LeaseRevokeRequest{ID: id}}, func(a Answer) {
		if len(a.Messages) == 1 {
			g.leases.revoked(id)
		}
	}}
}
