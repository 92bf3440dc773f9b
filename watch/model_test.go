package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"limpet/sqlstore"
)

// ledger is what one watcher must hear, and what it heard: the check of I8.
type ledger struct {
	req      Request
	from     int64 // first revision that counts
	last     int64 // newest revision heard
	heard    []sqlstore.ID
	ended    bool // canceled by a compaction or by the client
	leaving  bool // the client cancels it at some time: a progress response may then come before its canceled one
	created  bool
	floor    int64 // of the compaction that ended it
	progress int64 // newest progress revision heard
}

// book is the model: the plain list of all changes, and a ledger per watcher.
type book struct {
	rows     []sqlstore.Row
	watchers map[int64]*ledger
}

func (b *book) add(commits []*sqlstore.Commit) {
	for _, c := range commits {
		b.rows = append(b.rows, c.Rows...)
	}
}

// expected lists the events for l up to revision to.
func (b *book) expected(l *ledger, to int64) []sqlstore.ID {
	var out []sqlstore.ID
	for i := range b.rows {
		row := &b.rows[i]
		filtered := row.Tombstone() && l.req.NoDelete || !row.Tombstone() && l.req.NoPut
		if row.ID.Rev() >= l.from && row.ID.Rev() <= to && l.req.Span.Contains(row.Key) && !filtered {
			out = append(out, row.ID)
		}
	}
	return out
}

// hear notes a response and reports what is wrong with it.
func (b *book) hear(r Response) error {
	if r.ID == -1 {
		for id, l := range b.watchers {
			if err := b.upTo(id, l, r.Rev); err != nil {
				return fmt.Errorf("progress at %d: %w", r.Rev, err)
			}
		}
		return nil
	}
	l := b.watchers[r.ID]
	switch {
	case l != nil && l.floor > 0 && r.Canceled && r.Floor == 0:
		l.floor = 0 // the client canceled what a compaction had ended, as in etcd
		return nil
	case l == nil || l.ended:
		return fmt.Errorf("a response for watcher %d, which has ended: %s", r.ID, text(r))
	case r.Created:
		l.created = true
		if l.from == 0 {
			l.from = r.Rev + 1
		}
		return nil
	case !l.created:
		return fmt.Errorf("watcher %d hears before its created response: %s", r.ID, text(r))
	case r.Canceled:
		l.ended, l.floor = true, r.Floor
		if r.Floor != 0 && l.last >= r.Floor {
			return fmt.Errorf("watcher %d has heard %d and ends by a compaction to %d", r.ID, l.last, r.Floor)
		}
		return nil
	case len(r.Events) == 0:
		return b.upTo(r.ID, l, r.Rev)
	}
	if first := r.Events[0].Row.ID.Rev(); first <= l.last {
		return fmt.Errorf("watcher %d hears of revision %d in a second response, after %d", r.ID, first, l.last)
	}
	for _, e := range r.Events {
		if e.Row.ID.Rev() > r.Rev {
			return fmt.Errorf("watcher %d hears of revision %d in a response at %d", r.ID, e.Row.ID.Rev(), r.Rev)
		}
		l.heard = append(l.heard, e.Row.ID)
		l.last = e.Row.ID.Rev()
	}
	return nil
}

// upTo reports an event at or below rev that a living watcher has not heard.
func (b *book) upTo(id int64, l *ledger, rev int64) error {
	if l.ended || l.leaving || !l.created {
		return nil
	}
	l.progress = max(l.progress, rev)
	if want := b.expected(l, rev); len(l.heard) < len(want) {
		return fmt.Errorf("watcher %d has heard %d of %d events up to %d", id, len(l.heard), len(want), rev)
	}
	return nil
}

// balance compares what was heard in the end with what there was.
func (b *book) balance(t *testing.T, rev int64) {
	t.Helper()
	for id, l := range b.watchers {
		want := b.expected(l, rev)
		if l.ended {
			// A beginning of it, and nothing left out before the floor's time.
			want = want[:min(len(want), len(l.heard))]
		}
		if !slices.Equal(l.heard, want) {
			t.Errorf("watcher %d of %+v from %d heard %v, want %v", id, l.req.Span, l.from, revs(l.heard), revs(want))
		}
	}
}

func revs(ids []sqlstore.ID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = fmt.Sprintf("%d.%d", id.Rev(), id.Sub())
	}
	return out
}

func randomRequest(r *rand.Rand, id, now, floor int64) Request {
	req := Request{ID: id, PrevKV: r.IntN(3) == 0, NoPut: r.IntN(8) == 0, NoDelete: r.IntN(8) == 0, Progress: r.IntN(3) == 0}
	req.Span = sqlstore.Span{Key: fmt.Sprintf("k%d", r.IntN(6))}
	switch r.IntN(3) {
	case 0:
		req.Span.Single = true
	case 1:
		req.Span.End = req.Span.Key + "~"
	}
	switch r.IntN(4) {
	case 0:
		req.Start = max(now+r.Int64N(8)-3, 1)
	case 1, 2:
		req.Start = max(floor+r.Int64N(max(now-floor, 1))-1, 1)
	}
	return req
}

func randomChanges(r *rand.Rand) []string {
	var kvs []string
	for _, k := range r.Perm(6)[:1+r.IntN(3)] {
		key := fmt.Sprintf("k%d", k)
		if r.IntN(3) == 0 {
			key = "-" + key
		}
		kvs = append(kvs, key, fmt.Sprint(r.Int()))
	}
	return kvs
}

// TestEveryEventOnce does random commits, flushes that empty the memory,
// compactions, jumps, watchers and pulls, in one thread, and holds each watcher
// to the model.
func TestEveryEventOnce(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			randomRun(t, rand.New(rand.NewPCG(seed, 3)))
		})
	}
}

