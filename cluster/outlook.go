package cluster

import (
	"context"
	"fmt"
	"slices"

	"limpet/discovery"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

// outlook is what gossip and the LAN show of others, and what this member shows
// them. Without gossip it is empty.
type outlook struct {
	me      *standing
	strange map[uint64]bool // clusters in sight that were logged; of the goroutine of Run
}

// gossipPeers are the peer addresses that gossip knows, after asking around,
// and those beside where it gets no answer: there the peer port says why, and
// lets us in while the token is being replaced and gossip has the other one.
func (o *outlook) gossipPeers(ctx context.Context) []string {
	targets := o.meet(ctx)
	var out []string
	gossips := make(map[string]bool)
	for _, p := range o.me.cfg.Gossip.Peers() {
		if p.Status == discovery.Alive {
			out = append(out, p.Peer)
			gossips[p.Gossip] = true
		}
	}
	for _, at := range targets {
		if addr := joinPort(at, o.me.cfg.PeerPort); !gossips[at] && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

// meet has gossip find others: where it was told to look, where they were last
// time, and on the LAN. It returns all these places, host:port of gossip.
func (o *outlook) meet(ctx context.Context) []string {
	targets := slices.Concat(o.me.cfg.Join, o.me.cfg.Roster.gossipAddresses())
	if o.me.cfg.Beacon != nil {
		lctx, cancel := context.WithTimeout(ctx, lookFor)
		found, err := o.me.cfg.Beacon.Find(lctx)
		cancel()
		if err != nil {
			o.me.log.Debug("the local network could not be asked", "error", err)
		}
		targets = append(targets, found...)
	}
	if len(targets) == 0 {
		return nil
	}
	jctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if _, err := o.me.cfg.Gossip.Join(jctx, targets); err != nil {
		o.me.log.Debug("some addresses do not gossip", "error", err)
	}
	return targets
}

// tell has gossip spread what this member is.
func (o *outlook) tell() {
	if o.me.cfg.Gossip == nil {
		return
	}
	d, clients := o.me.Description(), o.me.clientURLs() // before Update, which must not be asked back
	o.me.cfg.Gossip.Update(func(in *discovery.Info) {
		in.ID, in.Cluster, in.State, in.Name = d.ID, d.Cluster, d.Settled(), d.Name
		in.Index, in.Term, in.Recovered = d.Index, d.Term, d.Recovered
		in.Peer, in.Client, in.Expect = d.Address, clients, uint8(o.me.cfg.Expect)
	})
	var heard []string
	for _, p := range o.me.cfg.Gossip.Peers() {
		if p.Recovered != 0 && p.Recovered == d.Cluster && p.Status == discovery.Alive {
			o.me.supersede(fmt.Sprintf("as cluster %x, by %s", p.Cluster, p.Name))
		}
		if p.Cluster == d.Cluster && p.Status != discovery.Left {
			heard = append(heard, p.Gossip)
		}
	}
	o.me.cfg.Roster.heard(heard)
}

// misses reports whether a member of the cluster is unknown to gossip.
func (o *outlook) misses(n *raftfsm.Node) bool {
	alive := map[uint64]bool{o.me.Identity().Member: true}
	for _, p := range o.me.cfg.Gossip.Peers() {
		if p.Status == discovery.Alive {
			alive[p.ID] = true
		}
	}
	return slices.ContainsFunc(n.Membership().Members, func(m *txn.Member) bool { return !alive[m.ID] })
}

// strangers are processes that gossip knows and that belong to no or another
// cluster.
func (o *outlook) strangers(self peer.Hello) []string {
	if o.me.cfg.Gossip == nil {
		return nil
	}
	var out []string
	for _, p := range o.me.cfg.Gossip.Peers() {
		if p.Status != discovery.Alive || p.Cluster == self.Cluster {
			continue
		}
		where := "no cluster yet"
		switch {
		case p.Recovered != 0 && p.Recovered == self.Cluster:
			where = "cluster " + hex(p.Cluster) + ", which was recovered from this one by mistake if this one has a leader: then stop its members, and start them with empty data directories"
		case p.Cluster != 0:
			where = "cluster " + hex(p.Cluster)
		}
		out = append(out, fmt.Sprintf("%s at %s: %s", p.Name, p.Gossip, where))
	}
	return out
}

// sayStrangers logs, once each, the clusters in sight that are not ours.
func (o *outlook) sayStrangers() {
	h := o.me.Hello()
	for _, p := range o.me.cfg.Gossip.Peers() {
		if p.Status == discovery.Alive && p.Cluster != 0 && h.Cluster != 0 && p.Cluster != h.Cluster && !o.strange[p.Cluster] {
			if o.strange == nil {
				o.strange = make(map[uint64]bool)
			}
			o.strange[p.Cluster] = true
			o.me.log.Warn("another cluster with the same token is in sight; two clusters never become one: to move its members here, start them with empty data directories",
				"cluster", hex(p.Cluster), "member", p.Name, "at", p.Gossip)
		}
	}
}
