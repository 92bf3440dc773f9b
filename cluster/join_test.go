package cluster

import (
	"fmt"
	"slices"
	"testing"

	"limpet/txn"
)

// A new member asks any member, and the leader takes it in.
func TestJoinThroughAFollower(t *testing.T) {
	t.Parallel()
	bs := founded(t, 2)
	b := joiner(t, "m3", 0xb1, follower(t, bs...), true)
	b.start()
	awaitIn(t, bs[0], b)
	m := b.running().Membership().Self
	if m.ID != 0xb1 || m.Name != "m3" || !m.Learner || !m.Auto || m.Replaces != 0 || m.PeerURLs[0] != b.url() {
		t.Errorf("the new member is %+v, want a learner to be promoted", m)
	}
	if id := b.identity(); id.Cluster != bs[0].identity().Cluster || id.Forming {
		t.Errorf("it has written down %+v", id)
	}
}

// Without a token an operator decides who comes in. Who is refused hears what
// to do, and goes on trying.
func TestJoinByAnOperator(t *testing.T) {
	t.Parallel()
	bs := []*board{newBoard(t, "m1", 0xa1, nil)}
	bs[0].start()
	awaitIn(t, bs...)
	b := joiner(t, "m2", 0xb1, bs[0], false)
	b.start()
	b.awaitWaiting(fmt.Sprintf("add it first: etcdctl member add m2 --peer-urls=%s", b.url()))
	if n := len(bs[0].running().Membership().Members); n != 1 {
		t.Errorf("%d members, want 1", n)
	}
	add := &txn.MemberAdd{Member: &txn.Member{ID: 0x77, PeerURLs: []string{"http://elsewhere:1", b.url()}}}
	if _, err := bs[0].running().Propose(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	awaitIn(t, b)
	if id := b.identity().Member; id != 0x77 {
		t.Errorf("it is member %x, want that of the operator, 77", id)
	}
	// It was added as a voter, and is one as soon as it has what there is.
	until(t, "its vote", func() bool { return fmt.Sprint(bs[0].running().Servers()) == "[{119 true} {161 true}]" })

	if _, err := leader(t, bs[0], b).running().Propose(t.Context(), &txn.MemberRemove{ID: 0x77}); err != nil {
		t.Fatal(err)
	}
	until(t, "it to hear that it was removed", func() bool { return b.failure() == ErrRemoved && b.identity().Removed })
	b.stop()
	until(t, "it to be out of raft", func() bool { return fmt.Sprint(bs[0].running().Servers()) == "[{161 true}]" })
	b.start()
	until(t, "it to remember", func() bool { return b.failure() == ErrRemoved })
}

// Who was removed while it was away is told when it comes back.
func TestRemovedWhileAway(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	gone := bs[2]
	gone.stop()
	if _, err := leader(t, bs[:2]...).running().Propose(t.Context(), &txn.MemberRemove{ID: gone.identity().Member}); err != nil {
		t.Fatal(err)
	}
	for _, b := range bs[:2] {
		until(t, "raft at "+b.name+" to go on without it", func() bool { return !inRaft(b.running(), gone.identity().Member) })
		until(t, b.name+" to forget it", func() bool { return b.local.me.cfg.Roster.sighting(gone.identity().Member) == sighting{} })
	}
	gone.start()
	until(t, "it to be told", func() bool { return gone.failure() == ErrRemoved && gone.identity().Removed })
	if gone.running() != nil {
		t.Error("it has taken part again")
	}
}

// A wiped disk is a new member, in the place of the old one; the old one's vote
// is never used again.
func TestWiped(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	old := bs[2].identity()
	bs[2].wipe(0xb1)
	bs[2].start()
	awaitIn(t, bs...)
	self := bs[2].running().Membership().Self
	if self.ID != 0xb1 || self.Replaces != old.Member || !self.Learner {
		t.Errorf("the wiped one is %+v, want a learner in place of %x", self, old.Member)
	}
	if id := bs[2].identity(); id.Member == old.Member || id.Cluster != old.Cluster {
		t.Errorf("it has written down %+v, want another member of cluster %x", id, old.Cluster)
	}
	until(t, "it to be in raft, without a vote", func() bool {
		return fmt.Sprint(leader(t, bs...).running().Servers()) == "[{161 true} {162 true} {163 true} {177 false}]"
	})
}

// Two wiped members wait for the one that has state; they found nothing.
func TestTwoWiped(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	was := bs[0].identity()
	bs[1].wipe(0x1)
	bs[2].wipe(0x2)
	bs[1].start()
	bs[2].start()
	for _, b := range bs[1:] {
		b.awaitWaiting("to be taken into the cluster")
		if id := b.identity(); id.Cluster != 0 || id.Forming {
			t.Errorf("%s has written down %+v, want nothing", b.name, id)
		}
	}
	if bs[0].identity() != was || bs[0].failure() != nil {
		t.Errorf("the survivor is %+v, %v; want %+v", bs[0].identity(), bs[0].failure(), was)
	}
	bs[0].restart()
	until(t, "the survivor to be back", func() bool { return bs[0].running() != nil })
	if got := bs[0].running().Membership().Cluster; got != was.Cluster {
		t.Errorf("the survivor's cluster is %x, want %x", got, was.Cluster)
	}
}

// A name belongs to one member at a time: a second that runs gets another.
func TestJoinWithANameTaken(t *testing.T) {
	t.Parallel()
	bs := founded(t, 1)
	var twins []*board
	for i := range 3 {
		twins = append(twins, joiner(t, "m1", uint64(0xb1+i), bs[0], true))
	}
	startAll(twins)
	awaitIn(t, twins...)
	until(t, "all to be known", func() bool { return len(bs[0].running().Membership().Members) == 4 })
	var names []string
	for _, m := range bs[0].running().Membership().Members {
		if m.Replaces != 0 {
			t.Errorf("%s replaces %x, want nobody: that one runs", m.Name, m.Replaces)
		}
		names = append(names, m.Name)
	}
	slices.Sort(names)
	if got := fmt.Sprint(names); got != "[m1 m1-00b1 m1-00b2 m1-00b3]" {
		t.Errorf("names %s", got)
	}
}

// Of two new members with one name at the same time, one gets it.
func TestJoinTogetherWithOneName(t *testing.T) {
	t.Parallel()
	bs := founded(t, 1)
	twins := []*board{joiner(t, "twin", 0xb1, bs[0], true), joiner(t, "twin", 0xb2, bs[0], true)}
	startAll(twins)
	awaitIn(t, twins...)
	one, other := twins[0].local.Hello().Name, twins[1].local.Hello().Name
	if one == other || one != "twin" && other != "twin" {
		t.Errorf("the names are %s and %s, want twin and another", one, other)
	}
}

// What the leader answers to those who ask to join; nobody runs but itself.
func TestTakeIn(t *testing.T) {
	t.Parallel()
	const elsewhere = "http://127.0.0.1:1"
	for _, c := range []struct {
		name string
		set  func(*Config)            // of the leader
		has  *txn.Member              // beside the leader
		req  joinRequest              // self is put in place of the leader's URL
		want joinReply                // without the cluster
		fail string                   // or this
		last func(m *txn.Member) bool // what the asker's record must say
	}{
		{name: "a stranger", set: autoAdd, req: joinRequest{ID: 9, Name: "x"}, want: joinReply{ID: 9, Name: "x"},
			last: func(m *txn.Member) bool { return m.Learner && m.Auto && m.Replaces == 0 }},
		{name: "a stranger, by hand", req: joinRequest{ID: 9, Name: "x"}, fail: "no member with the peer URLs"},
		{name: "no ID", set: autoAdd, req: joinRequest{Name: "x"}, fail: "without a member"},
		{name: "a member already", has: &txn.Member{ID: 9, Name: "x"}, req: joinRequest{ID: 9, Name: "x"}, want: joinReply{ID: 9, Name: "x"}},
		{name: "added by hand", has: &txn.Member{ID: 8, PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "x", PeerURLs: []string{elsewhere}}, want: joinReply{ID: 8, Name: "x"}},
		{name: "a URL of one that is away", has: &txn.Member{ID: 8, Name: "x", PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "x", PeerURLs: []string{elsewhere}}, want: joinReply{ID: 9, Name: "x"},
			last: func(m *txn.Member) bool { return m.Replaces == 8 }},
		{name: "the address that one who is away had", set: autoAdd, has: &txn.Member{ID: 8, Name: "y", PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "x", PeerURLs: []string{elsewhere}, Follows: true}, want: joinReply{ID: 9, Name: "x"},
			last: func(m *txn.Member) bool { return m.Replaces == 0 && m.Learner && m.Auto }},
		{name: "the address that one who is away had, and the name of another", set: autoAdd, has: &txn.Member{ID: 8, Name: "y", PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "m1", PeerURLs: []string{elsewhere}, Follows: true}, want: joinReply{ID: 9, Name: "m1-0009"},
			last: func(m *txn.Member) bool { return m.Replaces == 0 }},
		{name: "added by hand, found by gossip", has: &txn.Member{ID: 8, PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "x", PeerURLs: []string{elsewhere}, Follows: true}, want: joinReply{ID: 8, Name: "x"}},
		{name: "a URL of one that runs", set: autoAdd, req: joinRequest{ID: 9, Name: "x", PeerURLs: []string{"self"}}, fail: "runs with one of the peer URLs"},
		{name: "the name of one that is away", set: autoAdd, has: &txn.Member{ID: 8, Name: "x", PeerURLs: []string{elsewhere}},
			req: joinRequest{ID: 9, Name: "x"}, want: joinReply{ID: 9, Name: "x"},
			last: func(m *txn.Member) bool { return m.Replaces == 8 }},
		{name: "the name of one that runs", set: autoAdd, req: joinRequest{ID: 9, Name: "m1"}, want: joinReply{ID: 9, Name: "m1-0009"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t, "m1", 0xa1, c.set)
			b.start()
			awaitIn(t, b)
			if c.has != nil {
				if _, err := b.running().Propose(t.Context(), &txn.MemberAdd{Member: c.has}); err != nil {
					t.Fatal(err)
				}
			}
			if slices.Equal(c.req.PeerURLs, []string{"self"}) {
				c.req.PeerURLs = []string{b.url()}
			}
			asker := newBoard(t, "x", 9, nil)
			asker.open()
			reply := new(joinReply)
			c.req.Format = b.running().Membership().Format()
			err := asker.local.line.ask(t.Context(), b.addr, "Join", c.req, reply)
			if (err == nil) != (c.fail == "") || err != nil && !contains(err.Error(), c.fail) {
				t.Fatalf("got %v, want %q", err, c.fail)
			}
			if err != nil {
				return
			}
			c.want.Cluster = b.identity().Cluster
			if *reply != c.want {
				t.Errorf("got %+v, want %+v", *reply, c.want)
			}
			if m := b.running().Membership().Member(9); c.last != nil && (m == nil || !c.last(m)) {
				t.Errorf("its record is %+v", m)
			}
			if err := asker.local.line.ask(t.Context(), b.addr, "Join", c.req, reply); err != nil || *reply != c.want {
				t.Errorf("asked again: %+v, %v; want the same", *reply, err)
			}
		})
	}
}

