package watch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"limpet/sqlstore"
)

// TestFromNowMeansAfterTheCreatedRevision: a watcher without a start revision
// gets what comes after the revision that its created response names, also when
// that is published and not notified yet (etcd: from the current revision + 1).
func TestFromNowMeansAfterTheCreatedRevision(t *testing.T) {
	src := newStill()
	h := NewHub(src)
	s := h.NewStream()
	defer s.Close()
	h.Notify([]*sqlstore.Commit{src.commit("a", "1")})
	pending := src.commit("a", "2") // published; Notify is on its way
	if err := s.Watch(t.Context(), Request{Span: sqlstore.Span{Key: "a", Single: true}}); err != nil {
		t.Fatal(err)
	}
	h.Notify([]*sqlstore.Commit{pending})
	h.Notify([]*sqlstore.Commit{src.commit("a", "3")})
	got := drain(t, s)
	if len(got) != 2 || !got[0].Created || len(got[1].Events) == 0 {
		t.Fatalf("got %+v, want the created response and events", got)
	}
	if first := got[1].Events[0].Row.ID.Rev(); first <= got[0].Rev {
		t.Errorf("created at revision %d, and the first event is of %d; want it later", got[0].Rev, first)
	}
}

// TestNothingIsMissedWhileCreating: what happens between the revision that the
// created response names and the moment the watcher is attached is not lost: a
// client takes that revision as the one from which it knows everything.
func TestNothingIsMissedWhileCreating(t *testing.T) {
	src := newStill()
	h := NewHub(src)
	s := h.NewStream()
	defer s.Close()
	src.afterRev = func() {
		h.Notify([]*sqlstore.Commit{src.commit("a", "1")})
		h.Notify([]*sqlstore.Commit{src.commit("a", "2")})
	}
	if err := s.Watch(t.Context(), Request{Span: sqlstore.Span{Key: "a", Single: true}}); err != nil {
		t.Fatal(err)
	}
	h.Notify([]*sqlstore.Commit{src.commit("a", "3")})
	next := int64(0)
	for _, r := range drain(t, s) {
		if r.Created {
			next = r.Rev + 1
		}
		for _, e := range r.Events {
			if rev := e.Row.ID.Rev(); rev != next {
				t.Errorf("heard of revision %d, want %d first", rev, next)
			}
			next = e.Row.ID.Rev() + 1
		}
	}
	if next != 5 {
		t.Errorf("heard of everything below revision %d, want 5", next)
	}
}

// TestSpanOfAllKeys: a Span without key and end names all keys, to Contains and
// History as to a watcher.
func TestSpanOfAllKeys(t *testing.T) {
	src := newStill()
	h := NewHub(src)
	s := h.NewStream()
	defer s.Close()
	for id, span := range []sqlstore.Span{{}, {End: "b"}, {Key: "\x00"}} {
		if err := s.Watch(t.Context(), Request{ID: int64(id + 1), Span: span}); err != nil {
			t.Fatal(err)
		}
	}
	h.Notify([]*sqlstore.Commit{src.commit("a", "1")})
	events := map[int64]int{}
	for _, r := range drain(t, s) {
		events[r.ID] += len(r.Events)
	}
	for id := int64(1); id <= 3; id++ {
		if events[id] != 1 {
			t.Errorf("watcher %d got %d events, want 1", id, events[id])
		}
	}
}

// TestControlIsBounded: a client that asks faster than it reads is made to
// wait, until it reads, gives up or the stream ends.
func TestControlIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(newStill())
		s := h.NewStream()
		span := sqlstore.Span{Key: "a", Single: true}
		for range maxControl {
			if err := s.Watch(t.Context(), Request{Span: span}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Watch(ctx, Request{Span: span}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Watch with %d responses unread: %v, want it to wait", maxControl, err)
		}
		if err := s.Cancel(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Cancel with %d responses unread: %v, want it to wait", maxControl, err)
		}
		waited := make(chan error, 1)
		// Owner: this test; ends when the stream has room.
		go func() { waited <- s.Reject(t.Context(), errors.New("no")) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("Reject returned %v, want it to wait", err)
		default:
		}
		if _, err := s.Next(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Errorf("Reject: %v", err)
		}
		// Owner: this test; ends when the stream closes.
		go func() { waited <- s.Watch(t.Context(), Request{Span: span}) }()
		synctest.Wait()
		s.Close()
		if err := <-waited; !errors.Is(err, ErrClosed) {
			t.Errorf("Watch while the stream closes: %v, want ErrClosed", err)
		}
	})
}

