package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"limpet/auth"
	"limpet/txn"
	"limpet/v2tree"
)

// knowV2 has all members of c say that they read the newest entries.
func (c *cluster) knowV2() {
	c.t.Helper()
	found := &txn.Found{Cluster: 7}
	for id := range c.members {
		found.Members = append(found.Members, &txn.Member{ID: id, Name: fmt.Sprint("m", id), Format: newestFormat})
	}
	if _, err := c.leader().Propose(c.t.Context(), found); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range c.members {
		until(c.t, "a member to know that all read the newest entries", func() bool { return p.Membership().Format() == newestFormat })
	}
}

// setV2 writes a v2 key; again if a busy machine has made the members elect another
// leader meanwhile.
func (m *member) setV2(path, value string, expires int64) *v2tree.Event {
	m.t.Helper()
	q := &v2tree.Request{Op: v2tree.Set, Path: path, Value: value, Expires: expires, Time: time.Now().UnixNano()}
	for end := time.Now().Add(deadline); ; {
		resp, err := m.Propose(m.t.Context(), q)
		switch {
		case err == nil:
			return resp.(*v2tree.Event)
		case !errors.Is(err, ErrLeaderChanged) && !errors.Is(err, ErrNoLeader) || time.Now().After(end):
			m.t.Fatalf("set %s: %v", path, err)
		}
	}
}

func (m *member) watchV2(path string, recursive bool, since uint64) *V2Watcher {
	m.t.Helper()
	w, err := m.V2().Watch(path, recursive, since)
	if err != nil {
		m.t.Fatalf("watch %s from %d: %v", path, since, err)
	}
	return w
}

// wantNext waits for the watcher's next event.
func wantNext(t *testing.T, w *V2Watcher, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	e, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("instead of %q: %v", want, err)
	}
	if got := fmt.Sprintf("%s %s=%s", e.Action, e.Key, e.Node.Value); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// A v2 key is written at a follower, seen there at once and heard of everywhere;
// its time runs out after another member has come to lead.
func TestV2InACluster(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.knowV2()
	f, old := c.follower(), c.leader()
	var watchers []*V2Watcher
	for _, p := range c.members {
		w := p.watchV2("/", true, 0)
		defer w.Close()
		watchers = append(watchers, w)
	}
	until(t, "another leader", func() bool { return f.Leading() || old.HandOver(t.Context(), f.id) == nil && f.Leading() })
	e := old.setV2("/app/key", "v", time.Now().Add(time.Second).UnixNano())
	if _, n, err := old.V2().Get("/app/key"); err != nil || n != e.Node {
		t.Errorf("after its write the member reads %v, %v; want %v", n, err, e.Node)
	}
	until(t, "yet another leader", func() bool { return old.Leading() || c.leader().HandOver(t.Context(), old.id) == nil && old.Leading() })
	for _, w := range watchers {
		wantNext(t, w, "set /app/key=v")
		wantNext(t, w, "expire /app/key=")
	}
	for _, p := range c.members {
		if _, _, err := p.V2().Get("/app/key"); err == nil || err.Code != v2tree.KeyNotFound || err.Index != e.Index()+1 {
			t.Errorf("member %d finds the key that ran out: %v", p.id, err)
		}
	}
}

// A restart keeps tree, history and what is due, from the database or the log.
func TestV2Restarts(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir, nil)
	if _, err := m.Propose(t.Context(), &txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 0xabc, Name: "m", Format: newestFormat}}}); err != nil {
		t.Fatal(err)
	}
	const far = 4_000_000_000_000_000_000
	first := m.setV2("/a", "1", far)
	m.setV2("/a", "2", far)
	if err := m.store.WaitDurable(t.Context(), m.store.Applied()); err != nil {
		t.Fatal(err)
	}
	m.setV2("/b/c", "3", 0) // in the log alone, where the process is killed
	for range 2 {
		m.stop()
		m = start(t, dir, nil)
		if v := m.V2().View(); v.Index() != first.Index()+2 || v.Due() != far {
			t.Errorf("after a restart: index %d, due %d; want %d, %d", v.Index(), v.Due(), first.Index()+2, int64(far))
		}
		w := m.watchV2("/", true, first.Index())
		wantNext(t, w, "set /a=1")
		wantNext(t, w, "set /a=2")
		wantNext(t, w, "set /b/c=3")
		w.Close()
	}
}

// A member that adopts another's database goes on with its watchers: those whose
// events are still known miss none, others hear that they do.
func TestV2Adoption(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.MaxLogBytes, cfg.SnapshotEntries = 1<<20, 10 })
	c.knowV2()
	lag := c.follower()
	at := lag.setV2("/a", "before", 0).Index()
	near := lag.watchV2("/near", false, at+1)
	defer near.Close()
	until(t, "everybody to have it", func() bool {
		for _, p := range c.members {
			if p.V2().View().Index() < at {
				return false
			}
		}
		return true
	})
	c.cut(lag.id)
	leader := c.leader()
	big := strings.Repeat("x", 64<<10)
	leader.setV2("/near", "1", 0)
	for i := range 200 {
		leader.put(fmt.Sprint("big", i%10), big)
	}
	until(t, "the log to be trimmed", func() bool {
		first, err := leader.logs.FirstIndex()
		return err == nil && first > lag.Status().LastIndex+1
	})
	c.cut()
	until(t, "the database to be adopted", func() bool { return lag.jumps.Load() == 1 })
	wantNext(t, near, "set /near=1")

	gone := lag.watchV2("/gone", false, 0)
	defer gone.Close()
	c.cut(lag.id)
	leader = c.leader()
	for i := range 1100 {
		leader.setV2("/x", fmt.Sprint(i), 0)
	}
	for i := range 200 {
		leader.put(fmt.Sprint("big", i%10), big)
	}
	until(t, "the log to be trimmed again", func() bool {
		first, err := leader.logs.FirstIndex()
		return err == nil && first > lag.Status().LastIndex+1
	})
	c.cut()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var cleared *v2tree.Error
	if _, err := gone.Next(ctx); !errors.As(err, &cleared) || cleared.Code != v2tree.EventIndexCleared {
		t.Errorf("a watcher whose events were dropped meanwhile: %v, want that they were", err)
	}
}

