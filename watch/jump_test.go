package watch

import (
	"slices"
	"strings"
	"testing"

	"limpet/sqlstore"
)

// TestJumpWhilePulling: the sender has taken revisions that were noted, and the
// hub sends the watcher back to history before they are pulled. They come once,
// in order, and progress comes after them.
func TestJumpWhilePulling(t *testing.T) {
	large := strings.Repeat("x", pullBytes)
	for _, c := range []struct {
		name     string
		noted    int    // revisions noted at the watcher
		turns    int    // of the sender before the one that is interrupted
		value    string // of each
		memory   int64  // Recent knows revisions from here on
		unwarned int    // revisions that come with the jump
	}{
		{name: "all in memory", noted: 3, value: "v", unwarned: 2},
		{name: "nothing behind them", noted: 3, value: "v"},
		{name: "none in memory", noted: 3, value: "v", memory: 99, unwarned: 2},
		{name: "some in memory", noted: 6, value: "v", memory: 4, unwarned: 2},
		{name: "more than one response", noted: 5, value: large, unwarned: 2},
		{name: "more than one turn", noted: pullRevs + 5, value: "v", unwarned: 2},
		{name: "more than is noted", noted: maxPending + 5, value: "v", unwarned: 2},
		{name: "the last of what is noted", noted: maxPending + 5, turns: maxPending / pullRevs, value: "v", unwarned: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := newStill()
			h := NewHub(src)
			s := h.NewStream()
			defer s.Close()
			if err := s.Watch(t.Context(), Request{ID: 1, Span: sqlstore.Span{Key: "a", Single: true}}); err != nil {
				t.Fatal(err)
			}
			drain(t, s)
			for range c.noted {
				h.Notify([]*sqlstore.Commit{src.commit("a", c.value)})
			}
			var responses []Response
			for range c.turns {
				r, err := s.Next(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				responses = append(responses, r)
			}
			_, w, taken, err := s.take()
			if err != nil || w == nil || len(taken) == 0 {
				t.Fatalf("take: %v, %v, %v; want what was noted", w, taken, err)
			}
			for range c.unwarned {
				src.commit("a", c.value)
			}
			src.memory = c.memory
			h.Jumped()
			s.RequestProgress()
			if r, ok := s.pull(w, taken); ok {
				responses = append(responses, r)
			}
			wantOnce(t, append(responses, drain(t, s)...), src.Rev())
			if st := h.Stats(); st.Pending != 0 || st.Behind != 0 {
				t.Errorf("stats %+v in the end, want nothing pending, nobody behind", st)
			}
		})
	}
}

// wantOnce: the events of revisions 2 to last, in order, then progress at last.
func wantOnce(t *testing.T, responses []Response, last int64) {
	t.Helper()
	var heard, want []int64
	for i, r := range responses {
		for _, e := range r.Events {
			heard = append(heard, e.Row.ID.Rev())
		}
		if progress := len(r.Events) == 0; progress != (i == len(responses)-1) || progress && r.Rev != last {
			t.Errorf("response %d of %d: %s; want progress at %d as the last one", i+1, len(responses), text(r), last)
		}
	}
	for rev := int64(2); rev <= last; rev++ {
		want = append(want, rev)
	}
	if !slices.Equal(heard, want) {
		t.Errorf("heard %d events, want %d, 2 to %d, each once: %v", len(heard), len(want), last, heard[:min(len(heard), 20)])
	}
}

// TestJumpBeforeTheHubHears: a watcher made between the adoption and Jumped
// starts where it was told, whatever it is told.
func TestJumpBeforeTheHubHears(t *testing.T) {
	src := newStill()
	h := NewHub(src)
	s := h.NewStream()
	defer s.Close()
	for range 3 {
		src.commit("a", "v")
	}
	for _, start := range []int64{0, 2, 4} {
		if err := s.Watch(t.Context(), Request{ID: start + 1, Span: sqlstore.Span{Key: "a", Single: true}, Start: start}); err != nil {
			t.Fatal(err)
		}
	}
	before := drain(t, s)
	h.Jumped()
	h.Notify([]*sqlstore.Commit{src.commit("a", "v")})
	heard := map[int64][]int64{}
	for _, r := range append(before, drain(t, s)...) {
		for _, e := range r.Events {
			heard[r.ID] = append(heard[r.ID], e.Row.ID.Rev())
		}
	}
	for id, want := range map[int64][]int64{1: {5}, 3: {2, 3, 4, 5}, 5: {4, 5}} {
		if !slices.Equal(heard[id], want) {
			t.Errorf("watcher %d heard %v, want %v", id, heard[id], want)
		}
	}
}
