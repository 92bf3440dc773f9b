package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"

	"limpet/peer"
	"limpet/txn"
)

// ping calls a member as members do.
func (b *board) ping(id uint64) error {
	return b.local.line.port.Invoke(b.t.Context(), id, memberPath+"Ping", new(emptypb.Empty), new(emptypb.Empty))
}

// copyOf is a board with the identity and, with hints, the roster of another.
func copyOf(t *testing.T, b *board, hints bool) *board {
	t.Helper()
	c := newBoard(t, b.name, 0, b.set)
	c.disk = b.identity()
	if hints {
		c.dir = b.dir
	}
	return c
}

// A copy of the data directory of a member that runs does not even start: it
// asks whom it knew.
func TestCopyAtStart(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	c := copyOf(t, bs[2], true)
	c.start()
	until(t, "the copy to give up", func() bool { return errors.Is(c.failure(), ErrCopy) })
	if c.running() != nil {
		t.Error("the copy takes part")
	}
	for _, b := range bs {
		if b.failure() != nil {
			t.Errorf("%s: %v", b.name, b.failure())
		}
	}
}

// A copy that knows nobody at first is found out by the first member it calls,
// be it the original itself.
func TestCopyAtRuntime(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	for _, called := range []*board{bs[0], bs[2]} {
		c := copyOf(t, bs[2], false)
		c.open()
		c.local.me.cfg.Roster.saw(called.local.Hello())
		var r *peer.Refusal
		if _, err := c.port.Who(t.Context(), called.addr); !errors.As(err, &r) || r.Code != peer.Copy {
			t.Errorf("%s answers a copy with %v, want %s", called.name, err, peer.Copy)
		}
		if !errors.Is(c.failure(), ErrCopy) {
			t.Errorf("the copy at %s: %v, want %v", called.name, c.failure(), ErrCopy)
		}
		c.stop()
	}
	for _, b := range bs {
		if b.failure() != nil {
			t.Errorf("%s: %v", b.name, b.failure())
		}
	}
}

