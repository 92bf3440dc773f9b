package cluster

import (
	"fmt"
	"testing"

	"limpet/discovery"
	"limpet/txn"
)

// gossiping gives a board gossip on loopback, and what follows from it.
func gossiping(t *testing.T, b *board, join func() []string, set func(*Config)) *discovery.Gossip {
	t.Helper()
	roster := OpenRoster(b.dir + "/peers.json")
	g, err := discovery.Open(discovery.Config{
		Bind: "127.0.0.1:0", Label: "limpet",
		Self: discovery.Info{ID: b.disk.Member, Instance: roster.Instance(), Name: b.name, Peer: b.addr},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stop(); _ = g.Close() })
	b.set = func(c *Config) {
		c.Gossip, c.Roster, c.Join, c.AutoAdd = g, roster, join(), true
		set(c)
	}
	return g
}

// As many members as expect each other find each other by gossip and found one
// cluster; one more, whose ID is the lowest, joins it.
func TestFoundByGossip(t *testing.T) {
	t.Parallel()
	var bs []*board
	var seed *discovery.Gossip
	join := func() []string { return []string{seed.Addr()} }
	for i := range 4 {
		b := newBoard(t, fmt.Sprint("m", i+1), uint64(0xa4-i), nil)
		g := gossiping(t, b, join, func(c *Config) { c.Expect = 3 })
		if i == 0 {
			seed = g
		}
		bs = append(bs, b)
	}
	startAll(bs[:2])
	bs[0].awaitWaiting("for 3 members that expect each other; 2 are here")
	bs[2].start()
	awaitIn(t, bs[:3]...)
	bs[3].start()
	awaitIn(t, bs...)
	cluster := bs[0].identity().Cluster
	for _, b := range bs {
		if got := b.identity().Cluster; got != cluster {
			t.Errorf("%s is in cluster %x, want %x", b.name, got, cluster)
		}
	}
	if m := bs[0].running().Membership().Member(0xa1); m == nil || !m.Learner || !m.Auto {
		t.Errorf("the fourth is %+v, want a learner to be promoted", m)
	}
}

// Four at once that expect three: three found a cluster, the fourth joins it.
func TestMoreThanExpected(t *testing.T) {
	t.Parallel()
	var bs []*board
	var seed *discovery.Gossip
	join := func() []string { return []string{seed.Addr()} }
	for i := range 4 {
		b := newBoard(t, fmt.Sprint("m", i+1), uint64(0xa1+i), nil)
		g := gossiping(t, b, join, func(c *Config) { c.Expect = 3 })
		if i == 0 {
			seed = g
		}
		bs = append(bs, b)
	}
	startAll(bs)
	awaitIn(t, bs...)
	cluster, learners := bs[0].identity().Cluster, 0
	for _, b := range bs {
		if got := b.identity().Cluster; got != cluster {
			t.Errorf("%s is in cluster %x, want %x", b.name, got, cluster)
		}
		if b.running().Membership().Self.Learner {
			learners++
		}
	}
	if learners != 1 {
		t.Errorf("%d learners, want one", learners)
	}
}

// With gossip a member joins at an address that gossips, and is found at its
// peer address, whatever that is.
func TestJoinByGossip(t *testing.T) {
	t.Parallel()
	first := newBoard(t, "m1", 0xa1, nil)
	g := gossiping(t, first, func() []string { return nil }, func(*Config) {})
	first.start()
	awaitIn(t, first)
	b := newBoard(t, "m2", 0xb1, nil)
	gossiping(t, b, func() []string { return []string{g.Addr()} }, func(*Config) {})
	b.start()
	awaitIn(t, b)
	until(t, "it to be found by gossip", func() bool {
		where := first.local.Where(0xb1)
		return len(where) > 0 && where[0] == b.addr && !first.local.outlook.misses(first.running())
	})
}

// A member that takes the ID under which an operator has added it goes by that
// one in gossip, too: the others do not miss it.
func TestJoinUnderAnOperatorsID(t *testing.T) {
	t.Parallel()
	first := newBoard(t, "m1", 0xa1, nil)
	g := gossiping(t, first, func() []string { return nil }, func(*Config) {})
	first.start()
	awaitIn(t, first)
	b := newBoard(t, "m2", 0xb1, nil)
	gossiping(t, b, func() []string { return []string{g.Addr()} }, func(*Config) {})
	if _, err := first.running().Propose(t.Context(), &txn.MemberAdd{Member: &txn.Member{ID: 0x77, PeerURLs: []string{b.url()}}}); err != nil {
		t.Fatal(err)
	}
	b.start()
	awaitIn(t, b)
	until(t, "gossip to know it by that ID alone", func() bool {
		peers := g.Peers()
		return len(peers) == 1 && peers[0].ID == 0x77 && peers[0].Status == discovery.Alive && !first.local.outlook.misses(first.running())
	})
}
