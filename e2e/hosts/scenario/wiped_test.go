//go:build linux

package scenario

import "testing"

// wiped are stories of disks that were lost or cleaned.
var wiped = []tale{
	{"OneWiped", board, 3, oneWiped},
	{"OneWipedStatic", static, 3, oneWiped},
	{"LeaderWiped", board, 3, leaderWiped},
	{"TwoWiped", board, 3, twoWiped},
	{"TwoWipedStatic", static, 3, twoWiped},
	{"TwoWipedAlone", board, 3, twoWipedAlone},
	{"TwoWipedAloneStatic", static, 3, twoWipedAlone},
	{"ReadsAlone", board, 3, readsAlone},
}

// oneWiped empties a follower's disk.
func oneWiped(t *testing.T, c *Cluster) {
	c.foundAny()
	replaced(t, c, func() *Member { return c.Others(c.Leader(c.members...))[0] })
}

// leaderWiped empties the leader's.
func leaderWiped(t *testing.T, c *Cluster) {
	c.foundAny()
	replaced(t, c, func() *Member { return c.Leader(c.members...) })
}

// replaced wipes a member: it must come back as a new one in place of the old, and bear load.
func replaced(t *testing.T, c *Cluster, choose func() *Member) {
	t.Helper()
	before := c.voters(c.members...)
	s := begin(t, c)
	m := choose()
	m.Process.Kill()
	m.wipe()
	s.goesOn()
	m.Start()
	m.Serves()
	after := c.voters(c.members...)
	for i, o := range c.members {
		if kept := before[i] == after[i]; kept != (o != m) {
			t.Errorf("%s had ID %x, has %x", o.Name, before[i], after[i])
		}
	}
	s.needs(m)
	s.end()
}

// survives checks that m, without a quorum, is in its old cluster, led by nobody.
func (m *Member) survives(cluster string) {
	m.cluster.t.Helper()
	m.tells("cluster "+cluster, "nothing can be written")
}

// waitForSurvivor checks that a wiped member says what it waits for, and stays out, while the survivor is in sight.
func waitForSurvivor(m *Member) {
	m.cluster.t.Helper()
	want := []string{"is in no cluster yet", "waiting to be taken into the cluster"}
	m.tells(want...)
	m.keepsTelling(want...)
}

// twoWiped empties two of three disks while the third member goes on.
func twoWiped(t *testing.T, c *Cluster) {
	b := c.foundAny()
	b[0].put("kept", "by the survivor")
	cluster := b[0].clusterID()
	survivor, lost := b[1], []*Member{b[0], b[2]}
	survivor.has("kept", "by the survivor", false)
	loseDisks(lost)
	start(lost)
	for _, m := range lost {
		waitForSurvivor(m)
	}
	survivor.survives(cluster)
	survivor.has("kept", "by the survivor", true)
	// Restarts, in whatever order, give nobody another idea.
	for _, m := range []*Member{survivor, lost[1], lost[0]} {
		m.Process.Kill()
		m.Start()
	}
	survivor.survives(cluster)
	for _, m := range lost {
		waitForSurvivor(m)
	}
	survivor.survives(cluster)
	survivor.has("kept", "by the survivor", true)
}

func loseDisks(lost []*Member) {
	for _, m := range lost {
		m.Process.Kill()
	}
	for _, m := range lost {
		m.wipe()
	}
}

func start(members []*Member) {
	for _, m := range members {
		m.Start()
	}
}

// twoWipedAlone empties two of three disks while the third member is away. The two found nothing
// without it, and nothing when it is back.
func twoWipedAlone(t *testing.T, c *Cluster) {
	b := c.foundAny()
	b[0].put("kept", "by the survivor")
	cluster := b[0].clusterID()
	survivor, lost := b[0], b[1:]
	survivor.Stop()
	loseDisks(lost)
	start(lost)
	want := "2 are here"
	if !c.Program.FindsMembers {
		want = survivor.Name + " is missing"
	}
	for _, m := range lost {
		m.tells("is in no cluster yet", want)
		m.keepsTelling("is in no cluster yet", want)
	}
	survivor.Start()
	for _, m := range lost {
		waitForSurvivor(m)
	}
	survivor.survives(cluster)
	survivor.has("kept", "by the survivor", true)
}

// readsAlone has all members lose their power just after a write, and one come back alone: what it
// holds, in its database or its log, can still be read.
func readsAlone(t *testing.T, c *Cluster) {
	b := c.foundAny()
	b[0].put("kept", "by the survivor")
	cluster := b[0].clusterID()
	for _, m := range b {
		m.Process.Kill()
	}
	b[0].Start()
	b[0].survives(cluster)
	b[0].has("kept", "by the survivor", true)
}
