//go:build linux

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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

// still is nil once each thread of a process is stopped, or waits for a disk (proc_pid_stat(5)).
func still(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return err
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		if _, state, _ := strings.Cut(string(stat), ") "); state == "" || !strings.ContainsRune("TtDZX", rune(state[0])) {
			return fmt.Errorf("a thread runs: %s", stat)
		}
	}
	return nil
}

// powerLoss cuts the power of every member at once, under load.
func powerLoss(t *testing.T, c *Cluster) {
	s := begin(t, c)
	// No current, no answers: to a sync that is under way the kernel says that all went
	// well, although nothing is kept.
	for _, m := range c.Members() {
		m.Process.Pause()
	}
	for _, m := range c.Members() {
		c.Eventually(m.Name+" stands still", func(context.Context) error { return still(m.Process.PID()) })
	}
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
