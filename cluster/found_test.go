package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"limpet/peer"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// In whatever order they start, the members found one cluster, and nobody does
// before all are there.
func TestFoundTogether(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			bs := boards(t, 3)
			for _, i := range order[:2] {
				bs[i].start()
			}
			for _, i := range order[:2] {
				bs[i].awaitWaiting(bs[order[2]].name + " is missing")
				if id := bs[i].identity(); id != (Identity{Member: id.Member}) {
					t.Errorf("%s has begun alone: %+v", bs[i].name, id)
				}
			}
			bs[order[2]].start()
			wantOne(t, bs...)
		})
	}
}

func TestFoundAlone(t *testing.T) {
	b := newBoard(t, "m1", 0xa1, nil)
	b.start()
	wantOne(t, b)
	was := b.identity()
	b.restart()
	wantOne(t, b)
	if b.identity() != was {
		t.Errorf("after a restart: %+v, want %+v", b.identity(), was)
	}
}

// Crashes of the founder, the member with the lowest ID, at each step. Whether
// it comes back as it was or with an empty disk, there is one cluster in the
// end, of all who run.
func TestFounderCrashes(t *testing.T) {
	// Each step makes the founder crash there, and returns when it has.
	steps := map[string]func(t *testing.T, bs []*board){
		"before it has written anything": func(_ *testing.T, bs []*board) {
			bs[0].onWrite(func(Identity) error { return errCrash })
			startAll(bs)
		},
		"before it asks": func(_ *testing.T, bs []*board) {
			bs[0].onWrite(func(id Identity) error { bs[0].note(id); return errCrash })
			startAll(bs)
		},
		"when one has agreed": func(_ *testing.T, bs []*board) {
			bs[1].onWrite(func(Identity) error { bs[0].cancel(); bs[0].fail(errCrash); return nil })
			bs[2].onWrite(func(Identity) error { return errCrash })
			startAll(bs)
		},
		"when all have agreed, and nothing has begun": func(_ *testing.T, bs []*board) {
			for _, b := range bs[1:] {
				b.start()
			}
			ctx := bs[0].open()
			bs[0].wg.Go(func() {
				with := bs[0].local.line.look(ctx, []string{bs[1].addr, bs[2].addr}).empty
				_, _ = bs[0].local.founding.found(nil)
				hellos := []peer.Hello{bs[0].local.Hello(), with[0].Hello, with[1].Hello}
				_, _ = bs[0].local.founding.askAll(ctx, with, formRequest{bs[0].local.Identity().Cluster, hellos})
				bs[0].fail(errCrash)
			})
		},
		"when it has begun, and not bootstrapped": func(_ *testing.T, bs []*board) {
			for _, b := range bs[1:] {
				b.start()
			}
			ctx := bs[0].open()
			bs[0].wg.Go(func() { _, _ = bs[0].local.Enter(ctx); bs[0].fail(errCrash) })
		},
	}
	for name, step := range steps {
		for _, wiped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, wiped %v", name, wiped), func(t *testing.T) {
				t.Parallel()
				bs := boards(t, 3)
				step(t, bs)
				until(t, "the crash", func() bool { return bs[0].failure() != nil })
				bs[0].stop()
				for _, b := range bs {
					b.onWrite(nil)
				}
				if wiped {
					bs[0].wipe(0xaf)
				}
				bs[0].start()
				wantOne(t, bs...)
			})
		}
	}
}

func startAll(bs []*board) {
	for _, b := range bs {
		b.start()
	}
}

// Who has agreed to a founder leaves it for another only if that one has a
// lower ID, or the first is gone, and never once the first is sure.
func TestAgreeToOneFounder(t *testing.T) {
	const yours = 0xc2
	for _, c := range []struct {
		name          string
		first, second uint64 // IDs of the founders
		stage         Stage  // of the first
		gone, agrees  bool
	}{
		{"lower, while the first asks", 5, 4, stageAsks, false, true},
		{"higher, while the first asks", 5, 6, stageAsks, false, false},
		{"lower, when the first is sure", 5, 4, stageSure, false, false},
		{"lower, when the first has begun", 5, 4, stageBegun, false, false},
		{"higher, when the first has given up", 5, 6, stageNone, false, true},
		{"higher, when the first is gone", 5, 6, stageBegun, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bs := boards(t, 3)
			first, second, common := bs[0], bs[1], bs[2]
			first.disk.Member, second.disk.Member = c.first, c.second
			for _, b := range bs {
				b.open()
			}
			hellos := []peer.Hello{first.local.Hello(), second.local.Hello(), common.local.Hello()}
			form := func(from *board, cluster uint64) error {
				return from.local.line.ask(t.Context(), common.addr, "Form", formRequest{cluster, hellos}, new(struct{}))
			}
			if _, err := first.local.founding.found(nil); err != nil {
				t.Fatal(err)
			}
			x := first.local.Identity().Cluster
			if err := form(first, x); err != nil {
				t.Fatal(err)
			}
			first.local.me.setStage(c.stage)
			if c.gone {
				first.stop()
			}
			err := form(second, yours)
			if (err == nil) != c.agrees {
				t.Errorf("asked by the second: %v, want that it agrees: %v", err, c.agrees)
			}
			want := x
			if c.agrees {
				want = yours
			}
			if id := common.identity(); id.Cluster != want || !id.Forming {
				t.Errorf("it has written down %+v, want cluster %x", id, want)
			}
		})
	}
}

