package e2e

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// addByHand adds the n-th member with etcdctl and gives the lines with the variables that it printed.
func addByHand(t *testing.T, c *side.Clusters, at, n int, flags ...string) (lines []string) {
	t.Helper()
	for _, s := range c.Sides() {
		s.Prepare(n)
	}
	args := append([]string{"member", "add", fmt.Sprintf("m%d", n), "--peer-urls=" + side.PeerURL(n)}, flags...)
	answer := c.At(at).Do(side.Ctl{T: t, Binary: proc.Etcdctl, Args: args, Adds: n})
	for line := range strings.Lines(answer.Fields["stdout"]) {
		if strings.HasPrefix(line, "ETCD_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func unstartedLearner(t *testing.T, c *side.Clusters) (lines []string) {
	lines = addByHand(t, c, 2, 4, "--learner")
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		at.Do(memberList(true))
		at.Do(memberPromote(4))
		at.Do(memberAdd(0, true, "http://127.0.0.9:1")) // a second one
		at.Do(memberUpdate(4, "http://127.0.0.9:1"))
		at.Do(memberUpdate(4, side.PeerURL(4)))
		at.Do(moveLeader(4))
	}
	return lines
}

func learner(t *testing.T, c *side.Clusters, lines []string) {
	c.Join(4, lines)
	c.At(1).Await(memberList(true), lists(4))
	at := c.At(4)
	at.Await(status(), knows(true))
	c.At(1).Do(moveLeader(4))
	c.At(1).Do(put("k1", "for the learner"))
	at.Await(serializable("k1"), func(a side.Answer) bool {
		return strings.Contains(a.String(), "for the learner")
	})
	at.Do(status())
	at.Do(withLeader(status()))
	at.Do(withLeader(serializable("k1")))
	at.Do(serializable(""))
	at.Do(get("k1"))
	at.Do(side.Snapshot{})
	at.Do(side.HTTP{Method: "GET", Path: "/version"})
	restricted(t, c, 4)
	healthOf(t, c, 4)
	compareFigures(t, c, 4, memberFigures)
	comparePeers(t, c, 4)
	ctl(t, c, 1, "member", "list", "-w", "table")
	ctl(t, c, 2, "endpoint", "status", "--cluster", "-w", "table")
	ctl(t, c, 3, "endpoint", "health", "--cluster")
}

// behind is how many writes a learner misses: more than a tenth of all there are.
const behind = 150

func laggingLearner(t *testing.T, c *side.Clusters) {
	for _, s := range c.Sides() {
		s.Member(4).Server.Pause()
	}
	for i := range behind {
		c.At(1).Do(put("missed", fmt.Sprint(i)))
	}
	for n := 1; n <= 3; n++ {
		c.At(n).Do(memberPromote(4))
	}
	for _, s := range c.Sides() {
		s.Member(4).Server.Continue()
	}
	c.At(3).Await(memberPromote(4), says(""))
	c.At(2).Do(memberPromote(4))
	for n := 1; n <= 4; n++ {
		c.At(n).Await(memberList(false), func(a side.Answer) bool {
			return len(a.Messages) == 1 && !strings.Contains(a.String(), "isLearner")
		})
	}
}

// fourVoters lets a follower that runs be removed, and tries with what is left of it.
func fourVoters(t *testing.T, c *side.Clusters) {
	at := c.At(4)
	at.Await(status(), func(a side.Answer) bool { return !strings.Contains(a.String(), "isLearner") })
	at.Await(put("four", "v"), says(""))
	at.Do(get("four"))
	at.Do(memberList(true))
	healthOf(t, c, 4)
	c.At(1).Await(moveLeader(4), says(""))
	c.Lead(4, 1, 2, 3)
	c.Lead(1, 2, 3, 4)
	c.At(2).Await(memberRemove(4), says(""))
	for n := 1; n <= 3; n++ {
		c.At(n).Do(memberRemove(4))
		c.At(n).Do(memberPromote(4))
		c.At(n).Do(memberUpdate(4, "http://127.0.0.9:1"))
		c.At(n).Do(memberList(true))
	}
	ended(t, c, 4)
}

// unstartedVoters are added as long as those that run are enough for a quorum.
func unstartedVoters(t *testing.T, c *side.Clusters) {
	c.At(2).Do(memberAdd(6, false, "http://127.0.0.9:6"))
	c.At(1).Do(put("with an absent one", "v"))
	c.At(3).Do(memberAdd(7, false, "http://127.0.0.9:7"))
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		at.Do(memberAdd(0, false, "http://127.0.0.9:8"))
		at.Do(memberAdd(0, true, "http://127.0.0.9:8"))
		at.Do(memberRemove(n))
		at.Do(memberPromote(6))
		at.Do(moveLeader(nobody))
		at.Do(put("with two absent ones", "v"))
		at.Do(memberList(true))
	}
	c.At(1).Do(memberRemove(6))
	c.At(2).Do(memberRemove(7))
	c.At(3).Do(memberList(true))
}

