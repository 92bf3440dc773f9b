package discovery

import (
	"net/netip"
	"testing"
	"time"
)

// book is a table with a clock, of member 1, instance 10.
type book struct {
	*table
	t     *testing.T
	clock time.Time
}

func newBook(t *testing.T) *book {
	b := &book{t: t, clock: time.Unix(1000, 0)}
	b.table = newTable(1, 10, func() time.Time { return b.clock })
	return b
}

// at is a node of member id.
func at(id, instance uint64, epoch uint32, addr string) node {
	return node{
		name: nodeName(id, instance, epoch), epoch: epoch, addr: netip.MustParseAddrPort(addr),
		info: Info{ID: id, Instance: instance},
	}
}

func (b *book) want(instance uint64, status Status, addr string) {
	b.t.Helper()
	ps := b.peers()
	if len(ps) != 1 || ps[0].Instance != instance || ps[0].Status != status || ps[0].Gossip != addr {
		b.t.Errorf("got %+v, want instance %d %v at %s", ps, instance, status, addr)
	}
}

func TestTheNewestProcessStandsForAMember(t *testing.T) {
	b := newBook(t)
	old, young := at(2, 20, 0, "10.0.0.2:1"), at(2, 21, 0, "10.0.0.3:1")
	b.seen(0, old)
	b.seen(0, young)
	b.want(21, Alive, "10.0.0.3:1")
	b.seen(0, old) // once more: it is not newer for that
	b.want(21, Alive, "10.0.0.3:1")

	// The newer does not answer, the older does: the older it is.
	claims := b.disputed()
	if len(claims) != 1 || claims[0].pair != (pair{old.name, young.name}) {
		t.Fatalf("got claims %+v, want one of %s and %s", claims, old.name, young.name)
	}
	if conflict, changed := b.settle(claims[0], []string{young.name}); conflict || !changed {
		t.Errorf("settle: got %v, %v, want no conflict but a change", conflict, changed)
	}
	b.want(20, Alive, "10.0.0.2:1")
	if again := b.disputed(); again != nil {
		t.Errorf("asked already, got %+v", again)
	}

	b.lost(0, old.name)
	b.want(21, Alive, "10.0.0.3:1")
	b.lost(0, young.name)
	b.want(21, Dead, "10.0.0.3:1")
	b.sweep()
	if len(b.nodes) != 1 {
		t.Errorf("%d nodes are kept, want the one that stands for the member", len(b.nodes))
	}
}

func TestAClaimThatNobodyAnswersIsSettledByTime(t *testing.T) {
	b := newBook(t)
	b.seen(0, at(1, 11, 0, "10.0.0.2:1")) // our own ID
	silent := []string{nodeName(1, 11, 0)}
	claims := b.disputed()
	if len(claims) != 1 {
		t.Fatalf("got %+v, want one claim", claims)
	}
	if conflict, _ := b.settle(claims[0], silent); conflict {
		t.Error("a conflict at once, though it did not answer")
	}
	b.clock = b.clock.Add(settleAfter + 1)
	if claims = b.disputed(); len(claims) != 1 {
		t.Fatalf("after %v: got %+v, want the claim again", settleAfter, claims)
	}
	if conflict, _ := b.settle(claims[0], silent); !conflict {
		t.Error("no conflict, though memberlist holds both alive for long")
	}
	if claims = b.disputed(); claims != nil {
		t.Errorf("told already, got %+v", claims)
	}
	if ps := b.peers(); len(ps) != 0 {
		t.Errorf("got %+v, want no peer with our own ID", ps)
	}
	// It goes, and comes again: that is a new conflict.
	b.lost(0, silent[0])
	b.disputed()
	b.seen(0, at(1, 11, 0, "10.0.0.2:1"))
	if claims = b.disputed(); len(claims) != 1 {
		t.Errorf("got %+v, want a new claim", claims)
	}
}

func TestAProcessThatHasMovedIsNotSeenWhereItWas(t *testing.T) {
	b := newBook(t)
	was, is := at(2, 20, 3, "10.0.0.2:1"), at(2, 20, 4, "10.0.0.3:1")
	b.seen(0, was)
	b.seen(0, is)
	if b.seen(0, was) {
		t.Error("where it was is news")
	}
	b.want(20, Alive, "10.0.0.3:1")
	if claims := b.disputed(); claims != nil {
		t.Errorf("got claims %+v, want none", claims)
	}
}

func TestSuspicionsEnd(t *testing.T) {
	b := newBook(t)
	n := at(2, 20, 0, "10.0.0.2:1")
	b.seen(0, n)
	b.suspect(n.name)
	b.want(20, Suspect, "10.0.0.2:1")
	b.answered(n.name)
	b.want(20, Alive, "10.0.0.2:1")
	b.suspect(n.name)
	b.clock = b.clock.Add(suspectFor + 1)
	if !b.sweep() {
		t.Error("sweep changed nothing")
	}
	b.want(20, Alive, "10.0.0.2:1")
	if since := b.peers()[0].Since; since != b.clock {
		t.Errorf("alive since %v, want %v", since, b.clock)
	}
	b.lost(0, n.name)
	if b.suspect(n.name) || b.answered(n.name) {
		t.Error("a dead node was suspected, or answered")
	}
}

func TestOnlyTheCurrentListCounts(t *testing.T) {
	b := newBook(t)
	found, gone := at(2, 20, 0, "10.0.0.2:1"), at(3, 30, 0, "10.0.0.3:1")
	b.seen(0, found)
	b.seen(0, gone)
	b.moved(1)
	if b.lost(0, found.name) || b.seen(0, at(4, 40, 0, "10.0.0.4:1")) {
		t.Error("the word of the list before was taken")
	}
	b.seen(1, found)
	b.expire()
	if ps := b.peers(); len(ps) != 2 || ps[0].Status != Alive || ps[1].Status != Dead {
		t.Errorf("got %+v, want 2 alive and 3 dead", ps)
	}
}

func TestTheGoneAreBounded(t *testing.T) {
	b := newBook(t)
	for id := range uint64(2 * maxGone) {
		b.clock = b.clock.Add(time.Second)
		n := at(id+2, id+2, 0, "10.0.0.2:1")
		n.leaving = true
		b.seen(0, n)
	}
	ps := b.peers()
	if len(ps) != maxGone || ps[0].ID != maxGone+2 || ps[0].Status != Left {
		t.Errorf("got %d, the first %+v, want the last %d to leave", len(ps), ps[0], maxGone)
	}
}

func TestTwinsAreToldOnce(t *testing.T) {
	b := newBook(t)
	known := netip.MustParseAddrPort("10.0.0.2:1")
	for range 3 {
		b.twin(at(2, 20, 0, "10.0.0.3:1"), known)
	}
	if due := b.newTwins(); len(due) != 1 || due[0].nodes[0].addr != known {
		t.Errorf("got %+v, want one, known at %v", due, known)
	}
	if due := b.newTwins(); due != nil {
		t.Errorf("got %+v again", due)
	}
	for port := range 2 * maxTwins {
		b.twin(at(2, 20, 0, netip.AddrPortFrom(known.Addr(), uint16(port+100)).String()), known)
	}
	if len(b.twins) > maxTwins {
		t.Errorf("%d twins are kept, bound is %d", len(b.twins), maxTwins)
	}
}
