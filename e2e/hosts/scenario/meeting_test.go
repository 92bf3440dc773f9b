//go:build linux

package scenario

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// meetings are stories of members that do not belong together.
var meetings = []tale{
	{"ClustersMeet", board, 4, clustersMeet},
	{"BetweenTwoClusters", board, 5, betweenTwoClusters},
	{"OtherToken", board, 4, otherToken},
	{"DirectoryOfAnother", board, 4, directoryOfAnother},
	{"PlainAtToken", board, 4, plainAtToken},
	{"RemovedStartsAgain", board, 3, removedStartsAgain},
	{"RemovedWhileAway", board, 3, removedWhileAway},
	{"HandOver", board, 3, handOver},
}

// clustersMeet begins two clusters that cannot see each other, and mends the net.
func clustersMeet(t *testing.T, c *Cluster) {
	a, b := twoClusters(c)
	ids := [2]string{a[0].clusterID(), b[0].clusterID()}
	c.Net.HealAll()
	for _, m := range []*Member{a[0], b[0]} {
		m.put("written", "after the meeting at "+m.Name)
	}
	saysStranger(a, ids[1])
	saysStranger(b, ids[0])
	apart(a, ids[0])
	apart(b, ids[1])
}

// betweenTwoClusters has a new member find both.
func betweenTwoClusters(t *testing.T, c *Cluster) {
	a, b := twoClusters(c)
	ids := [2]string{a[0].clusterID(), b[0].clusterID()}
	c.Net.HealAll()
	late := c.spares[4]
	late.comes("--discover")
	late.tells("is in no cluster yet", "waiting for there to be one cluster", ids[0], ids[1])
	saysStranger(a, ids[1])
	saysStranger(b, ids[0])
	late.keepsTelling("waiting for there to be one cluster")
	apart(a, ids[0])
	apart(b, ids[1])
}

// twoClusters of two members each are founded apart from each other.
func twoClusters(c *Cluster) (a, b []*Member) {
	c.t.Helper()
	a, b = c.spares[:2], c.spares[2:4]
	c.Net.Partition(hostsOf(a), hostsOf(b))
	for _, pair := range [][]*Member{a, b} {
		pair[0].comes()
		pair[0].put("founded", "at "+pair[0].Name)
		pair[1].comes(at(pair[0]))
	}
	c.voters(a...)
	c.voters(b...)
	return a, b
}

// saysStranger waits until members log and tell that the other cluster is there.
func saysStranger(members []*Member, other string) {
	for _, m := range members {
		m.tells("not of this cluster", "cluster "+other)
		m.logs(other)
	}
}

// apart checks that a cluster is what it was, and writes.
func apart(pair []*Member, cluster string) {
	c := pair[0].cluster
	c.t.Helper()
	c.voters(pair...)
	for _, m := range pair {
		if now := m.clusterID(); now != cluster {
			c.t.Errorf("%s belongs to cluster %s, want %s", m.Name, now, cluster)
		}
		m.has("founded", "at "+pair[0].Name, false)
	}
	pair[1].put("still", "written")
	pair[0].has("still", "written", false)
}

const otherSecret = "LIMPET_TOKEN=ffeeddccbbaa99887766554433221100"

// otherToken points a board with another token at the cluster.
func otherToken(t *testing.T, c *Cluster) {
	b := c.foundAny()
	before := c.voters(b...)
	s := begin(t, c)
	stranger := c.spares[0]
	stranger.Process.Env, stranger.Way = []string{otherSecret}, []string{at(b[0])}
	stranger.Start()
	b[0].logs("token")
	stranger.logs("token")
	stranger.tells("is in no cluster yet", "waiting for a member at", "token")
	stranger.keepsTelling("is in no cluster yet")
	unharmed(t, s, before)
}

// unharmed checks that the members are who they were, and that nothing was lost.
func unharmed(t *testing.T, s *story, before []uint64) {
	t.Helper()
	s.goesOn()
	if after := s.voters(s.members...); !slices.Equal(after, before) {
		t.Errorf("the members are %x, want %x as before", after, before)
	}
	s.end()
}

// directoryOfAnother has a board that holds a cluster of its own join.
func directoryOfAnother(t *testing.T, c *Cluster) {
	b := c.foundAny()
	before := c.voters(b...)
	ours := b[0].clusterID()
	s := begin(t, c)
	stranger := c.spares[0]
	stranger.comes()
	stranger.put("kept", "by the stranger")
	theirs := stranger.clusterID()
	stranger.Stop()
	stranger.comes(at(b[0]))
	stranger.tells("cluster "+theirs, "cluster "+ours)
	stranger.logs(ours)
	stranger.has("kept", "by the stranger", false)
	if now := stranger.clusterID(); now != theirs {
		t.Errorf("the stranger belongs to cluster %s now, want %s", now, theirs)
	}
	b[0].tells("not of this cluster", "cluster "+theirs)
	b[0].logs(theirs)
	unharmed(t, s, before)
}

