package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// quick is the usual pace, twenty times as fast.
var quick = pace{
	gossip: 50 * time.Millisecond, probe: 50 * time.Millisecond, probeTimeout: 25 * time.Millisecond,
	pushPull: time.Second, look: 50 * time.Millisecond, reconnect: 200 * time.Millisecond,
}

var key = bytes.Repeat([]byte{7}, KeySize)

// patience bounds every wait; no test needs a noticeable part of it.
const patience = 10 * time.Second

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// site is a test's members and what they reported.
type site struct {
	t *testing.T

	mu        sync.Mutex
	conflicts []string // "at ID: ID here there"
	log       bytes.Buffer
	instance  uint64
}

func newSite(t *testing.T) *site {
	s := &site{t: t}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", s.log.String())
		}
	})
	return s
}

func (s *site) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// warnings returns the lines of the log that are not debug.
func (s *site) warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for line := range strings.Lines(s.log.String()) {
		if !strings.Contains(line, "level=DEBUG") && !strings.Contains(line, "level=INFO") {
			lines = append(lines, line)
		}
	}
	return lines
}

func (s *site) conflictsAt(id uint64) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []string
	for _, c := range s.conflicts {
		if rest, ok := strings.CutPrefix(c, fmt.Sprintf("at %d: ", id)); ok {
			at = append(at, rest)
		}
	}
	return at
}

// start opens a process of member id on bind; change may alter its Config.
func (s *site) start(id uint64, bind string, change func(*Config)) *Gossip {
	s.t.Helper()
	s.mu.Lock()
	s.instance++
	cfg := Config{
		Bind: bind, Key: key, Label: "limpet", Logger: slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Self: Info{ID: id, Instance: s.instance, Name: fmt.Sprintf("m%d", id), Peer: "127.0.0.1:2380"},
		pace: &quick,
	}
	s.mu.Unlock()
	cfg.OnConflict = func(of uint64, here, there string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conflicts = append(s.conflicts, fmt.Sprintf("at %d: %d %s %s", id, of, here, there))
	}
	if change != nil {
		change(&cfg)
	}
	g, err := Open(cfg)
	if err != nil {
		s.t.Fatalf("Open(%s): %v", bind, err)
	}
	s.t.Cleanup(func() {
		if err := g.Close(); err != nil {
			s.t.Errorf("Close: %v", err)
		}
	})
	return g
}

// join makes g join others, all of which must be reached.
func (s *site) join(g *Gossip, others ...*Gossip) {
	s.t.Helper()
	var addrs []string
	for _, o := range others {
		addrs = append(addrs, o.Addr())
	}
	if n, err := g.Join(s.t.Context(), addrs); n != len(addrs) || err != nil {
		s.t.Fatalf("Join(%v): got %d, %v, want all reached", addrs, n, err)
	}
}

func peerOf(g *Gossip, id uint64) Peer {
	for _, p := range g.Peers() {
		if p.ID == id {
			return p
		}
	}
	return Peer{}
}

func sees(g *Gossip, id uint64, status Status, at string) func() bool {
	return func() bool {
		p := peerOf(g, id)
		return p.ID == id && p.Status == status && p.Gossip == at
	}
}

func TestMembersLearnOfEachOther(t *testing.T) {
	s := newSite(t)
	changes := make(chan struct{}, 1)
	a := s.start(1, "127.0.0.1:0", func(c *Config) { c.OnChange = func() { signal(changes) } })
	b := s.start(2, "127.0.0.2:0", nil)
	c := s.start(3, "127.0.0.3:0", nil)
	s.join(b, a)
	s.join(c, a)
	for _, g := range []*Gossip{a, b, c} {
		eventually(t, "each sees the two others", func() bool { return len(g.Peers()) == 2 })
	}
	<-changes
	c.Update(func(i *Info) {
		i.Cluster, i.State, i.Index, i.Client = 9, true, 1000, []string{"http://127.0.0.3:2379"}
		i.Instance = 78 // ignored
	})
	for _, g := range []*Gossip{a, b} {
		eventually(t, "the others hear of an update", func() bool {
			p := peerOf(g, 3)
			return p.Cluster == 9 && p.State && p.Index == 1000 && slices.Equal(p.Client, []string{"http://127.0.0.3:2379"})
		})
	}
	if n := len(s.warnings()); n != 0 {
		t.Errorf("got %d warnings, want none: %v", n, s.warnings())
	}
}

