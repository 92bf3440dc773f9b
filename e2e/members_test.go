package e2e

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// The calls that concern members, on clusters of etcds and of the subject. The numbers are those of
// the members; m1 leads unless something else is said.

func memberList(linearizable bool) side.Members {
	return side.Members{Method: "MemberList", Request: &pb.MemberListRequest{Linearizable: linearizable}}
}

func memberAdd(n int, learner bool, urls ...string) side.Members {
	return side.Members{Method: "MemberAdd", Request: &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner}, Adds: n}
}

func memberRemove(n int) side.Members {
	return side.Members{Method: "MemberRemove", Request: &pb.MemberRemoveRequest{ID: side.MemberID(n)}}
}

func memberUpdate(n int, urls ...string) side.Members {
	return side.Members{Method: "MemberUpdate", Request: &pb.MemberUpdateRequest{ID: side.MemberID(n), PeerURLs: urls}}
}

func memberPromote(n int) side.Members {
	return side.Members{Method: "MemberPromote", Request: &pb.MemberPromoteRequest{ID: side.MemberID(n)}}
}

func moveLeader(n int) side.Call {
	return side.Call{Method: "/etcdserverpb.Maintenance/MoveLeader", Request: &pb.MoveLeaderRequest{TargetID: side.MemberID(n)}}
}

func serializable(key string) side.Call {
	return list(&pb.RangeRequest{Key: []byte(key), Serializable: true})
}

// withLeader asks for the answer that there is no leader, if there is none.
func withLeader(c side.Call) side.Call {
	c.Metadata = requireLeader
	return c
}

// nobody is the number of a member that there never was.
const nobody = 99

// says accepts an answer by its error's text; empty for success.
func says(text string) func(side.Answer) bool {
	return func(a side.Answer) bool { return a.Text == text }
}

const peerURLsExist = "etcdserver: Peer URLs already exists"

// lists accepts a list of n members that have all told where their clients find them.
func lists(n int) func(side.Answer) bool {
	return func(a side.Answer) bool {
		if len(a.Messages) != 1 {
			return false
		}
		members := a.Messages[0].(*pb.MemberListResponse).Members
		for _, m := range members {
			if len(m.ClientURLs) == 0 {
				return false
			}
		}
		return len(members) == n
	}
}

// knows accepts a Status that names, or does not name, a leader.
func knows(leader bool) func(side.Answer) bool {
	return func(a side.Answer) bool {
		return len(a.Messages) == 1 && (a.Messages[0].(*pb.StatusResponse).Leader != 0) == leader
	}
}

// phase is a part of a story; the next one begins where it ends.
type phase struct {
	name string
	tell func(*testing.T, *side.Clusters)
}

func tell(t *testing.T, c *side.Clusters, phases []phase) {
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) { p.tell(t, c.On(t)) })
	}
}

// TestMembers tells the life of a cluster of three: it takes a fourth in, loses its leader, and then
// its quorum.
func TestMembers(t *testing.T) {
	t.Parallel()
	var lines []string // that etcdctl printed for the learner
	tell(t, side.NewClusters(t, subject(), 3), []phase{
		{"members before changes are allowed", earlyChanges},
		{"keys at every member", keysEverywhere},
		{"leases across members", leasesAcross},
		{"watches at followers", watchesAtFollowers},
		{"maintenance at every member", maintenanceEverywhere},
		{"alarms across members", alarmsAcross},
		{"health and metrics of followers", followersHealth},
		{"moving the leader", movingTheLeader},
		{"changes that are refused", refusedChanges},
		{"updates", updates},
		{"a learner that has not started", func(t *testing.T, c *side.Clusters) { lines = unstartedLearner(t, c) }},
		{"a learner", func(t *testing.T, c *side.Clusters) { learner(t, c, lines) }},
		{"a learner that falls behind", laggingLearner},
		{"four voters", fourVoters},
		{"voters that have not started", unstartedVoters},
		{"etcdctl", ctlOfMembers},
		{"the leader leaves", leaderLeaves},
		{"one of three is down", oneDown},
		{"two of three are down", twoDown},
	})
}

