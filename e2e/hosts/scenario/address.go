//go:build linux

package scenario

import (
	"context"
	"net/netip"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/hosts"
)

// addressChanged gives one member a new address while it runs, as DHCP may.
func addressChanged(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	moved := c.Others(leader)[0]
	moved.Host.Readdress(netip.AddrFrom4([4]byte{10, 77, hosts.FirstSubnet, 77}))
	if !c.Program.FindsMembers {
		s.tellAddress(leader, moved)
	}
	moved.Serves()
	s.goesOn()
	// The cluster must now depend on it.
	c.Others(moved)[0].Process.Kill()
	c.Leader(moved, c.Others(moved)[1])
	s.goesOn()
	c.Others(moved)[0].Start()
	s.end()
}

// tellAddress makes the member's new peer URL known by hand.
func (s *story) tellAddress(via, moved *Member) {
	s.t.Helper()
	s.Eventually("update the address of "+moved.Name, func(ctx context.Context) error {
		list, err := pb.NewClusterClient(via.Conn).MemberList(ctx, &pb.MemberListRequest{})
		if err != nil {
			return err
		}
		for _, o := range list.Members {
			if o.Name == moved.Name {
				_, err = pb.NewClusterClient(via.Conn).MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: o.ID, PeerURLs: []string{moved.PeerURL()}})
			}
		}
		return err
	})
}

// allAddressesChanged moves all hosts to another subnet at once, as another router does, and then
// restarts everything there.
func allAddressesChanged(t *testing.T, c *Cluster) {
	s := begin(t, c)
	c.Net.ReaddressAll(2)
	c.Leader(c.Members()...)
	s.goesOn()
	for _, m := range c.Members() {
		m.Process.Kill()
	}
	c.Net.ReaddressAll(3)
	for _, m := range c.Members() {
		m.Start()
	}
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}
