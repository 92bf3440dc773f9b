package witness

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "k/"

// store is the naive model that stories write to: one event for each revision.
type store struct {
	rev    int64
	kvs    map[string]*mvccpb.KeyValue
	events []*mvccpb.Event
}

func newStore() *store { return &store{rev: 1, kvs: map[string]*mvccpb.KeyValue{}} }

func (s *store) put(key, value string) int64 {
	s.rev++
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: s.rev, CreateRevision: s.rev, Version: 1}
	prev := s.kvs[key]
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	s.kvs[key] = kv
	s.events = append(s.events, &mvccpb.Event{Kv: kv, PrevKv: prev})
	return s.rev
}

func (s *store) remove(key string) int64 {
	s.rev++
	kv := &mvccpb.KeyValue{Key: []byte(key), ModRevision: s.rev}
	s.events = append(s.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv, PrevKv: s.kvs[key]})
	delete(s.kvs, key)
	return s.rev
}

func (s *store) list() []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, kv := range s.kvs {
		kvs = append(kvs, kv)
	}
	return kvs
}

// history is what a member with these events tells, and what is wrong with it.
func history(events ...*mvccpb.Event) (*History, []string) {
	h := newHistory(1, nil)
	var wrong []string
	for _, e := range events {
		wrong = append(wrong, h.add(e)...)
	}
	return h, wrong
}

// finds checks that there is one complaint, and what it says; none is wanted with an empty text.
func finds(t *testing.T, wrong []string, want string) {
	t.Helper()
	if want == "" && len(wrong) == 0 {
		return
	}
	if want == "" || len(wrong) != 1 || !strings.Contains(wrong[0], want) {
		t.Errorf("got complaints %q, want one with %q", wrong, want)
	}
}

func put(key, value string) func(int) []Effect {
	return func(int) []Effect { return []Effect{{Key: key, Value: value}} }
}

func deletion(key string) func(int) []Effect {
	return func(int) []Effect { return []Effect{{Key: key, Deleted: true}} }
}

// TestCheck tells small stories of clients; s has done what really happened.
func TestCheck(t *testing.T) {
	tests := []struct {
		name  string
		story func(l *Ledger, s *store)
		want  string
	}{
		{"all is well", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			get := l.Begin("get", nil)
			l.Read(get, "k/a", s.list())
			l.Unchanged(get, s.rev)
			l.Changed(l.Begin("delete", deletion("k/a")), s.remove("k/a"))
			get = l.Begin("get", nil)
			l.Read(get, "k/a", nil)
			l.Unchanged(get, s.rev)
		}, ""},
		{"other keys are nobody's business", func(_ *Ledger, s *store) { s.put("other", "x") }, ""},
		{"acknowledged write lost", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.rev+1)
			s.put("other", "x")
		}, "is not in the history"},
		{"acknowledged write altered", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "2"))
		}, "acknowledged was"},
		{"revision used twice", func(l *Ledger, s *store) {
			first, second := l.Begin("put", put("k/a", "1")), l.Begin("put", put("k/a", "1"))
			l.Changed(first, s.put("k/a", "1"))
			l.Changed(second, s.rev)
		}, "and to"},
		{"history shorter than what was heard", func(l *Ledger, s *store) {
			l.Unchanged(l.Begin("get", nil), s.rev+7)
		}, "was heard of"},
		{"unanswered write took effect", func(l *Ledger, s *store) {
			l.Begin("put", put("k/a", "1"))
			s.put("k/a", "1")
		}, ""},
		{"unanswered write did not", func(l *Ledger, _ *store) { l.Begin("put", put("k/a", "1")) }, ""},
		{"unanswered write took effect twice", func(l *Ledger, s *store) {
			l.Begin("put", put("k/a", "1"))
			s.put("k/a", "1")
			s.put("k/a", "1")
		}, "nobody wrote"},
		{"unanswered write before it was sent", func(l *Ledger, s *store) {
			s.put("k/a", "1")
			l.Unchanged(l.Begin("get", nil), s.rev)
			l.Begin("put", put("k/a", "1"))
		}, "stands at revision 2, 2 had been heard of"},
		{"write that nobody sent", func(_ *Ledger, s *store) { s.put("k/a", "1") }, "nobody wrote"},
		{"write into the past", func(l *Ledger, s *store) {
			rev := s.put("k/a", "1")
			l.Unchanged(l.Begin("get", nil), rev)
			l.Changed(l.Begin("put", put("k/a", "1")), rev)
		}, "took effect at revision 2, 2 had been heard of"},
		{"stale linearizable read", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			stale := l.Begin("get", nil)
			l.Read(stale, "k/a", nil)
			l.Unchanged(stale, s.rev-1)
		}, "was answered from revision 1, 2 had been heard of"},
		{"stale serializable read", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			stale := l.Begin("get", nil)
			stale.Serializable = true
			l.Read(stale, "k/a", nil)
			l.Unchanged(stale, s.rev-1)
		}, ""},
		{"read of what is not there at its revision", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			get := l.Begin("get", nil)
			l.Read(get, "k/a", nil)
			l.Unchanged(get, s.rev)
		}, "read k/a at revision 2"},
		{"swap over somebody else's write", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			swap := l.Begin("swap", put("k/a", "2"))
			l.Expected(swap, "k/a", 0)
			l.Changed(swap, s.put("k/a", "2"))
		}, "took effect true, wanted k/a at 0"},
		{"swap that failed without cause", func(l *Ledger, s *store) {
			swap := l.Begin("swap", put("k/a", "2"))
			l.Expected(swap, "k/a", 0)
			l.Unchanged(swap, s.rev)
		}, "took effect false, wanted k/a at 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, s := NewLedger(prefix), newStore()
			test.story(l, s)
			h, wrong := history(s.events...)
			finds(t, wrong, "")
			finds(t, l.Check(h), test.want)
		})
	}
}