// As long as one member cannot read them, nothing of v2 gets into the log.
func TestV2WaitsForTheUpgrade(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	members := []*txn.Member{{ID: 0xabc, Name: "m", Format: newestFormat}, {ID: 1, Name: "old", Format: 4}}
	if _, err := m.Propose(t.Context(), &txn.Found{Cluster: 7, Members: members}); err != nil {
		t.Fatal(err)
	}
	before := m.Status().LastIndex
	q := &v2tree.Request{Op: v2tree.Set, Path: "/a"}
	for _, cmd := range []txn.Command{q, &txn.As{Command: q}, &v2tree.Expire{}, &auth.V2Change{}} {
		for name, propose := range map[string]func(context.Context, txn.Command) (any, error){"Propose": m.Propose, "ProposeAsLeader": m.ProposeAsLeader} {
			if _, err := propose(t.Context(), cmd); !errors.Is(err, ErrOldMember) {
				t.Errorf("%s %T: %v, want ErrOldMember", name, cmd, err)
			}
		}
	}
	if after := m.Status().LastIndex; after != before {
		t.Errorf("the log grew from %d to %d", before, after)
	}
	members[1].Format = newestFormat
	if _, err := m.Propose(t.Context(), members[1]); err != nil {
		t.Fatal(err)
	}
	m.setV2("/a", "1", 0)
}

// Whoever waits is woken by what happens at the path, below it, and to a
// directory above; nobody is left behind by what comes while a watcher begins.
func TestV2WatchersMissNothing(t *testing.T) {
	tree := v2tree.New(forgetful{})
	v := newV2(tree.View())
	change := func(q *v2tree.Request) {
		e, err := tree.Apply(q)
		if err != nil {
			t.Fatal(err)
		}
		v.publish(tree.View(), []*v2tree.Event{e})
	}
	const rounds = 300
	var ready, done sync.WaitGroup
	for _, path := range []string{"/", "/a", "/a/b"} {
		for range 3 {
			ready.Add(1)
			// Owner: this test; ends with the last event.
			done.Go(func() {
				w, refused := v.Watch(path, true, 0)
				ready.Done()
				if refused != nil {
					t.Error(refused)
					return
				}
				defer w.Close()
				for i := range rounds {
					e, err := w.Next(t.Context())
					if want := fmt.Sprint(i); err != nil || e.Node.Value != want {
						t.Errorf("%s: got %+v, %v; want the value %s", path, e, err, want)
						return
					}
				}
				if e, err := w.Next(t.Context()); err != nil || e.Key != "/a" || !e.Removes() {
					t.Errorf("%s: got %+v, %v; want the end of /a", path, e, err)
				}
			})
		}
	}
	ready.Wait()
	if got := v.Stats().Watchers; got != 9 {
		t.Errorf("%d watchers, want 9", got)
	}
	for i := range rounds {
		change(&v2tree.Request{Op: v2tree.Set, Path: "/a/b", Value: fmt.Sprint(i)})
	}
	change(&v2tree.Request{Op: v2tree.Delete, Path: "/a", Recursive: true})
	done.Wait()
	if got := v.Stats(); got.Watchers != 0 || got.Sets.Success != rounds || got.Deletes.Success != 1 || len(v.watchers) != 0 {
		t.Errorf("at the end: %+v", got)
	}
}

// A watcher that waits is not left behind by what does not concern it, however
// much that is, and hears of what came in one batch with more than is kept.
func TestV2WatchersOutlastTheHistory(t *testing.T) {
	tree := v2tree.New(forgetful{})
	v := newV2(tree.View())
	batch := func(paths ...string) {
		var events []*v2tree.Event
		for _, path := range paths {
			e, err := tree.Apply(&v2tree.Request{Op: v2tree.Set, Path: path})
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		v.publish(tree.View(), events)
	}
	others := slices.Repeat([]string{"/other"}, 2500)
	w, refused := v.Watch("/a", false, 0)
	if refused != nil {
		t.Fatal(refused)
	}
	defer w.Close()
	if e, err := w.take(); e != nil || err != nil {
		t.Fatalf("nothing has happened: %v, %v", e, err)
	}
	batch(others...)
	batch(append([]string{"/a"}, others...)...)
	wantNext(t, w, "set /a=")
	// Whoever takes no event while more come than are kept has missed some.
	var cleared *v2tree.Error
	if _, err := w.Next(t.Context()); !errors.As(err, &cleared) || cleared.Code != v2tree.EventIndexCleared {
		t.Errorf("a watcher left behind: %v, want that events were dropped", err)
	}
	// From a future index on.
	later, refused := v.Watch("/a", false, v.View().Index()+4)
	if refused != nil {
		t.Fatal(refused)
	}
	defer later.Close()
	if e, err := later.take(); e != nil || err != nil {
		t.Fatalf("the future: %v, %v", e, err)
	}
	batch("/a", "/a", "/a", "/a")
	if e, err := later.Next(t.Context()); err != nil || e.Index() != v.View().Index() {
		t.Errorf("from a future index on: %+v, %v; want the event of index %d", e, err, v.View().Index())
	}
}

// forgetful is the records of a tree that nobody reads again.
type forgetful struct{}

func (forgetful) SetRecord(string, string, []byte) {}
func (forgetful) DeleteRecord(string, string)      {}