// TestNextWaits: Next returns when there is something, when ctx ends, and when
// the stream closes.
func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newStill()
		h := NewHub(src)
		s := h.NewStream()
		if err := s.Watch(t.Context(), Request{Span: sqlstore.Span{Key: "a", Single: true}}); err != nil {
			t.Fatal(err)
		}
		drain(t, s)
		type answer struct {
			r   Response
			err error
		}
		got := make(chan answer, 1)
		next := func(ctx context.Context) {
			r, err := s.Next(ctx, nil)
			got <- answer{r, err}
		}
		// Owner: this test, for all three; each ends with what it waits for.
		go next(t.Context())
		synctest.Wait()
		h.Notify([]*sqlstore.Commit{src.commit("b", "1"), src.commit("a", "1")})
		if a := <-got; a.err != nil || len(a.r.Events) != 1 || a.r.Rev != 3 {
			t.Errorf("Next = %+v, %v; want the event of revision 3", a.r, a.err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go next(ctx)
		synctest.Wait()
		cancel()
		if a := <-got; !errors.Is(a.err, context.Canceled) {
			t.Errorf("Next: %v, want canceled", a.err)
		}
		go next(t.Context())
		synctest.Wait()
		s.Close()
		if a := <-got; !errors.Is(a.err, ErrClosed) {
			t.Errorf("Next: %v, want ErrClosed", a.err)
		}
	})
}

// TestPeriodicProgress: with a ticker, whoever is idle hears once a tick, and
// only who asked for it.
func TestPeriodicProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newStill()
		h := NewHub(src)
		s := h.NewStream()
		defer s.Close()
		ticker := time.NewTicker(10 * time.Minute)
		defer ticker.Stop()
		for id, progress := range []bool{true, false, true} {
			span := sqlstore.Span{Key: fmt.Sprint(id), Single: true}
			if err := s.Watch(t.Context(), Request{ID: int64(id + 1), Span: span, Progress: progress}); err != nil {
				t.Fatal(err)
			}
		}
		drain(t, s)
		began := time.Now()
		// Owner: this test; ends after its commits.
		go func() {
			time.Sleep(15 * time.Minute)
			h.Notify([]*sqlstore.Commit{src.commit("0", "x")})
		}()
		var got []string
		for len(got) < 6 {
			r, err := s.Next(t.Context(), ticker.C)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%v %s", time.Since(began), text(r)))
		}
		want := []string{
			"10m0s watcher 1 at 1: progress",
			"10m0s watcher 3 at 1: progress",
			"15m0s watcher 1 at 2: 2 put 0=x",
			"20m0s watcher 3 at 2: progress",
			"30m0s watcher 1 at 2: progress",
			"30m0s watcher 3 at 2: progress",
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("response %d: %s, want %s", i, got[i], want[i])
			}
		}
	})
}

// TestLargeEvents: a response ends soon after pullBytes, between revisions, and
// the rest follows.
func TestLargeEvents(t *testing.T) {
	src := newStill()
	h := NewHub(src)
	s := h.NewStream()
	defer s.Close()
	if err := s.Watch(t.Context(), Request{Span: sqlstore.Span{Key: "a", Single: true}}); err != nil {
		t.Fatal(err)
	}
	drain(t, s)
	value := string(make([]byte, 400<<10))
	for range 10 {
		h.Notify([]*sqlstore.Commit{src.commit("a", value)})
	}
	next, responses := int64(2), drain(t, s)
	for _, r := range responses {
		bytes := 0
		for _, e := range r.Events {
			if e.Row.ID.Rev() != next {
				t.Fatalf("event of revision %d, want %d", e.Row.ID.Rev(), next)
			}
			next++
			bytes += len(e.Row.Value)
		}
		if bytes > pullBytes+2*len(value) {
			t.Errorf("a response of %d bytes, want about %d", bytes, pullBytes)
		}
	}
	if next != 12 || len(responses) < 3 {
		t.Errorf("%d responses through revision %d, want several through 11", len(responses), next-1)
	}
	if st := h.Stats(); st.Pending != 0 {
		t.Errorf("stats %+v, want nothing pending", st)
	}
}

// TestIndexAgainstModel: the interval tree and the map find the watchers that
// looking at each would.
func TestIndexAgainstModel(t *testing.T) {
	x := newIndex()
	var all []*watcher
	span := func(i int) sqlstore.Span {
		key := fmt.Sprintf("k%d", i%7)
		switch i % 3 {
		case 0:
			return sqlstore.Span{Key: key, Single: true}
		case 1:
			return sqlstore.Span{Key: key}
		}
		return sqlstore.Span{Key: key, End: fmt.Sprintf("k%d", i%7+1+i%4)}
	}
	check := func() {
		t.Helper()
		for i := range 10 {
			key := fmt.Sprintf("k%d", i)
			want := map[*watcher]bool{}
			for _, w := range all {
				if w.req.Span.Contains(key) {
					want[w] = true
				}
			}
			found := 0
			x.match(key, func(w *watcher) {
				if found++; !want[w] {
					t.Errorf("key %s finds the watcher of %+v", key, w.req.Span)
				}
			})
			if found != len(want) {
				t.Errorf("key %s finds %d watchers, want %d", key, found, len(want))
			}
		}
	}
	for i := range 200 {
		w := &watcher{req: Request{Span: span(i * 5)}}
		all = append(all, w)
		x.add(w)
		if i%3 == 2 {
			n := (i * 31) % len(all)
			x.remove(all[n])
			all = append(all[:n], all[n+1:]...)
		}
		check()
	}
	for len(all) > 0 {
		x.remove(all[0])
		all = all[1:]
		check()
	}
	if x.size != 0 || x.ranges.Len() != 0 || len(x.keys) != 0 {
		t.Errorf("an emptied index has size %d, %d ranges, %d keys", x.size, x.ranges.Len(), len(x.keys))
	}
}