func TestMembersOverIPv6(t *testing.T) {
	s := newSite(t)
	a, b := s.start(1, "[::1]:0", nil), s.start(2, "[::1]:0", nil)
	s.join(b, a)
	eventually(t, "a sees b", sees(a, 2, Alive, b.Addr()))
	eventually(t, "probes are answered", func() bool { return a.current().GetHealthScore() == 0 })
	if !strings.HasPrefix(b.Addr(), "[::1]:") {
		t.Errorf("Addr: got %s, want one of ::1", b.Addr())
	}
}

func TestAnAddressIsChosen(t *testing.T) {
	for _, bind := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		g := newSite(t).start(1, bind, nil)
		got, err := netip.ParseAddrPort(g.Addr())
		if err != nil || got.Addr().IsUnspecified() || got.Port() == 0 {
			t.Errorf("on %s: Addr is %s, want one that others can dial", bind, g.Addr())
		}
	}
}

func TestADeadMemberIsRememberedAndComesBack(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex
	var a *Gossip
	var seen []Status // of b, by a
	started := s.start(1, "127.0.0.1:0", func(c *Config) {
		c.OnChange = func() {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, peerOf(a, 2).Status)
		}
	})
	mu.Lock()
	a = started // nothing can have changed before b comes
	mu.Unlock()
	b := s.start(2, "127.0.0.2:0", nil)
	s.join(b, a)
	addr := b.Addr()
	eventually(t, "b is alive", sees(a, 2, Alive, addr))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is given up", sees(a, 2, Dead, addr))
	eventually(t, "it was suspected before", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(seen, Suspect)
	})

	// Nobody tells the new process of a: a itself tries the dead again.
	s.start(2, addr, nil)
	eventually(t, "b is alive where it was", sees(a, 2, Alive, addr))
	if got := s.conflictsAt(1); got != nil {
		t.Errorf("got conflicts %v, want none", got)
	}
}

func TestARestartedMemberIsTakenInAtOnce(t *testing.T) {
	for _, where := range []string{"where it was", "at a new address"} {
		t.Run(where, func(t *testing.T) {
			s := newSite(t)
			// So slowly probed that the old process would live on for minutes.
			slow := quick
			slow.probe, slow.pushPull = time.Hour, time.Hour
			set := func(c *Config) { c.pace = &slow }
			a, b := s.start(1, "127.0.0.1:0", set), s.start(2, "127.0.0.2:0", set)
			c := s.start(3, "127.0.0.4:0", set)
			s.join(b, a)
			s.join(c, a)
			old := b.Addr()
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			bind := old
			if where != "where it was" {
				bind = "127.0.0.3:0"
			}
			b = s.start(2, bind, set)
			s.join(b, a)
			for _, g := range []*Gossip{a, c} {
				eventually(t, "the others take the new process", func() bool {
					return sees(g, 2, Alive, b.Addr())() && peerOf(g, 2).Instance == b.cfg.Self.Instance
				})
			}
			// The old process is asked, is silent, and makes no conflict.
			eventually(t, "the claim is looked into", func() bool { return askedInVain(b) })
			for id := range uint64(3) {
				if got := s.conflictsAt(id + 1); got != nil {
					t.Errorf("member %d got conflicts %v, want none", id+1, got)
				}
			}
		})
	}
}

