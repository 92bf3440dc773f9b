//go:build linux

package scenario

import "testing"

// diskFrozen lets every write to the leader's disk hang.
func diskFrozen(t *testing.T, c *Cluster) {
	diskStalls(t, c, func(leader *Member) { leader.Disk.Freeze() }, func(leader *Member) { leader.Disk.Thaw() })
}

// diskSlow leaves the leader one write a second: an SD card at its worst.
func diskSlow(t *testing.T, c *Cluster) {
	diskStalls(t, c, func(leader *Member) { leader.Disk.Throttle(1) }, func(leader *Member) { leader.Disk.Throttle(0) })
}

func diskStalls(t *testing.T, c *Cluster, stall, free func(leader *Member)) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	others := c.Others(old)
	stall(old)
	c.Leader(others...)
	s.goesOn()
	free(old)
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// powerLoss cuts the power of every member at once, under load.
func powerLoss(t *testing.T, c *Cluster) {
	s := begin(t, c)
	for _, m := range c.Members() {
		m.Disk.Shutdown()
	}
	for _, m := range c.Members() {
		if m.Process.Alive() { // not one that has noticed and ended by itself
			m.Process.Kill()
		}
		m.Disk.Remount()
		m.Start()
	}
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}
