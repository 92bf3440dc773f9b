//go:build linux

package scenario

import (
	"context"
	"testing"

	"limpet/e2e/hosts"
)

// farBehind is so many writes that no short log goes back to before them.
const farBehind = 1500

// followerOutdated brings back a follower that was dead for longer than the log goes back.
func followerOutdated(t *testing.T, c *Cluster) {
	s := begin(t, c)
	lost := c.Others(c.Leader(c.Members()...))[0]
	lost.Process.Kill()
	s.writes(farBehind)
	lost.Start()
	s.tookImage(lost)
	s.goesOn()
	s.end()
}

// followerOvertaken cuts a follower off for longer than the log goes back. It is alive meanwhile,
// and so is a watch there, which must be told of what the image brings as if nothing had happened.
func followerOvertaken(t *testing.T, c *Cluster) {
	s := begin(t, c)
	lost := c.Others(c.Leader(c.Members()...))[0]
	s.watch(lost, false)
	c.Net.Partition([]*hosts.Host{lost.Host}, hostsOf(c.Others(lost)))
	s.writes(farBehind)
	c.Net.HealAll()
	s.tookImage(lost)
	s.goesOn()
	s.end()
}

func (s *story) tookImage(m *Member) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := m.Process.Log.Wait(ctx, s.Program.TookImage); err != nil {
		s.t.Fatalf("%s took no image: %v", m.Name, err)
	}
	m.Serves()
}
