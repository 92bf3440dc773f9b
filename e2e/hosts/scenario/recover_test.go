//go:build linux

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"limpet/e2e/proc"
)

// recoveries are stories of clusters that lost their quorum for good.
var recoveries = []tale{
	{"RecoverOne", board, 3, recoverOne},
	{"RecoverOneStatic", static, 3, recoverOne},
	{"RecoverBest", board, 5, recoverBest},
	{"RecoverBestStatic", static, 5, recoverBest},
	{"RecoverWithQuorum", board, 3, recoverWithQuorum},
	{"RecoverByMistake", board, 3, recoverByMistake},
}

const lostQuorum = "--yes-i-lost-quorum"

// recoverOne loses two of three disks under load, and makes a new cluster of the third. Before it is
// time for that, and where it makes no sense, limpet recover refuses.
func recoverOne(t *testing.T, c *Cluster) {
	b := c.foundAny()
	before := c.voters(b...)
	s := begin(t, c)
	survivor := c.Leader(b...) // who has whatever was acknowledged
	lost := c.Others(survivor)
	old := survivor.clusterID()
	survivor.refusesRecovery("is in use by another limpet; stop that one first", lostQuorum)
	lost[0].Stop()
	lost[0].refusesRecovery("the cluster has a quorum, and this member only needs to be started", lostQuorum)
	lost[0].Start()
	lost[0].Serves()
	s.goesOn()

	loseDisks(lost)
	survivor.survives(old)
	s.breaksOff()
	survivor.Stop()
	recoversNowhere(survivor)
	recoversUnasked(survivor)
	looked := survivor.recovers("--dry-run")
	if err := missing(looked.Stdout, []string{"cluster " + old, "this member, has most"}); looked.Code != 0 || err != nil {
		t.Errorf("limpet recover --dry-run ended with %d: %v", looked.Code, err)
	}
	if gone := strings.Count(looked.Stdout, "does not answer at"); gone != len(lost) {
		t.Errorf("limpet recover names %d members that do not answer, want %d:\n%s", gone, len(lost), looked.Stdout)
	}
	survivor.refusesRecovery("nothing was changed")

	s = s.recovered(survivor, old)
	s.takesIn(survivor, lost...)
	s.renewed(before, survivor)
	s.needs(lost[0])
	s.end()
}

// recoverBest leaves two of five, of which one is behind: that one is the wrong one to recover, and
// joins what the other became.
func recoverBest(t *testing.T, c *Cluster) {
	b := c.foundMany(5)
	before := c.voters(b...)
	s := begin(t, c)
	best := c.Leader(b...)
	behind, lost := c.Others(best)[0], c.Others(best)[1:]
	old := best.clusterID()
	behind.Process.Kill()
	s.goesOn()
	loseDisks(lost)
	s.breaksOff()
	best.survives(old) // before that it might still lead, and send what the other lacks
	behind.Start()
	behind.survives(old)

	behind.Stop()
	id := before[slices.Index(b, best)]
	r := behind.refusesRecovery(fmt.Sprintf("member %x, %s, has more than this one: recover there", id, best.Name), lostQuorum)
	if err := missing(r.Stdout, []string{"has most", "this member"}); err != nil {
		t.Error(err)
	}
	behind.Start()
	behind.survives(old)

	best.Stop()
	s = s.recovered(best, old)
	s.leftBehind(behind, best)
	s.takesIn(best, lost...)
	s.renewed(before, best)
	s.needs(behind)
	s.end()
}

// recoverWithQuorum stops one of two that work, which is not to be recovered: the two are a quorum.
func recoverWithQuorum(t *testing.T, c *Cluster) {
	b := c.foundAny()
	c.voters(b...)
	lost := c.Leader(b...)
	rest := c.Others(lost)
	lost.Process.Kill()
	c.Leader(rest...)
	rest[0].Stop()
	rest[1].survives(rest[1].clusterID())
	rest[0].refusesRecovery("are a quorum", lostQuorum)
	rest[0].Start()
	rest[0].Serves()
	lost.Start()
	lost.Serves()
}

