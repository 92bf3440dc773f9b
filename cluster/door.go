package cluster

import (
	"context"
	"fmt"
	"time"

	"limpet/discovery"
	"limpet/peer"
)

// door says who may call, hears who does not let us in, and knows where to
// knock. All methods may be called concurrently.
type door struct {
	me   *standing
	line *line
}

// admit says whether a caller is wanted.
func (d *door) admit(h peer.Hello) *peer.Refusal {
	if h.Purpose == peer.Look {
		return nil
	}
	id := d.me.Identity()
	if h.ID == id.Member && h.Instance != d.me.instance {
		return &peer.Refusal{Code: peer.Copy, Text: fmt.Sprintf("member %x runs here, as another process: one of the two data directories is a copy", h.ID)}
	}
	// While raft counts on a removed member, a quorum may need it.
	if n := d.me.node.Load(); n != nil && n.Membership().WasRemoved(h.ID) && !inRaft(n, h.ID) {
		return &peer.Refusal{Code: peer.Removed, Text: fmt.Sprintf("member %x was removed from the cluster", h.ID)}
	}
	if h.Purpose == peer.Ask && d.recoveredFrom(h.Cluster) {
		return &peer.Refusal{Code: peer.Recovered, Text: fmt.Sprintf("cluster %x lost its quorum and was recovered as cluster %x", h.Cluster, id.Cluster)}
	}
	if h.Purpose != peer.Ask {
		switch {
		case id.Cluster == 0:
			return &peer.Refusal{Code: peer.NoMember, Text: "this member is in no cluster yet"}
		case d.recoveredFrom(h.Cluster):
			return &peer.Refusal{Code: peer.Recovered, Text: fmt.Sprintf("cluster %x lost its quorum and was recovered as cluster %x", h.Cluster, id.Cluster)}
		case h.Cluster != id.Cluster:
			return &peer.Refusal{Code: peer.OtherCluster, Text: fmt.Sprintf("the caller belongs to cluster %x, this member to cluster %x: two clusters never become one; to move a member, start it with an empty data directory", h.Cluster, id.Cluster)}
		}
	}
	if r := d.meet(h); r != nil && h.Purpose != peer.Ask {
		return r
	}
	if old, differs := d.me.cfg.Roster.other(h); differs && d.alive(old, h.ID) {
		return &peer.Refusal{Code: peer.Copy, Text: fmt.Sprintf("member %x runs at %s, as another process: one of the two data directories is a copy", h.ID, old.Address)}
	}
	if id.Cluster != 0 && h.Cluster == id.Cluster { // strangers would fill the file
		d.me.cfg.Roster.saw(h)
	}
	return nil
}

// meet says why another member is not wanted: its data was made by another restore
// than that of the member the cluster knows, so it lacks what that one agreed to. A
// quorum with it would lose what was acknowledged.
func (d *door) meet(h peer.Hello) *peer.Refusal {
	n := d.me.node.Load()
	if n == nil {
		return nil
	}
	m := n.Membership().Member(h.ID)
	if m == nil || m.Restored == 0 || m.Restored == h.Restored {
		return nil
	}
	return &peer.Refusal{Code: peer.Restored, Text: fmt.Sprintf("member %x, %s, was restored from its snapshot once more, and lacks what it has agreed to since the first time: "+
		"empty its data directory and let it join, or restore all members again", h.ID, m.Name)}
}

// recoveredFrom reports whether our cluster is what cluster was recovered as.
func (d *door) recoveredFrom(cluster uint64) bool {
	n := d.me.node.Load()
	return n != nil && cluster != 0 && n.Membership().Recovered == cluster && d.me.Identity().Cluster != cluster
}

// alivePatience bounds the look at a process that may be gone.
const alivePatience = time.Second

// alive reports whether the process that was seen as member id still answers.
func (d *door) alive(old sighting, id uint64) bool {
	<-d.line.used
	ctx, cancel := context.WithTimeout(context.Background(), alivePatience)
	defer cancel()
	there, err := d.line.port.Look(ctx, old.Address)
	return err == nil && there.ID == id && there.Instance == old.Instance
}

// refused hears that another member does not want us.
func (d *door) refused(r *peer.Refusal) {
	switch r.Code {
	case peer.Removed:
		d.me.removed()
	case peer.Recovered:
		d.me.supersede(r.Text)
	case peer.Copy:
		d.me.cfg.Broken(fmt.Errorf("%w (%s)", ErrCopy, r.Text))
	}
}

// where lists the addresses at which a member may be found, the likeliest
// first.
func (d *door) where(id uint64) []string {
	var out []string
	add := func(addr string) {
		if addr == "" {
			return
		}
		for _, a := range out {
			if a == addr {
				return
			}
		}
		out = append(out, addr)
	}
	if d.me.cfg.Gossip != nil {
		for _, p := range d.me.cfg.Gossip.Peers() {
			if p.ID == id && (p.Status == discovery.Alive || p.Status == discovery.Suspect) {
				add(p.Peer)
			}
		}
	}
	add(d.me.cfg.Roster.sighting(id).Address)
	if n := d.me.node.Load(); n != nil {
		if m := n.Membership().Member(id); m != nil {
			for _, u := range m.PeerURLs {
				add(hostOf([]string{u}))
			}
		}
	}
	return out
}