// earlyChanges begins as soon as the members know each other: for five seconds they will not have
// their number changed.
func earlyChanges(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		c.At(n).Await(memberList(true), lists(3))
		c.At(n).Do(memberList(false))
	}
	for _, s := range badURLs() {
		c.At(1).Do(memberAdd(0, false, s...))
		c.At(2).Do(memberAdd(0, true, s...))
	}
	c.At(1).Do(memberAdd(0, false, side.PeerURL(2)))
	c.At(2).Do(memberAdd(0, true, side.PeerURL(2)))
	c.At(1).Do(memberRemove(3))
}

// badURLs are lists of peer URLs that nobody can be added with.
func badURLs() [][]string {
	lists := [][]string{nil, {"http://127.0.0.9:1", "127.0.0.9:2"}}
	for _, url := range []string{
		"", " ", "localhost:2380", "localhost", "http://", "http://localhost", "//localhost:1", "://", "http://[::1", "http://[::1]",
		"http://localhost:1/", "http://localhost:1/path", "http://a b:1", "http://localhost:port", "http://::1:2", "http:/x:1",
		"ftp://localhost:1", "tcp://localhost:1", "mailto:x", "http",
	} {
		lists = append(lists, []string{url})
	}
	return lists
}

func keysEverywhere(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		key := fmt.Sprintf("k%d", n)
		at.Do(put(key, "v"))
		at.Do(serializable(key)) // whoever wrote here, reads here
		at.Do(txn(&pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}},
			Success: []*pb.RequestOp{putOp(key, "w"), putOp("t", key)},
		}))
		at.Do(put("", ""))
		at.Do(putLeased(key, 12345))
		at.Do(withLeader(put(key, "x")))
		at.Do(list(&pb.RangeRequest{Key: []byte(key), Revision: 1 << 40}))
		for m := 1; m <= 3; m++ {
			c.At(m).Do(all())
			c.At(m).Do(side.Stream{Request: &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}})
			c.At(m).Do(withLeader(serializable(key)))
		}
		at.Do(remove("t", ""))
	}
	c.At(2).Do(compact(3))
	c.At(3).Do(compact(3))
	for n := 1; n <= 3; n++ {
		c.At(n).Do(all())
		c.At(n).Do(list(&pb.RangeRequest{Key: []byte("k1"), Revision: 2}))
	}
}

func leasesAcross(t *testing.T, c *side.Clusters) {
	c.At(2).Do(grant(7, 1000))
	c.At(3).Do(grant(7, 1000))
	c.At(3).Do(putLeased("leased", 7))
	c.At(3).Do(side.KeepAlive{IDs: []int64{7, 8}})
	c.At(1).Do(side.KeepAlive{IDs: []int64{7}})
	for n := 1; n <= 3; n++ {
		c.At(n).Do(timeToLive(7))
		c.At(n).Do(timeToLive(8))
		c.At(n).Do(leases())
	}
	c.At(2).Do(grant(9, 2))
	c.At(2).Do(putLeased("short", 9))
	onBoth(t, c.At(3), untilGone(get("short")))
	c.At(2).Do(timeToLive(9))
	c.At(1).Do(revoke(7))
	c.At(2).Do(revoke(7))
	c.At(3).Do(get("leased"))
	for n := 1; n <= 3; n++ {
		c.At(n).Do(leases())
	}
}

func watchesAtFollowers(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		for _, s := range watchAll(n, 0) {
			c.At(n).Do(s)
		}
	}
	for n := 1; n <= 3; n++ {
		c.At(n).Do(put("watched", fmt.Sprint(n)))
	}
	c.At(2).Do(remove("watched", ""))
	for n := 1; n <= 3; n++ {
		c.At(n).Do(events(n, 4))
		c.At(n).Do(side.WatchClose{Handle: n})
	}
}

func maintenanceEverywhere(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		at.Do(get("k1")) // which waits until this member is as far as the leader
		at.Do(hashKV(0))
		at.Do(hashKV(4))
		at.Do(hashKV(1 << 40))
		at.Do(status())
		at.Do(defragment())
		at.Do(side.Snapshot{})
		at.Do(hashKV(0))
		at.Do(side.Call{Method: "/etcdserverpb.Maintenance/Downgrade", Request: &pb.DowngradeRequest{Version: "3.6"}})
	}
}