// recoverByMistake recovers a member that is only cut off. What the others go on to acknowledge is not
// thrown away when the network is whole again.
func recoverByMistake(t *testing.T, c *Cluster) {
	b := c.foundAny()
	c.voters(b...)
	id := b[0].clusterID()
	alone := c.Others(c.Leader(b...))[0]
	rest := c.Others(alone)
	c.Net.Partition(hostsOf([]*Member{alone}), hostsOf(rest))
	alone.Stop()
	if r := alone.recovers(lostQuorum); r.Code != 0 {
		t.Fatalf("limpet recover: %s%s", r.Stdout, r.Stderr)
	}
	alone.refusesRecovery("nothing is lost", lostQuorum) // once more: it is all of its cluster
	alone.Start()
	alone.Serves()
	rest[0].put("kept", "by the quorum")
	c.Net.HealAll()
	for _, m := range rest {
		m.logs("was recovered as another one although it has a leader")
		m.tells("which was recovered from this one by mistake if this one has a leader")
		m.has("kept", "by the quorum", false)
		if got := m.clusterID(); got != id {
			t.Errorf("%s is in cluster %s now, want %s", m.Name, got, id)
		}
	}
	rest[1].put("kept", "still")
}

// recovers runs limpet recover on m's host, as its operator would.
func (m *Member) recovers(how ...string) proc.Result {
	m.cluster.t.Helper()
	return m.command(append([]string{"recover", "--data-dir=" + m.DataDir}, how...)...)
}

// refusesRecovery checks that limpet recover ends with exit code 1 and a sentence.
func (m *Member) refusesRecovery(sentence string, how ...string) proc.Result {
	m.cluster.t.Helper()
	r := m.recovers(how...)
	if r.Code != 1 || !strings.Contains(r.Stderr, sentence) {
		m.cluster.t.Errorf("limpet recover %v of %s: exit code %d, want 1 and %q:\n%s%s", how, m.Name, r.Code, sentence, r.Stdout, r.Stderr)
	}
	return r
}

// recoversNowhere gives limpet recover a directory that is not there: it does not make one.
func recoversNowhere(m *Member) {
	t := m.cluster.t
	t.Helper()
	nowhere := m.DataDir + "-mistyped"
	r := m.command("recover", "--data-dir="+nowhere, lostQuorum)
	if r.Code != 1 || !strings.Contains(r.Stderr, nowhere) {
		t.Errorf("limpet recover of no directory: exit code %d, want 1 and its name:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if _, err := os.Stat(nowhere); err == nil {
		t.Errorf("limpet recover has made %s", nowhere)
	}
}

// recoversUnasked takes the token out of the data directory for a while: without it the others would
// not answer whether they are there.
func recoversUnasked(m *Member) {
	t := m.cluster.t
	t.Helper()
	if !m.cluster.Program.FindsMembers {
		return
	}
	stored, aside := filepath.Join(m.DataDir, "token"), m.DataDir+"-token"
	if err := os.Rename(stored, aside); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Rename(aside, stored); err != nil {
			t.Error(err)
		}
	}()
	if r := m.command("recover", "--data-dir="+m.DataDir, "--dry-run"); r.Code != 1 || !strings.Contains(r.Stderr, "--token") {
		t.Errorf("limpet recover without the token: exit code %d, want 1 and --token:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// breaksOff ends the load and the watchers where the cluster does.
func (s *story) breaksOff() {
	s.t.Helper()
	s.complain(s.load.Stop())
	for _, w := range s.watchers {
		w.Stop()
	}
}

var isCluster = regexp.MustCompile(`this member is cluster ([0-9a-f]+) now, at revision (\d+); start it as before`)

// recovered makes a cluster of its own of m, which has stopped, and checks that everything that was
// acknowledged is in it, and that clients can notice. The story that it returns begins there.
func (s *story) recovered(m *Member, old string) *story {
	s.t.Helper()
	r := m.recovers(lostQuorum)
	said := isCluster.FindStringSubmatch(r.Stdout)
	if r.Code != 0 || said == nil {
		s.t.Fatalf("limpet recover of %s: exit code %d, want 0 and %v:\n%s%s", m.Name, r.Code, isCluster, r.Stdout, r.Stderr)
	}
	m.Start()
	m.Serves()
	m.tells("cluster "+said[1], "leader")
	if s.voters(m); m.clusterID() != said[1] || said[1] == old {
		s.t.Errorf("%s is in cluster %s, was told %s and was in %s", m.Name, m.clusterID(), said[1], old)
	}
	from := s.kept(m)
	if want, _ := strconv.ParseInt(said[2], 10, 64); from < want || want <= s.ledger.Top() {
		s.t.Errorf("the revision is %d, was told %d, and %d had been heard of", from, want, s.ledger.Top())
	}
	return beginAfter(s.t, s.Cluster, from)
}

// kept checks that m holds all that was acknowledged, and calls the revisions of before compacted.
func (s *story) kept(m *Member) (rev int64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), attempt)
	defer cancel()
	kv := pb.NewKVClient(m.Conn)
	all, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		s.t.Fatalf("state of %s: %v", m.Name, err)
	}
	s.complain(s.ledger.CheckKept(all.Kvs))
	s.t.Logf("%s, all of them before the loss; %d keys are left", s.ledger.Summary(), len(all.Kvs))
	past := &pb.RangeRequest{Key: []byte(witnessed), Revision: s.ledger.Top()}
	if _, err := kv.Range(ctx, past); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted) {
		s.t.Errorf("a read of a revision of the old cluster gave %v, want that it is compacted", err)
	}
	stream, err := openWatch(ctx, m, &pb.WatchCreateRequest{Key: []byte(witnessed), StartRevision: s.ledger.Top() + 1})
	if err != nil {
		s.t.Fatalf("watch at %s: %v", m.Name, err)
	}
	if resp, err := stream.Recv(); err != nil || !resp.Canceled || resp.CompactRevision <= s.ledger.Top() {
		s.t.Errorf("a watch from a revision of the old cluster gave %v, %v, want that it is compacted", resp, err)
	}
	return all.Header.Revision
}