func randomRun(t *testing.T, r *rand.Rand) {
	store, ahead := openStore(t, []int64{-1, 2000, 1 << 20}[r.IntN(3)]), openStore(t, -1)
	h := NewHub(store)
	s := h.NewStream()
	defer s.Close()
	b := &book{watchers: make(map[int64]*ledger)}
	ctx, id := done(), int64(0)
	pull := func() bool {
		resp, err := s.Next(ctx, nil)
		if err != nil {
			return false
		}
		if err := b.hear(resp); err != nil {
			t.Fatal(err)
		}
		return true
	}
	for range 1500 {
		switch n := r.IntN(100); {
		case n < 40:
			changes := randomChanges(r)
			commits := publish(store, changes...)
			publish(ahead, changes...)
			b.add(commits)
			h.Notify(commits)
		case n < 42:
			b.add(getAhead(t, ahead, r))
			adopt(t, store, ahead)
			for range r.IntN(3) {
				pull() // who pulls before the hub hears of it
			}
			h.Jumped()
		case n < 50:
			if err := store.WaitDurable(context.Background(), store.Applied()); err != nil {
				t.Fatal(err)
			}
		case n < 52:
			if rev := store.Rev() - r.Int64N(40); rev > store.Floor() {
				compactStore(t, store, rev)
				compactStore(t, ahead, rev)
			}
		case n < 60:
			id++
			req := randomRequest(r, id, store.Rev(), store.Floor())
			b.watchers[id] = &ledger{req: req, from: req.Start}
			if err := s.Watch(context.Background(), req); err != nil {
				t.Fatal(err)
			}
		case n < 63 && id > 0:
			if err := s.Cancel(context.Background(), 1+r.Int64N(id)); err != nil {
				t.Fatal(err)
			}
		case n < 68:
			s.RequestProgress()
		case n < 70:
			s.periodicProgress()
		default:
			pull()
		}
		for len(s.control) > maxControl-4 {
			pull()
		}
	}
	for pull() {
	}
	b.balance(t, store.Rev())
	if st := h.Stats(); st.Pending != 0 || st.Behind != 0 {
		t.Errorf("stats %+v after all was pulled, want nothing pending, nobody behind", st)
	}
}

// getAhead does some changes that another member has not heard of, and perhaps
// a compaction, which may pass that member.
func getAhead(t *testing.T, ahead *sqlstore.Store, r *rand.Rand) (commits []*sqlstore.Commit) {
	t.Helper()
	for range r.IntN(8) {
		commits = append(commits, publish(ahead, randomChanges(r)...)...)
	}
	if rev := ahead.Rev() - r.Int64N(12); r.IntN(4) == 0 && rev > ahead.Floor() {
		compactStore(t, ahead, rev)
	}
	return commits
}

// TestEveryEventOnceConcurrently is the same with a writer, a client and a
// sender for each of several streams.
func TestEveryEventOnceConcurrently(t *testing.T) {
	const streams, commits = 4, 1200
	store, ahead := openStore(t, 3000), openStore(t, -1)
	h := NewHub(store)
	all := &book{} // rows only; complete once the writer has ended
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type heard struct {
		b         *book
		responses []Response
	}
	results := make([]heard, streams)
	open := make([]*Stream, streams)
	var clients sync.WaitGroup
	for i := range streams {
		open[i] = h.NewStream()
		results[i].b = &book{watchers: make(map[int64]*ledger)}
		// Owner: this test; ends when its watchers are made.
		clients.Go(func() { client(t, ctx, open[i], store, results[i].b, uint64(i)) })
		// Owner: this test; ends with the stream.
		wg.Go(func() {
			for {
				r, err := open[i].Next(ctx, nil)
				if err != nil {
					return
				}
				results[i].responses = append(results[i].responses, r)
			}
		})
	}
	r := rand.New(rand.NewPCG(5, 5))
	for n := range commits {
		changes := randomChanges(r)
		made := publish(store, changes...)
		publish(ahead, changes...)
		all.add(made)
		h.Notify(made)
		if n%60 == 59 {
			for range 10 {
				all.add(publish(ahead, randomChanges(r)...))
			}
			adopt(t, store, ahead)
			h.Jumped()
		}
		if n%100 == 99 {
			if err := store.WaitDurable(ctx, store.Applied()); err != nil {
				t.Fatal(err)
			}
		}
	}
	clients.Wait()
	cancel()
	wg.Wait()
	for i := range results {
		b := results[i].b
		b.rows = all.rows
		for _, resp := range append(results[i].responses, drain(t, open[i])...) {
			if err := b.hear(resp); err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
		}
		b.balance(t, store.Rev())
		open[i].Close()
	}
	if st := h.Stats(); st.Streams != 0 || st.Watchers != 0 || st.Pending != 0 || st.Behind != 0 {
		t.Errorf("stats %+v after all streams closed, want zeros but for events", st)
	}
}

// client makes watchers while the writer writes, asks for progress and cancels
// some.
func client(t *testing.T, ctx context.Context, s *Stream, store *sqlstore.Store, b *book, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 9))
	for id := int64(1); id <= 25; id++ {
		req := randomRequest(r, id, store.Rev(), store.Floor())
		if req.Start > 0 {
			req.Start = min(req.Start, store.Rev())
		}
		b.watchers[id] = &ledger{req: req, from: req.Start}
		if err := s.Watch(ctx, req); err != nil {
			t.Errorf("Watch: %v", err)
		}
		s.RequestProgress()
		if r.IntN(5) == 0 {
			b.watchers[id].leaving = true
			if err := s.Cancel(ctx, id); err != nil {
				t.Errorf("Cancel: %v", err)
			}
		}
	}
}
