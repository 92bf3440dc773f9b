package discovery

import (
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist number epoch calls, often holding its locks. So
// nothing here calls memberlist or waits.
type delegate struct {
	g     *Gossip
	epoch uint32
}

// NodeMeta returns what this member tells of itself.
func (d *delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return encodeInfo(&d.g.self, d.g.leaving)
}

// NotifyAlive refuses nodes that are not limpet's.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	_, err := readNode(n)
	return err
}

// NotifyJoin takes a node that lives.
func (d *delegate) NotifyJoin(n *memberlist.Node) {
	node, err := readNode(n)
	if err != nil {
		return // NotifyAlive refused it
	}
	if d.g.table.seen(d.epoch, node) {
		d.g.changed()
		signal(d.g.doubt)
	}
}

// NotifyUpdate takes a node that tells something else of itself.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.NotifyJoin(n) }

// NotifyLeave takes a node that was given up.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.g.note(d.g.table.lost(d.epoch, n.Name))
}

// NotifyPingComplete takes a node that answered a probe.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.note(d.g.table.answered(n.Name))
}

// NotifyConflict takes two nodes of one name. Names hold the instance of a
// process, so these are copies of one running process, such as a virtual
// machine and its resumed snapshot.
func (d *delegate) NotifyConflict(known, other *memberlist.Node) {
	node, err := readNode(other)
	if err != nil {
		return // NotifyAlive refused it
	}
	here, _ := netip.AddrFromSlice(known.Addr)
	d.g.table.twin(node, netip.AddrPortFrom(here.Unmap(), known.Port))
	signal(d.g.doubt)
}

// NotifyMsg, GetBroadcasts, LocalState, MergeRemoteState and AckPayload would
// carry messages of our own; there are none.
func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
func (d *delegate) AckPayload() []byte              { return nil }