// plainAtToken points a limpet with etcd's flags and no token at the cluster.
func plainAtToken(t *testing.T, c *Cluster) {
	b := c.foundAny()
	before := c.voters(b...)
	s := begin(t, c)
	stranger := c.spares[0]
	stranger.Way = []string{
		"--initial-cluster-state=existing", "--initial-advertise-peer-urls=" + stranger.PeerURL(), "--listen-peer-urls=http://0.0.0.0:2380",
		fmt.Sprintf("--initial-cluster=%s=%s,%s=%s", b[0].Name, b[0].PeerURL(), stranger.Name, stranger.PeerURL()),
	}
	stranger.Start()
	b[0].logs("token")
	b[0].tells("token")
	stranger.tells("is in no cluster yet", "waiting for a member of the cluster that --initial-cluster names to answer")
	stranger.tells("token")
	stranger.logs("token")
	unharmed(t, s, before)
}

const (
	wasRemoved  = "this member was removed from its cluster"
	removedCode = 3 // which the unit of systemd takes for the end
)

// removedStartsAgain removes a member that runs. It ends, and does not come back.
func removedStartsAgain(t *testing.T, c *Cluster) {
	c.foundAny()
	c.voters(c.members...)
	s := begin(t, c)
	m := c.Others(c.Leader(c.members...))[1]
	s.takenOut(c.Leader(c.members...), m)
	if exit := m.Process.WaitExit(time.Now(), patience); exit.Code != 0 {
		t.Errorf("%s ended with %+v when it was removed, want exit code 0 as etcd's", m.Name, exit)
	}
	s.staysOut(m)
	s.end()
}

// removedWhileAway removes a member that is switched off, and learns of it when it starts.
func removedWhileAway(t *testing.T, c *Cluster) {
	c.foundAny()
	c.voters(c.members...)
	s := begin(t, c)
	m := c.Others(c.Leader(c.members...))[1]
	m.Process.Kill()
	s.takenOut(c.Leader(c.Others(m)...), m)
	m.Start()
	m.endsWith(removedCode, wasRemoved)
	s.staysOut(m)
	s.end()
}

// takenOut has a user remove m by its name.
func (s *story) takenOut(via, m *Member) {
	s.t.Helper()
	s.Eventually("remove "+m.Name, func(context.Context) error {
		if r := via.command("member", "remove", m.Name); r.Code != 0 {
			return fmt.Errorf("limpet member remove: %s", r.Stderr)
		}
		return nil
	})
	s.forget(m)
	s.voters(s.members...)
	s.goesOn()
}

// staysOut starts m again in sight of the cluster and out of it: it has kept that it was removed.
func (s *story) staysOut(m *Member) {
	s.t.Helper()
	m.Start()
	m.endsWith(removedCode, wasRemoved)
	s.Net.Isolate(m.Host)
	m.Start()
	m.endsWith(removedCode, wasRemoved)
	s.goesOn()
	s.voters(s.members...)
}

// handOver ends leaders with SIGTERM, and notes for how long nobody's writes were acknowledged.
func handOver(t *testing.T, c *Cluster) {
	c.foundAny()
	c.voters(c.members...)
	s := begin(t, c)
	for range 3 {
		old := c.Leader(c.members...)
		gap := longestGap(t, c.Others(old), func() {
			old.Stop()
			c.Leader(c.Others(old)...)
			s.goesOn()
		})
		t.Logf("%s led and was stopped: %v without an acknowledged write", old.Name, gap)
		old.Start()
		old.Serves()
	}
	s.end()
}

// longestGap is the longest time between two acknowledged writes while something happens.
func longestGap(t *testing.T, members []*Member, happens func()) time.Duration {
	t.Helper()
	client := members[0].cluster.Client(members...)
	ctx, cancel := context.WithCancel(t.Context())
	longest := make(chan time.Duration, 1)
	// Owner: this call; ends when it cancels ctx.
	go func() {
		var gap time.Duration
		for last := time.Now(); ctx.Err() == nil; {
			if _, err := client.Put(ctx, "gap", "none"); err == nil {
				gap, last = max(gap, time.Since(last)), time.Now()
			}
		}
		longest <- gap
	}()
	happens()
	cancel()
	return <-longest
}
