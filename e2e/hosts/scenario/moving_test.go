//go:build linux

package scenario

import (
	"net/netip"
	"testing"

	"limpet/e2e/hosts"
)

// moves are stories of addresses that do not last.
var moves = []tale{
	{"LeaderMoves", board, 3, leaderMoves},
	{"MovesWhileOff", board, 3, movesWhileOff},
	{"AllMove", board, 3, allMove},
	{"AwayWhileOthersMove", board, 3, awayWhileOthersMove},
	{"BackInAnotherNet", board, 3, backInAnotherNet},
}

// later is an address of the first subnet that no host has at first.
func later(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, hosts.FirstSubnet, 100 + n}) }

// leaderMoves gives the leader a new address while it runs, and then another while it is off.
func leaderMoves(t *testing.T, c *Cluster) {
	joined(c)
	s := begin(t, c)
	moved := c.Leader(c.members...)
	moved.Host.Readdress(later(1))
	c.Leader(c.members...)
	moved.Serves()
	s.needs(moved)
	s.end()
}

// joined are three members of which two were told the address of the first: that address is in their
// flags for good.
func joined(c *Cluster) {
	c.t.Helper()
	b := c.enlist(3)
	b[0].comes()
	b[0].put("before", "the others")
	b[1].comes(at(b[0]))
	b[2].comes(at(b[0]))
	c.voters(b...)
}

// movesWhileOff restarts each member in turn under a new address.
func movesWhileOff(t *testing.T, c *Cluster) {
	joined(c)
	s := begin(t, c)
	for i, m := range c.members {
		m.Stop()
		m.Host.Readdress(later(byte(i)))
		s.goesOn()
		m.Start()
		m.Serves()
		s.needs(m)
	}
	c.voters(c.members...)
	s.end()
}

// allMove gives all a new address at once, while they run and while they are off. The flags that
// they were started with name an address of the past.
func allMove(t *testing.T, c *Cluster) {
	joined(c)
	s := begin(t, c)
	c.Net.ReaddressAll(2)
	c.Leader(c.members...)
	s.goesOn()
	for _, m := range c.members {
		m.Process.Kill()
	}
	c.Net.ReaddressAll(3)
	start(c.members)
	c.Leader(c.members...)
	s.goesOn()
	c.voters(c.members...)
	s.end()
}

// awayWhileOthersMove brings a member back that knows no valid address of any other, and that they
// do not know either.
func awayWhileOthersMove(t *testing.T, c *Cluster) {
	joined(c)
	s := begin(t, c)
	away := c.Others(c.Leader(c.members...))[1]
	away.Process.Kill()
	c.Net.ReaddressAll(2)
	c.Leader(c.Others(away)...)
	s.goesOn()
	away.Start()
	away.Serves()
	s.needs(away)
	c.voters(c.members...)
	s.end()
}

// backInAnotherNet is the same for a member that was cut off while it ran, and moved too.
func backInAnotherNet(t *testing.T, c *Cluster) {
	joined(c)
	s := begin(t, c)
	away := c.Others(c.Leader(c.members...))[0]
	c.Net.Isolate(away.Host)
	s.goesOn()
	c.Net.ReaddressAll(2)
	c.Leader(c.Others(away)...)
	s.goesOn()
	c.Net.Heal(away.Host)
	c.Leader(c.members...)
	s.needs(away)
	c.voters(c.members...)
	s.end()
}