// TestCheckKept compares what clients were told with the state alone.
func TestCheckKept(t *testing.T) {
	tests := []struct {
		name  string
		story func(l *Ledger, s *store)
		want  string
	}{
		{"all is well", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			l.Changed(l.Begin("put", put("k/a", "2")), s.put("k/a", "2"))
			l.Changed(l.Begin("put", put("k/b", "3")), s.put("k/b", "3"))
			l.Changed(l.Begin("delete", deletion("k/b")), s.remove("k/b"))
			s.put("other", "x")
		}, ""},
		{"acknowledged write lost", func(l *Ledger, _ *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), 2)
		}, "k/a is gone"},
		{"acknowledged deletion lost", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			l.Changed(l.Begin("delete", deletion("k/a")), s.rev+1)
		}, "k/a is 1 of revision 2"},
		{"an older value", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			l.Changed(l.Begin("put", put("k/a", "2")), s.rev+1)
		}, "k/a is 1 of revision 2"},
		{"unanswered writes took effect", func(l *Ledger, s *store) {
			l.Changed(l.Begin("put", put("k/a", "1")), s.put("k/a", "1"))
			l.Begin("put", put("k/a", "2"))
			s.put("k/a", "2")
			l.Changed(l.Begin("put", put("k/b", "3")), s.put("k/b", "3"))
			l.Begin("delete", deletion("k/b"))
			s.remove("k/b")
			l.Begin("put", put("k/c", "4"))
			s.put("k/c", "4")
		}, ""},
		{"a value that nobody wrote", func(_ *Ledger, s *store) { s.put("k/a", "1") }, "k/a is 1 of revision 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, s := NewLedger(prefix), newStore()
			test.story(l, s)
			finds(t, l.CheckKept(s.list()), test.want)
		})
	}
}

// A history may begin with a state: then its first events follow from that.
func TestHistoryFromAState(t *testing.T) {
	s := newStore()
	s.put("k/a", "1")
	from, kvs := s.rev, s.list()
	s.put("k/a", "2")
	s.remove("k/a")
	h := newHistory(from, kvs)
	for _, e := range s.events[1:] {
		finds(t, h.add(e), "")
	}
	finds(t, h.CheckState(s.list()), "")
	finds(t, newHistory(from, nil).add(s.events[1]), "has previous value")
}