// askedInVain reports whether g has looked into a claim and found no conflict.
func askedInVain(g *Gossip) bool {
	g.table.mu.Lock()
	defer g.table.mu.Unlock()
	for _, c := range g.table.claims {
		if c.asked && !c.settled {
			return true
		}
	}
	return false
}

func TestAClonedMemberIsNoticedByBothSides(t *testing.T) {
	s := newSite(t)
	a := s.start(1, "127.0.0.1:0", nil)
	b := s.start(2, "127.0.0.2:0", nil)
	s.join(b, a)
	eventually(t, "a knows b", func() bool { return peerOf(a, 2).ID == 2 })
	clone := s.start(2, "127.0.0.3:0", nil)
	s.join(clone, a)

	eventually(t, "all three notice", func() bool {
		return len(s.conflictsAt(1)) == 1 && len(s.conflictsAt(2)) == 2
	})
	both := s.conflictsAt(2)
	slices.Sort(both)
	want := []string{
		fmt.Sprintf("2 %s %s", b.Addr(), clone.Addr()),
		fmt.Sprintf("2 %s %s", clone.Addr(), b.Addr()),
	}
	slices.Sort(want)
	if !slices.Equal(both, want) {
		t.Errorf("the two got %q, want %q", both, want)
	}
	if got, want := s.conflictsAt(1)[0], fmt.Sprintf("2 %s %s", b.Addr(), clone.Addr()); got != want {
		t.Errorf("the third got %q, want %q", got, want)
	}
	// It goes on, and is still told only once.
	eventually(t, "probes go on", func() bool { return peerOf(a, 2).Status == Alive })
	if n := len(s.conflictsAt(1)); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

func TestACopyOfARunningProcessIsNoticed(t *testing.T) {
	s := newSite(t)
	a := s.start(1, "127.0.0.1:0", nil)
	same := func(c *Config) { c.Self.Instance = 99 }
	b, twin := s.start(2, "127.0.0.2:0", same), s.start(2, "127.0.0.3:0", same)
	s.join(b, a)
	eventually(t, "a knows b", func() bool { return peerOf(a, 2).ID == 2 })
	s.join(twin, a)
	want := fmt.Sprintf("2 %s %s", b.Addr(), twin.Addr())
	eventually(t, "a notices", func() bool { return slices.Contains(s.conflictsAt(1), want) })
}

func TestLeaveIsToldAtOnce(t *testing.T) {
	s := newSite(t)
	slow := quick
	slow.gossip, slow.probe, slow.pushPull = time.Hour, time.Hour, time.Hour
	set := func(c *Config) { c.pace = &slow }
	a, b := s.start(1, "127.0.0.1:0", set), s.start(2, "127.0.0.2:0", set)
	s.join(b, a)
	if err := b.Leave(t.Context()); err != nil {
		t.Fatalf("Leave: %v", err)
	}
	addr := b.Addr()
	eventually(t, "a knows that b has left", sees(a, 2, Left, addr))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if _, err := b.Join(t.Context(), []string{a.Addr()}); !errors.Is(err, ErrClosed) {
		t.Errorf("Join after Close: got %v, want ErrClosed", err)
	}
}

// machine is a host whose address the test sets. Whatever it is, it lies on
// loopback, so packets get through; choose is told that it is an ordinary one.
type machine struct {
	mu   sync.Mutex
	addr string
}

func (m *machine) set(addr string) { m.mu.Lock(); m.addr = addr; m.mu.Unlock() }

func (m *machine) host() *host {
	addrs := func() ([]netip.Addr, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return []netip.Addr{netip.MustParseAddr(m.addr)}, nil
	}
	return &host{addrs: addrs, route: func(netip.Addr) (netip.Addr, bool) { return netip.Addr{}, false }}
}

func TestAnAddressThatChangesIsToldAtOnce(t *testing.T) {
	s := newSite(t)
	slow := quick // as in TestARestartedMemberIsTakenInAtOnce
	slow.probe, slow.pushPull = time.Hour, time.Hour
	var ms []*machine
	var gs []*Gossip
	for i := range 3 {
		m := &machine{addr: fmt.Sprintf("127.0.0.%d", i+2)}
		ms = append(ms, m)
		gs = append(gs, s.start(uint64(i+1), "0.0.0.0:0", func(c *Config) { c.host, c.pace = m.host(), &slow }))
	}
	s.join(gs[1], gs[0])
	s.join(gs[2], gs[0])
	eventually(t, "all see all", func() bool { return len(gs[1].Peers()) == 2 && len(gs[2].Peers()) == 2 })

	ms[1].set("127.0.1.9")
	_, port, err := net.SplitHostPort(gs[1].Addr())
	if err != nil {
		t.Fatal(err)
	}
	moved := net.JoinHostPort("127.0.1.9", port)
	eventually(t, "the member tells its new address", func() bool { return gs[1].Addr() == moved })
	for _, g := range []*Gossip{gs[0], gs[2]} {
		eventually(t, "the others have it", sees(g, 2, Alive, moved))
	}
	gs[1].Update(func(i *Info) { i.Index = 5 })
	eventually(t, "the moved member is still heard", func() bool { return peerOf(gs[2], 2).Index == 5 })
	for id := range uint64(3) {
		if got := s.conflictsAt(id + 1); got != nil {
			t.Errorf("member %d got conflicts %v, want none", id+1, got)
		}
	}
}

func TestTheRouteToTheFirstPeersIsAdvertised(t *testing.T) {
	local := []netip.Addr{netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.2.2.2")}
	h := host{
		addrs: func() ([]netip.Addr, error) { return slices.Clone(local), nil },
		route: func(dst netip.Addr) (netip.Addr, bool) {
			if strings.HasPrefix(dst.String(), "10.2.") {
				return local[1], true
			}
			return local[0], true
		},
	}
	g := newSite(t).start(1, "0.0.0.0:0", func(c *Config) { c.host = &h })
	at := func(ip string) string { return netip.AddrPortFrom(netip.MustParseAddr(ip), g.bind.Port()).String() }
	if got := g.Addr(); got != at("10.1.1.1") {
		t.Errorf("at first: got %s, want that of the default route", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody is there
	if n, err := g.Join(ctx, []string{"10.2.0.9:1"}); n != 0 || err == nil {
		t.Errorf("Join: got %d, %v, want an error", n, err)
	}
	if got := g.Addr(); got != at("10.2.2.2") {
		t.Errorf("after Join: got %s, want that of the route to the peer", got)
	}
}

func TestAllAddressesChangeAndABeaconHelps(t *testing.T) {
	s := newSite(t)
	var ms []*machine
	var gs []*Gossip
	for i := range 3 {
		m := &machine{addr: fmt.Sprintf("127.0.0.%d", i+2)}
		ms = append(ms, m)
		gs = append(gs, s.start(uint64(i+1), "0.0.0.0:0", func(c *Config) { c.host = m.host() }))
	}
	s.join(gs[1], gs[0])
	s.join(gs[2], gs[0])
	for i, m := range ms {
		m.set(fmt.Sprintf("127.0.1.%d", i+2))
	}
	var found []string
	for i, g := range gs {
		want := fmt.Sprintf("127.0.1.%d:", i+2)
		eventually(t, "each tells its new address", func() bool { return strings.HasPrefix(g.Addr(), want) })
		found = append(found, g.Addr())
	}
	for _, g := range gs {
		if _, err := g.Join(t.Context(), found); err != nil {
			t.Fatalf("Join(%v): %v", found, err)
		}
	}
	for i, g := range gs {
		for j, other := range gs {
			if i != j {
				eventually(t, "all see all again", sees(g, uint64(j+1), Alive, other.Addr()))
			}
		}
	}
}

func TestAPartitionHealsByItself(t *testing.T) {
	s := newSite(t)
	a, b := s.start(1, "127.0.0.1:0", nil), s.start(2, "127.0.0.2:0", nil)
	s.join(b, a)
	// Each gives the other up, as after a partition of minutes. The way back is
	// that of a changed address, without its rejoining.
	if err := a.current().Shutdown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b gives a up", func() bool { return peerOf(b, 1).Status == Dead })
	if _, err := a.move(a.advertised()); err != nil {
		t.Fatal(err)
	}
	a.table.expire() // b may have come back already; if not, a has given it up now
	eventually(t, "a sees b", sees(a, 2, Alive, b.Addr()))
	eventually(t, "b sees a", sees(b, 1, Alive, a.Addr()))
}

// A member that takes another ID is known by that one at once, also to those
// whom it meets later, and by the old one no more; not to itself either.
func TestAnotherID(t *testing.T) {
	s := newSite(t)
	a, b := s.start(1, "127.0.0.1:0", nil), s.start(2, "127.0.0.2:0", nil)
	s.join(b, a)
	eventually(t, "a sees b", sees(a, 2, Alive, b.Addr()))
	where := b.Addr()
	b.Update(func(in *Info) { in.ID, in.Cluster = 7, 9 })
	eventually(t, "a sees it under its new ID alone", func() bool {
		return len(a.Peers()) == 1 && sees(a, 7, Alive, where)() && peerOf(a, 7).Cluster == 9
	})
	c := s.start(3, "127.0.0.3:0", nil)
	s.join(c, a)
	eventually(t, "all see all", func() bool {
		return len(c.Peers()) == 2 && len(b.Peers()) == 2 && len(a.Peers()) == 2 && sees(c, 7, Alive, where)() && sees(b, 1, Alive, a.Addr())()
	})
	if at := s.conflictsAt(1); len(at) > 0 {
		t.Errorf("conflicts at a: %v", at)
	}
}

// The key is changed in three steps, by one member after the other, and nobody
// loses sight of anybody: all know the new one, all use it, all drop the old.
func TestKeyIsChangedWhileAllGossip(t *testing.T) {
	newer := bytes.Repeat([]byte{8}, KeySize)
	s := newSite(t)
	gs := []*Gossip{s.start(1, "127.0.0.1:0", nil), s.start(2, "127.0.0.2:0", nil), s.start(3, "127.0.0.3:0", nil)}
	s.join(gs[0], gs[1:]...)
	hear := func(step string) {
		t.Helper()
		for i, g := range gs {
			g.Update(func(in *Info) { in.Name = fmt.Sprint(step, i) })
		}
		for i, g := range gs {
			for j := range gs {
				if i != j {
					eventually(t, fmt.Sprint(i+1, " hears ", j+1, " say ", step), func() bool {
						p := peerOf(g, uint64(j+1))
						return p.Name == fmt.Sprint(step, j) && p.Status == Alive
					})
				}
			}
		}
	}
	hear("before")
	for n, keys := range [][][]byte{{key, newer}, {newer, key}, {newer}} {
		for i, g := range gs {
			if err := g.SetKeys(keys[0], keys[1:]...); err != nil {
				t.Fatal(err)
			}
			hear(fmt.Sprint("step", n, i))
		}
	}
	late := s.start(4, "127.0.0.4:0", func(c *Config) { c.Key, c.MoreKeys = newer, [][]byte{key} })
	s.join(late, gs[0])
	old := newSite(t).start(5, "127.0.0.5:0", nil)
	if n, err := old.Join(t.Context(), []string{gs[0].Addr()}); n != 0 || err == nil {
		t.Errorf("with the old key: joined %d, %v; want a refusal", n, err)
	}
	for _, keys := range [][][]byte{{[]byte("short")}, {newer, nil}} {
		if err := gs[0].SetKeys(keys[0], keys[1:]...); err == nil {
			t.Errorf("keys %q are taken", keys)
		}
	}
}