func autoAdd(c *Config) { c.AutoAdd = true }

// An ID that raft counts on is not handed out, though its member never told
// its name: it may have voted before it lost its disk.
func TestVotesAreNotHandedOut(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	lost := bs[2].identity().Member
	bs[2].wipe(0xb1)
	nameless := &txn.Member{ID: lost, PeerURLs: []string{bs[2].url()}}
	if _, err := leader(t, bs[:2]...).running().Propose(t.Context(), nameless); err != nil {
		t.Fatal(err)
	}
	bs[2].start()
	awaitIn(t, bs[2])
	if m := bs[2].running().Membership().Self; m.ID != 0xb1 || m.Replaces != lost {
		t.Errorf("it came in as %+v, want as b1 in place of %x", m, lost)
	}
}

// Who is in no cluster, or in one that has no name yet, takes nobody in.
func TestJoinNowhere(t *testing.T) {
	b, asker := newBoard(t, "m1", 0xa1, nil), newBoard(t, "x", 9, nil)
	b.open()
	asker.open()
	err := asker.local.line.ask(t.Context(), b.addr, "Join", joinRequest{ID: 9}, new(joinReply))
	if err == nil || !contains(err.Error(), "in no cluster yet") {
		t.Errorf("got %v, want that it is in no cluster", err)
	}
}

// With two clusters in sight there is no telling which is meant.
func TestTwoClustersInSight(t *testing.T) {
	t.Parallel()
	one, two := newBoard(t, "one", 1, nil), newBoard(t, "two", 2, nil)
	startAll([]*board{one, two})
	awaitIn(t, one, two)
	b := newBoard(t, "b", 9, func(c *Config) { c.Existing, c.AutoAdd, c.Static = true, true, static(one, two) })
	b.start()
	b.awaitWaiting("for there to be one cluster: one belongs to cluster")
}
