package e2e

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestMembersAlone tells of a cluster of one, to which anything may be added at once.
func TestMembersAlone(t *testing.T) {
	t.Parallel()
	tell(t, side.NewClusters(t, subject(), 1, "--max-learners=20"), []phase{
		{"an empty member", emptyMember},
		{"peer URLs that are refused", refusedURLs},
		{"peer URLs that are accepted", acceptedURLs},
		{"changes to the only member", onlyMember},
		{"a second member", secondMember},
		{"a voter that never comes", voterThatNeverComes},
	})
}

// TestMembersRelaxed switches the protection of the quorum off.
func TestMembersRelaxed(t *testing.T) {
	t.Parallel()
	c := side.NewClusters(t, subject(), 3, "--strict-reconfig-check=false")
	c.At(1).Await(memberList(true), lists(3))
	for n := 4; n <= 5; n++ {
		c.At(2).Do(memberAdd(n, false, fmt.Sprintf("http://127.0.0.9:%d", n)))
	}
	c.At(3).Do(memberAdd(6, true, "http://127.0.0.9:6"))
	c.At(1).Do(memberPromote(6))
	for n := 1; n <= 3; n++ {
		c.At(n).Do(memberList(true))
		c.At(n).Do(put("five", "v"))
	}
	c.At(1).Do(memberRemove(4))
	c.At(1).Do(memberRemove(5))
	c.At(1).Do(memberRemove(2))
	c.At(3).Do(memberList(true))
}

func emptyMember(t *testing.T, c *side.Clusters) {
	at := c.At(1)
	at.Await(memberList(true), lists(1))
	at.Do(memberList(false))
	at.Do(status())
	at.Do(all())
	at.Do(leases())
	at.Do(moveLeader(1))
	at.Do(moveLeader(nobody))
	at.Do(hashKV(0))
	at.Do(hashKV(1))
	at.Do(put("k", "v"))
	at.Do(hashKV(0))
	healthOf(t, c, 1)
	compareFigures(t, c, 1, founderFigures)
}

func refusedURLs(t *testing.T, c *side.Clusters) {
	for _, urls := range badURLs() {
		c.At(1).Do(memberAdd(0, false, urls...))
		c.At(1).Do(memberAdd(0, true, urls...))
		c.At(1).Do(memberUpdate(nobody, urls...))
	}
	needsRefusal(t, c)
}

// needsRefusal: etcd does not look at the URLs of an update, and all its other members panic on bad
// ones.
func needsRefusal(t *testing.T, c *side.Clusters) {
	t.Helper()
	if subject() == proc.Etcd {
		return
	}
	for _, urls := range badURLs() {
		if a := memberUpdate(1, urls...).Run(t.Context(), c.Subject.Member(1)); a.Code != codes.InvalidArgument {
			t.Errorf("an update to %q was answered %s", urls, a)
		}
	}
}

func acceptedURLs(t *testing.T, c *side.Clusters) {
	at := c.At(1)
	for i, urls := range [][]string{
		{"http://127.0.0.9:2", "http://127.0.0.9:1"},
		{" http://127.0.0.9:3\t"},
		{"HTTP://127.0.0.9:4"},
		{"https://name.invalid:5"},
		{"http://user@127.0.0.9:7"},
		{"http://127.0.0.9:8?x=y"},
		{"http://127.0.0.9:9#f"},
		{"http://[::1]:11"},
		{"http://:12"},
		{"http://127.0.0.9:"},
		{"http://127.0.0.9:13", "http://127.0.0.9:13"},
		{"unix://localhost:14"},
		{"unix:///nowhere"},
		{"unixs://nowhere"},
	} {
		n := 20 + i
		at.Do(memberAdd(n, true, urls...))
		// etcd makes IDs of the URLs and the second: these are others, to be steady.
		at.Do(memberAdd(0, true, append(urls, "http://127.0.0.9:101")...))
		at.Do(memberPromote(n))
		at.Do(memberUpdate(n, "http://127.0.0.9:100"))
		at.Do(memberUpdate(n, side.PeerURL(1)))
		at.Do(memberList(true))
		at.Do(memberRemove(n))
		at.Do(memberRemove(n))
		at.Do(memberAdd(n+50, true, append(urls, "http://127.0.0.9:102")...)) // what was removed may be used again
		at.Do(memberRemove(n + 50))
	}
	at.Do(memberList(true))
}

func onlyMember(t *testing.T, c *side.Clusters) {
	at := c.At(1)
	at.Do(memberAdd(0, true, side.PeerURL(1)))
	at.Do(memberPromote(1))
	at.Do(memberPromote(nobody))
	at.Do(memberRemove(1))
	at.Do(memberRemove(nobody))
	at.Do(memberUpdate(1, side.PeerURL(1), "http://127.0.0.9:1"))
	at.Do(memberList(true))
	at.Do(memberUpdate(1, side.PeerURL(1)))
	at.Do(side.Members{Method: "MemberRemove", Request: &pb.MemberRemoveRequest{}})
	at.Do(side.Members{Method: "MemberPromote", Request: &pb.MemberPromoteRequest{}})
	ctl(t, c, 1, "member", "list", "-w", "table")
	ctl(t, c, 1, "endpoint", "status", "-w", "fields")
}

// secondMember comes with the lines that etcdctl printed for it, and is removed. Asked through the
// other one: an etcd that removes itself may end before it has answered.
func secondMember(t *testing.T, c *side.Clusters) {
	lines := addByHand(t, c, 1, 2)
	c.At(1).Do(memberList(false))
	c.Join(2, lines)
	for n := 1; n <= 2; n++ {
		at := c.At(n)
		at.Await(memberList(true), lists(2))
		at.Do(put("two", "v"))
		at.Do(get("k"))
		at.Do(hashKV(0))
		healthOf(t, c, n)
	}
	c.At(1).Await(memberRemove(2), says(""))
	ended(t, c, 2)
	c.At(1).Do(put("two", "w"))
	c.At(1).Do(memberList(true))
}

// TestMembersOfTwo has the leader of two members leave: the other one needs nobody then.
func TestMembersOfTwo(t *testing.T) {
	t.Parallel()
	c := side.NewClusters(t, subject(), 2)
	c.Lead(2, 1)
	c.At(1).Await(memberRemove(2), says(""))
	ended(t, c, 2)
	c.Lead(1)
	c.At(1).Do(put("one", "v"))
	c.At(1).Do(get("one"))
	c.At(1).Do(memberList(true))
	c.At(1).Do(status())
}

// voterThatNeverComes is added by tools that look whether changes are allowed. From then on etcd has
// no quorum; limpet does not count who never came.
func voterThatNeverComes(t *testing.T, c *side.Clusters) {
	at := c.At(1)
	at.Do(memberAdd(3, false, "http://localhost:123"))
	at.Do(memberList(false))
	at.Do(memberAdd(0, false, "http://localhost:124"))
	at.Do(memberAdd(0, true, "http://localhost:124"))
	at.Do(memberRemove(1))
	at.Do(memberRemove(nobody + 1)) // never reaches the log: one of two has started
	if subject() == proc.Etcd {
		return
	}
	limpet := c.Subject.Member(1)
	for _, step := range []side.Step{put("still", "there"), get("still"), memberRemove(3), memberList(true)} {
		if a := step.Run(t.Context(), limpet); a.Code != codes.OK || len(a.Broken) > 0 {
			t.Errorf("%s was answered %s", step, a)
		}
	}
}
