//go:build linux

package scenario

import "testing"

// leaderKilled kills the leader without warning, and lets it come back.
func leaderKilled(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	old.Process.Kill()
	c.Leader(c.Others(old)...)
	s.goesOn()
	old.Start()
	old.Serves()
	s.goesOn()
	s.end()
}

// leaderPaused stops the leader's clock, in a way: when it goes on, it believes that it still leads.
func leaderPaused(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	old.Process.Pause()
	c.Leader(c.Others(old)...)
	s.goesOn()
	old.Process.Continue()
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// rollingRestart restarts each member in turn, as an upgrade does.
func rollingRestart(t *testing.T, c *Cluster) {
	s := begin(t, c)
	for _, m := range c.Members() {
		m.Stop()
		s.goesOn()
		m.Start()
		m.Serves()
	}
	s.goesOn()
	s.end()
}

// allKilled kills every member at once, under load.
func allKilled(t *testing.T, c *Cluster) {
	s := begin(t, c)
	for _, m := range c.Members() {
		m.Process.Kill()
	}
	for _, m := range c.Members() {
		m.Start()
	}
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// quorumLost kills two of three. What is left must refuse, and all must be well when they are back.
func quorumLost(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	survivor := c.Others(leader)[0]
	for _, m := range c.Others(survivor) {
		m.Process.Kill()
	}
	s.refuses(survivor)
	for _, m := range c.Others(survivor) {
		m.Start()
	}
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}