const recoveredWithout = "was recovered as a new one, without this member"

// leftBehind has a survivor with data of the old cluster, which runs, become a new member. With a
// token it does so by itself and keeps its data; else it must be given an empty disk.
func (s *story) leftBehind(m, via *Member) {
	s.t.Helper()
	if s.Program.FindsMembers {
		m.logs("joins again as a new one; its old data is kept")
		m.Serves()
		s.counted(m)
		kept, err := filepath.Glob(filepath.Join(m.DataDir, "old-*", "limpet.db"))
		if err != nil || len(kept) != 1 {
			s.t.Errorf("the old data of %s: %v, %v, want one database", m.Name, kept, err)
		}
		return
	}
	m.endsWith(1, recoveredWithout)
	m.Start()
	m.endsWith(1, recoveredWithout)
	m.wipe()
	s.takesIn(via, m)
}

// takesIn starts members with empty disks, one after the other, once they were added where nobody
// comes by himself.
func (s *story) takesIn(via *Member, fresh ...*Member) {
	s.t.Helper()
	for _, m := range fresh {
		if !s.Program.FindsMembers {
			s.announce(via, "member", "add", "--peer-urls="+m.PeerURL(), m.Name)
		}
		m.Start()
		m.Serves()
		s.counted(m)
		s.goesOn()
	}
}

// counted waits until whoever leads has made m a voter of raft: in the list of members it is one before.
func (s *story) counted(m *Member) {
	s.t.Helper()
	s.Eventually(m.Name+" is a voter of raft", func(ctx context.Context) error {
		status, err := m.Status(ctx)
		if err != nil {
			return err
		}
		step := fmt.Sprintf(`"step":"add voter","member":"%x"`, status.Header.MemberId)
		for _, o := range s.members {
			if strings.Contains(o.Process.Log.Text(), step) {
				return nil
			}
		}
		return fmt.Errorf("nobody has logged %s", step)
	})
}

// renewed checks that all are voters, and all but the survivor other members than before.
func (s *story) renewed(before []uint64, survivor *Member) {
	s.t.Helper()
	for i, id := range s.voters(s.members...) {
		if m := s.members[i]; (id == before[i]) != (m == survivor) {
			s.t.Errorf("%s had ID %x, has %x; %s has survived", m.Name, before[i], id, survivor.Name)
		}
	}
}