func alarmOf(n int, action pb.AlarmRequest_AlarmAction) side.Call {
	return side.Call{
		Method:  "/etcdserverpb.Maintenance/Alarm",
		Request: &pb.AlarmRequest{Action: action, Alarm: pb.AlarmType_NOSPACE, MemberID: side.MemberID(n)},
	}
}

func alarmsAcross(t *testing.T, c *side.Clusters) {
	show := func() {
		for n := 1; n <= 3; n++ {
			at := c.At(n)
			at.Do(alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE))
			at.Do(status())
			at.Do(put("k", "v"))
			at.Do(grant(int64(20+n), 1000))
			at.Do(revoke(int64(20 + n)))
			at.Do(side.HTTP{Method: "GET", Path: "/health"})
			at.Do(side.HTTP{Method: "GET", Path: "/readyz"})
		}
	}
	c.At(2).Do(alarmOf(2, pb.AlarmRequest_ACTIVATE))
	show()
	c.At(1).Do(alarmOf(3, pb.AlarmRequest_ACTIVATE))
	c.At(3).Do(alarmOf(2, pb.AlarmRequest_DEACTIVATE))
	show()
	c.At(2).Do(alarmOf(3, pb.AlarmRequest_DEACTIVATE))
	show()
}

func movingTheLeader(t *testing.T, c *side.Clusters) {
	for n := 2; n <= 3; n++ {
		for _, to := range []int{1, 2, 3, nobody} {
			c.At(n).Do(moveLeader(to))
		}
	}
	c.At(1).Do(moveLeader(nobody))
	c.At(1).Do(side.Call{Method: "/etcdserverpb.Maintenance/MoveLeader", Request: &pb.MoveLeaderRequest{}})
	c.At(1).Do(moveLeader(1))
	c.At(1).Do(moveLeader(3))
	c.Lead(3, 1, 2)
	for n := 1; n <= 3; n++ {
		c.At(n).Do(status())
		c.At(n).Do(put("moved", "v"))
		c.At(n).Do(get("moved"))
	}
	c.At(1).Do(moveLeader(1))
	c.At(3).Do(moveLeader(1))
	c.Lead(1, 2, 3)
}

// refusedChanges waits for the members to have been connected for long enough, by asking for what is
// refused for another reason then.
func refusedChanges(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		at.Await(memberAdd(0, false, side.PeerURL(2)), says(peerURLsExist))
		at.Await(memberAdd(0, true, "http://127.0.0.9:1", side.PeerURL(3)), says(peerURLsExist))
		at.Do(memberRemove(nobody))
		at.Do(memberPromote(nobody))
		for m := 1; m <= 3; m++ {
			at.Do(memberPromote(m))
		}
		at.Do(memberUpdate(nobody, "http://127.0.0.9:1"))
		at.Do(memberUpdate(1, side.PeerURL(2)))
		at.Do(memberUpdate(3, "http://127.0.0.9:1", side.PeerURL(2)))
		at.Do(memberList(true))
	}
}

// updates changes the peer URLs of a member and back.
func updates(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		at := c.At(n)
		at.Do(memberUpdate(3, side.PeerURL(3), "http://127.0.0.9:1"))
		at.Do(put("updated", "v"))
		at.Do(memberList(true))
		at.Do(memberUpdate(3, side.PeerURL(3)))
		at.Do(memberList(true))
	}
	c.At(2).Do(memberUpdate(2, side.PeerURL(2), "http://127.0.0.9:2")) // which later lists will show
}

// ctl runs both etcdctls at the n-th members; all four outputs say the same.
func ctl(t *testing.T, c *side.Clusters, n int, args ...string) {
	t.Helper()
	for _, binary := range []proc.Kind{proc.Etcdctl, proc.Limpet} {
		c.At(n).Do(side.Ctl{T: t, Binary: binary, Args: args})
	}
}

// refusedWith accepts answers that are errors of one kind.
func refusedWith(code codes.Code) func(side.Answer) bool {
	return func(a side.Answer) bool { return a.Code == code }
}