// A member that restarts, at the same address or at another one, is no copy;
// and what it reports of itself is brought up to date, whoever leads.
func TestRestartIsNoCopy(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	old := leader(t, bs...)
	old.stop()
	rest := slices.DeleteFunc(slices.Clone(bs), func(b *board) bool { return b == old })
	leader(t, rest...)
	old.start()
	awaitIn(t, old)

	old.stop()
	old.addr = newBoard(t, "", 1, nil).addr
	set := old.set
	old.set = func(c *Config) { set(c); c.Version, c.ClientURLs = "0.2", []string{"http://new"} }
	old.start()
	awaitIn(t, old)
	for _, b := range bs {
		if b.failure() != nil {
			t.Errorf("%s: %v", b.name, b.failure())
		}
	}
	id := old.identity().Member
	for _, b := range rest {
		until(t, "the report at "+b.name, func() bool {
			m := b.running().Membership().Member(id)
			return m.Version == "0.2" && m.ClientURLs[0] == "http://new"
		})
		until(t, b.name+" to call it where it is", func() bool { return b.local.Where(id)[0] == old.addr })
		if err := b.ping(id); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
}

// Members of another cluster, strangers and those who are nowhere are told why
// they are not wanted; asking is free.
func TestAdmit(t *testing.T) {
	t.Parallel()
	b := founded(t, 1)[0]
	n := b.running()
	if _, err := n.Propose(t.Context(), &txn.MemberAdd{Member: &txn.Member{ID: 5, PeerURLs: []string{"http://x:1"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Propose(t.Context(), &txn.MemberRemove{ID: 5}); err != nil {
		t.Fatal(err)
	}
	self := b.local.Hello()
	for _, c := range []struct {
		name string
		h    peer.Hello
		want peer.Code // empty: admitted
	}{
		{"a member", peer.Hello{ID: 9, Cluster: self.Cluster, Purpose: peer.Call}, ""},
		{"itself", self, ""},
		{"another process of it", peer.Hello{ID: self.ID, Instance: self.Instance + 1, Purpose: peer.Ask}, peer.Copy},
		{"a removed member", peer.Hello{ID: 5, Cluster: self.Cluster, Purpose: peer.Raft}, peer.Removed},
		{"a removed member that asks", peer.Hello{ID: 5, Cluster: self.Cluster, Purpose: peer.Ask}, peer.Removed},
		{"another cluster", peer.Hello{ID: 9, Cluster: 1, Purpose: peer.Raft}, peer.OtherCluster},
		{"no cluster", peer.Hello{ID: 9, Purpose: peer.Call}, peer.OtherCluster},
		{"another cluster that asks", peer.Hello{ID: 9, Cluster: 1, Purpose: peer.Ask}, ""},
		{"nobody that asks", peer.Hello{ID: 9, Purpose: peer.Ask}, ""},
	} {
		got := peer.Code("")
		if r := b.local.Admit(c.h); r != nil {
			got = r.Code
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	empty := newBoard(t, "x", 7, nil)
	empty.open()
	if r := empty.local.Admit(peer.Hello{ID: 9, Cluster: 1, Purpose: peer.Raft}); r == nil || r.Code != peer.NoMember {
		t.Errorf("at a member of no cluster: %v, want %s", r, peer.NoMember)
	}
}

// Only members of the cluster are written down: others may come by thousands.
func TestStrangersAreNotRemembered(t *testing.T) {
	b := newBoard(t, "m1", 0xa1, nil)
	b.disk.Cluster = 7
	b.open()
	for _, cluster := range []uint64{0, 8, 7} {
		if r := b.local.Admit(peer.Hello{ID: cluster + 1, Cluster: cluster, Address: "a:1", Purpose: peer.Ask}); r != nil {
			t.Errorf("cluster %x: %v", cluster, r)
		}
	}
	if got := fmt.Sprint(b.local.me.cfg.Roster.seen); got != "map[8:{0 a:1 }]" {
		t.Errorf("remembered %s, want the member of cluster 7", got)
	}
}

// Who only asks who is there is answered without a look at anybody else: after a
// power cut all look at each other.
func TestLookIsAnsweredAtOnce(t *testing.T) {
	l := New(Config{Identity: Identity{Member: 1, Cluster: 7}, Roster: OpenRoster(filepath.Join(t.TempDir(), "peers.json"))})
	l.me.cfg.Roster.saw(at(9, 1, "a:1"))
	// Any look would wait for Use.
	if r := l.Admit(peer.Hello{ID: 9, Instance: 2, Cluster: 7, Address: "b:1", Purpose: peer.Look}); r != nil {
		t.Errorf("got %v, want an answer", r)
	}
}

// A port may have callers before its Local knows it.
func TestAdmitBeforeUse(t *testing.T) {
	b := newBoard(t, "m1", 0xa1, nil)
	b.open()
	l := New(Config{Identity: Identity{Member: 1, Cluster: 7}, Roster: OpenRoster(filepath.Join(t.TempDir(), "peers.json"))})
	l.me.cfg.Roster.saw(at(9, 1, b.addr))
	done := make(chan *peer.Refusal, 1)
	go func() {
		done <- l.Admit(peer.Hello{ID: 9, Instance: 2, Cluster: 7, Address: "b:1", Purpose: peer.Call})
	}()
	l.Use(b.port)
	if r := <-done; r != nil {
		t.Errorf("got %v, want that it is admitted: another member lives at the old address", r)
	}
}

// What a member may be told by others, and what becomes of it.
func TestRefused(t *testing.T) {
	for code, want := range map[peer.Code]error{
		peer.Removed: ErrRemoved, peer.Copy: ErrCopy, peer.Recovered: nil, peer.OtherCluster: nil, peer.OtherMember: nil, peer.NoMember: nil, peer.OtherProtocol: nil,
	} {
		b := newBoard(t, "m1", 0xa1, nil)
		b.open()
		b.local.Refused(&peer.Refusal{Code: code, Text: "because"})
		if err := b.failure(); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: got %v, want %v", code, err, want)
		}
		if b.identity().Removed != (code == peer.Removed) {
			t.Errorf("%s: written down %+v", code, b.identity())
		}
		b.stop()
	}
}

// A slow disk holds up nobody who asks who this member is.
func TestKeepHoldsUpNobody(t *testing.T) {
	b := newBoard(t, "m1", 0xa1, nil)
	writing, written := make(chan struct{}), make(chan struct{})
	b.onWrite(func(Identity) error { close(writing); <-written; return nil })
	b.open()
	done := make(chan error, 1)
	go func() { _, err := b.local.founding.found([]uint64{0xa1}); done <- err }()
	<-writing
	if h := b.local.Hello(); h.Cluster != 0 {
		t.Errorf("it tells of cluster %x, which is not on disk", h.Cluster)
	}
	close(written)
	if err := <-done; err != nil || b.local.Hello().Cluster == 0 {
		t.Errorf("%v, cluster %x", err, b.local.Hello().Cluster)
	}
}

func TestAddressesOfURLs(t *testing.T) {
	for want, urls := range map[string][]string{
		"a:1": {"http://a:1"}, "b:2": {"::", "https://b:2"}, "": {}, "c:3": {"unix", "http://c:3/"},
	} {
		if got := hostOf(urls); got != want {
			t.Errorf("%v: got %q, want %q", urls, got, want)
		}
	}
	for want, addr := range map[string]string{"10.0.0.1:9": "10.0.0.1:7946", "[::1]:9": "[::1]:7946", "host:9": "host"} {
		if got := joinPort(addr, "9"); got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
}