// A founder that agreed to another one meanwhile does not begin.
func TestFounderThatAgreedElsewhere(t *testing.T) {
	bs := boards(t, 2)
	bs[0].open()
	bs[1].open()
	l := bs[0].local
	if _, err := l.founding.found(nil); err != nil {
		t.Fatal(err)
	}
	cluster := l.Identity().Cluster
	d := bs[1].local.me.Description()
	bs[1].onWrite(func(Identity) error { // while it is asked
		return l.me.keep(func(id *Identity) error { id.Cluster = 0xee; return nil })
	})
	who, err := l.founding.agree(t.Context(), []*Description{d}, formRequest{cluster, []peer.Hello{l.Hello(), d.Hello}})
	if err != errOther || who != bs[0].name {
		t.Errorf("got %v by %s, want %v by itself", err, who, errOther)
	}
}

// A member takes part only in a founding such as it was started for, and only
// while it is empty.
func TestFormRefused(t *testing.T) {
	three := []peer.Hello{{ID: 1}, {ID: 2}, {ID: 3}}
	for _, c := range []struct {
		name string
		set  func(*Config)
		id   Identity
		req  formRequest
		want string
	}{
		{"no cluster", nil, Identity{Member: 9}, formRequest{0, three}, "without a cluster"},
		{"alone", nil, Identity{Member: 9}, formRequest{7, three}, "not started to found a cluster of 3"},
		{"to join", func(c *Config) { c.Existing = true }, Identity{Member: 9}, formRequest{7, three}, "not started to found"},
		{"five", func(c *Config) { c.Expect = 5 }, Identity{Member: 9}, formRequest{7, three}, "not started to found"},
		{"three", func(c *Config) { c.Expect = 3 }, Identity{Member: 9}, formRequest{7, three}, ""},
		{"three, again", func(c *Config) { c.Expect = 3 }, Identity{Member: 9, Cluster: 7, Forming: true}, formRequest{7, three}, ""},
		{"in a cluster", func(c *Config) { c.Expect = 3 }, Identity{Member: 9, Cluster: 8}, formRequest{7, three}, "belongs to cluster 8"},
		{"in this very cluster", func(c *Config) { c.Expect = 3 }, Identity{Member: 9, Cluster: 7}, formRequest{7, three}, "belongs to cluster 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			founder, b := newBoard(t, "f", 1, nil), newBoard(t, "b", 9, c.set)
			b.disk = c.id
			founder.open()
			b.open()
			err := founder.local.line.ask(t.Context(), b.addr, "Form", c.req, new(struct{}))
			if (err == nil) != (c.want == "") || err != nil && !contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			want := c.id
			if c.want == "" {
				want = Identity{Member: 9, Cluster: 7, Forming: true}
			}
			if b.identity() != want {
				t.Errorf("it has written down %+v, want %+v", b.identity(), want)
			}
		})
	}
}

// A disk that cannot be written ends the attempt: trying on would not help.
func TestFoundOnAFullDisk(t *testing.T) {
	b := newBoard(t, "m1", 0xa1, nil)
	b.onWrite(func(Identity) error { return errCrash })
	ctx := b.open()
	if _, err := b.local.Enter(ctx); err != errCrash {
		t.Errorf("got %v, want %v", err, errCrash)
	}
	if id := b.local.Identity(); id.Cluster != 0 {
		t.Errorf("identity %+v, want none that is not on disk", id)
	}
}

// Who waits says what for, when it is stopped.
func TestEnterStopped(t *testing.T) {
	bs := boards(t, 2)
	ctx, cancel := context.WithCancel(bs[0].open())
	done := make(chan error, 1)
	go func() { _, err := bs[0].local.Enter(ctx); done <- err }()
	bs[0].awaitWaiting("m2 is missing")
	cancel()
	if err := <-done; err == nil || !contains(err.Error(), "m2 is missing") {
		t.Errorf("got %v, want what it waited for", err)
	}
}

// A member whose log begins with its founders counts on it as soon as it can be
// asked, before its raft runs: it is not empty, and takes part in nothing else.
func TestBegunIsNotEmpty(t *testing.T) {
	bs := boards(t, 3)
	three := bs[2].set
	bs[2].set = func(c *Config) { three(c); c.Logged = 1 }
	bs[2].disk = Identity{Member: 0xa3, Cluster: 7, Forming: true}
	for _, b := range bs {
		b.open()
	}
	with := bs[0].local.line.look(t.Context(), []string{bs[1].addr, bs[2].addr}).empty
	if len(with) != 2 {
		t.Fatalf("%d members are forming, want 2", len(with))
	}
	if start, err := bs[0].local.founding.foundWith(t.Context(), with); start != nil || err != nil {
		t.Errorf("the founder begins: %+v, %v", start, err)
	}
	if doing := bs[0].local.Doing(); !contains(doing, "for m3 to found the cluster that it has begun") {
		t.Errorf("the founder waits %q", doing)
	}
	hellos := []peer.Hello{{ID: 1}, {ID: 2}, {ID: 3}}
	err := bs[0].local.line.ask(t.Context(), bs[2].addr, "Form", formRequest{8, hellos}, new(struct{}))
	if err == nil || bs[2].identity().Cluster != 7 {
		t.Errorf("asked to found another cluster: %v; it has written down %+v", err, bs[2].identity())
	}
	start, err := bs[2].local.Enter(t.Context())
	if err != nil || len(start.Bootstrap) > 0 {
		t.Errorf("it goes on with %+v, %v, want what its log says", start, err)
	}
}