// ended waits for a member to stop because it was removed.
func ended(t *testing.T, c *side.Clusters, n int) {
	t.Helper()
	for _, s := range c.Sides() {
		if err := s.Gone(n); err != nil {
			t.Error(err)
		}
	}
}

func leaderLeaves(t *testing.T, c *side.Clusters) {
	c.Lead(3, 1, 2)
	// Asked through another member: an etcd that removes itself may end before it
	// has answered.
	c.At(1).Await(memberRemove(3), says(""))
	ended(t, c, 3)
	c.Lead(1, 2)
	c.At(1).Await(memberList(true), lists(2))
	c.At(2).Do(put("two", "v"))
	// Another one takes its place.
	lines := addByHand(t, c, 1, 5)
	c.At(1).Do(memberList(false))
	c.Join(5, lines)
	c.At(5).Await(memberList(true), lists(3))
	c.Lead(1, 2, 5)
	for _, n := range []int{1, 2, 5} {
		c.At(n).Do(put("three", "again"))
		c.At(n).Do(get("three"))
		c.At(n).Do(hashKV(0))
		comparePeers(t, c, n) // no series of the one that left
	}
}

func oneDown(t *testing.T, c *side.Clusters) {
	c.At(1).Await(memberAdd(0, false, side.PeerURL(2)), says(peerURLsExist))
	for _, s := range c.Sides() {
		s.Member(5).Server.Kill()
	}
	c.At(1).Await(memberAdd(0, false, side.PeerURL(2)), refusedWith(codes.Unavailable))
	for n := 1; n <= 2; n++ {
		at := c.At(n)
		at.Do(memberList(true))
		at.Do(memberAdd(0, true, "http://127.0.0.9:1"))
		at.Do(memberRemove(2))
		at.Do(memberRemove(1))
		at.Do(memberPromote(5))
		at.Do(memberRemove(nobody))
		at.Do(put("one down", "v"))
		at.Do(get("one down"))
		healthOf(t, c, n)
	}
	c.At(2).Do(memberUpdate(5, side.PeerURL(5), "http://127.0.0.9:1"))
	c.At(2).Do(memberRemove(5))
	c.At(1).Do(memberList(true))
}

// twoDown leaves m1 alone of two voters.
func twoDown(t *testing.T, c *side.Clusters) {
	at := c.At(1)
	for _, s := range c.Sides() {
		s.Member(2).Server.Kill()
	}
	at.Await(status(), knows(false))
	// Serializable answers, and those to clients that ask for a leader, come at once.
	at.Do(memberList(false))
	at.Do(serializable("k1"))
	at.Do(leases())
	at.Do(withLeader(serializable("k1")))
	at.Do(withLeader(put("k1", "v")))
	at.Do(withLeader(get("k1")))
	at.Do(side.Open{Method: method(t, "etcdserverpb.Watch.Watch"), Metadata: requireLeader})
	at.Do(side.Open{Method: method(t, "etcdserverpb.Lease.LeaseKeepAlive"), Metadata: requireLeader})
	at.Do(moveLeader(1))
	at.Do(hashKV(0))
	at.Do(defragment())
	at.Do(side.Snapshot{})
	at.Do(side.HTTP{Method: "GET", Path: "/health"})
	at.Do(side.HTTP{Method: "GET", Path: "/health?serializable=true"})
	at.Do(side.HTTP{Method: "GET", Path: "/livez?verbose", Unordered: true})
	compareFigures(t, c, 1, founderFigures)
	c.Together(unanswered()...)
}

// unanswered is what m1 cannot do alone, and tries for as long as a request may take. Removing m2 or
// updating it is not here: that etcd tries for as long as the client waits.
func unanswered() (together []side.At) {
	for _, s := range []side.Step{
		put("alone", "v"), txn(&pb.TxnRequest{}), remove("k1", ""), get("k1"), grant(50, 100), revoke(50), compact(5),
		side.KeepAlive{IDs: []int64{1}}, timeToLive(1), alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE), alarmOf(1, pb.AlarmRequest_ACTIVATE),
		memberList(true), memberAdd(0, false, "http://127.0.0.9:1"), memberAdd(0, true, "http://127.0.0.9:1"),
		memberRemove(1), memberPromote(2),
		side.HTTP{Method: "GET", Path: "/readyz?verbose", Unordered: true},
	} {
		together = append(together, side.At{Member: 1, Step: s})
	}
	return together
}