// example is a store after a few writes.
func example() *store {
	s := newStore()
	s.put("k/a", "1")
	s.put("k/a", "2")
	s.put("k/b", "1")
	s.remove("k/a")
	s.put("k/a", "3")
	return s
}

func TestHistoryMustFollowFromItself(t *testing.T) {
	whole := example().events
	tests := []struct {
		name   string
		change func([]*mvccpb.Event) []*mvccpb.Event
		want   string
	}{
		{"as it is", func(e []*mvccpb.Event) []*mvccpb.Event { return e }, ""},
		{"revision left out", func(e []*mvccpb.Event) []*mvccpb.Event { return slices.Delete(e, 2, 3) }, "goes from revision 3 to 5"},
		{"previous value missing", func(e []*mvccpb.Event) []*mvccpb.Event {
			e[1] = &mvccpb.Event{Kv: e[1].Kv}
			return e
		}, "has previous value"},
		{"version does not grow", func(e []*mvccpb.Event) []*mvccpb.Event {
			e[4] = &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k/a"), ModRevision: 6, CreateRevision: 6, Version: 4}}
			return e
		}, "has version 4"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, wrong := history(test.change(slices.Clone(whole))...)
			finds(t, wrong, test.want)
		})
	}
}

func TestMembersMustTellTheSame(t *testing.T) {
	s := example()
	h, _ := history(s.events...)
	same, _ := history(s.events...)
	finds(t, h.Compare(same), "")
	other := example()
	other.events[2].Kv.Value = []byte("another")
	differs, _ := history(other.events...)
	finds(t, h.Compare(differs), "event 2 of the history")
	shorter, _ := history(s.events[:4]...)
	if got := h.Compare(shorter); len(got) != 2 {
		t.Errorf("a shorter history gives %q, want its end and its length", got)
	}

	finds(t, h.CheckState(s.list()), "")
	finds(t, h.CheckState(nil)[:1], "the store lacks")
	altered := append(s.list(), &mvccpb.KeyValue{Key: []byte("k/c")})
	finds(t, h.CheckState(altered), "the store holds")
}

func TestWatchers(t *testing.T) {
	s := example()
	h, _ := history(s.events...)
	tests := []struct {
		name string
		seen []*mvccpb.Event
		want string
	}{
		{"all", s.events, ""},
		{"more than the history", append(slices.Clone(s.events), &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: 7}}), ""},
		{"one twice", slices.Insert(slices.Clone(s.events), 1, s.events[0]), "event 1 is the first"},
		{"one left out", slices.Delete(slices.Clone(s.events), 1, 2), "event 1 is the first"},
		{"out of order", []*mvccpb.Event{s.events[1], s.events[0], s.events[2], s.events[3], s.events[4]}, "event 0 is the first"},
		{"one left out before what came later", append(slices.Clone(s.events[:4]), &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: 7}}), "event 4 is the first"},
		{"not the end", s.events[:4], "saw revision 5, want 6"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &Watcher{name: "w", prefix: prefix, cancel: func() {}, done: make(chan struct{}), grown: make(chan struct{})}
			close(w.done)
			for _, e := range test.seen {
				w.events, w.last = append(w.events, e), max(w.last, e.Kv.ModRevision)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			finds(t, w.Finish(ctx, h), test.want)
		})
	}
}

func TestAwaitWrites(t *testing.T) {
	l := NewLedger(prefix)
	done := make(chan error)
	// Owner: the test, which receives from done.
	go func() { done <- l.AwaitWrites(t.Context(), 2) }()
	for rev := int64(2); ; rev++ {
		l.Changed(l.Begin("put", put("k/a", "1")), rev)
		l.Unchanged(l.Begin("get", nil), rev)
		select {
		case err := <-done:
			if err != nil || rev < 3 {
				t.Errorf("two writes were seen at revision %d: %v", rev, err)
			}
			return
		default:
		}
	}
}
