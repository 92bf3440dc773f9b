//go:build linux

package scenario

import (
	"testing"

	"limpet/e2e/hosts"
)

// leaderIsolated leaves the leader alone on one side, with clients on both.
func leaderIsolated(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	others := c.Others(old)
	c.Net.Partition([]*hosts.Host{old.Host}, hostsOf(others))
	// From the first moment on: the leader may not have noticed yet that it leads nobody.
	s.refuses(old)
	c.Leader(others...)
	s.goesOn()
	s.refuses(old)
	c.Net.HealAll()
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// leaderDeaf lets the leader talk and not hear.
func leaderDeaf(t *testing.T, c *Cluster) {
	oneWay(t, c, func(leader, other *hosts.Host) { c.Net.DropOneWay(other, leader) })
}

// leaderMute lets the leader hear and not talk.
func leaderMute(t *testing.T, c *Cluster) {
	oneWay(t, c, func(leader, other *hosts.Host) { c.Net.DropOneWay(leader, other) })
}

func oneWay(t *testing.T, c *Cluster, cut func(leader, other *hosts.Host)) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	others := c.Others(old)
	for _, o := range others {
		cut(old.Host, o.Host)
	}
	c.Leader(others...)
	s.goesOn()
	s.refuses(old)
	c.Net.HealAll()
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// followerIsolated takes a follower away from everybody, clients included, and gives it back.
func followerIsolated(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	lost := c.Others(leader)[0]
	c.Net.Isolate(lost.Host)
	for range 3 {
		s.goesOn()
	}
	if now := c.Leader(c.Others(lost)...); now != leader {
		t.Errorf("%s leads after a follower was isolated, want %s as before", now.Name, leader.Name)
	}
	c.Net.Heal(lost.Host)
	lost.Serves()
	// It must not have used the time to call elections that it now wins by their number.
	if now := c.Leader(c.Members()...); now != leader {
		t.Errorf("%s leads after a follower came back, want %s as before", now.Name, leader.Name)
	}
	s.goesOn()
	s.end()
}

// minorityRefuses asks a follower that is cut off for everything it must not do alone.
func minorityRefuses(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	alone := c.Others(leader)[0]
	watch := requireLeader(t, alone)
	c.Net.Partition([]*hosts.Host{alone.Host}, hostsOf(c.Others(alone)))
	s.refuses(alone)
	watch.endsWithoutLeader(t)
	s.goesOn()
	c.Net.HealAll()
	alone.Serves()
	s.end()
}
