package sqlstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// told is what Changes tells, one line a change.
func told(t testing.TB, s *Store, c Changes) (lines []string, more bool) {
	t.Helper()
	more, err := s.View().Changes(c, func(c *Change) error {
		lines = append(lines, fmt.Sprintf("%d.%d %s v%d t%d %d<%d lease %d %s", c.ID.Rev(), c.ID.Sub(), c.Key, c.Version, c.Time, c.Size, c.Before, c.Lease, c.Value))
		return nil
	})
	if err != nil {
		t.Fatalf("Changes(%+v): %v", c, err)
	}
	return lines, more
}

func wantLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// commitAt is one command, proposed at a time.
func commitAt(s *Store, unixMilli int64, changes func(w *Writer)) {
	w := s.Writer()
	w.Begin(unixMilli)
	changes(w)
	w.End()
	w.Publish(s.Applied() + 1)
}

// TestChanges: created, put, deleted, created again, with a compaction in between;
// the same from memory and from disk.
func TestChanges(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	commitAt(s, 10, func(w *Writer) { w.Put("a", []byte("1"), 0) })                              // 2
	commitAt(s, 20, func(w *Writer) { w.Put("a", []byte("four"), 7); w.Put("b", nil, 0) })       // 3
	commitAt(s, 0, func(w *Writer) { w.Delete("a") })                                            // 4
	commitAt(s, 5, func(w *Writer) { w.Put("a", []byte("again"), 0); w.Put("c", []byte{0}, 0) }) // 5
	a := Span{Key: "a", Single: true}
	whole := []string{"2.0 a v1 t10 1<-1 lease 0 1", "3.0 a v2 t20 4<1 lease 7 four", "4.0 a v0 t0 0<4 lease 0 ", "5.0 a v1 t5 5<-1 lease 0 again"}
	check := func(when string) {
		got, more := told(t, s, Changes{Span: a, Limit: 9, Values: true})
		wantLines(t, when, got, whole)
		if more {
			t.Errorf("%s: more than all", when)
		}
		got, more = told(t, s, Changes{Span: a, Limit: 2, Values: true})
		wantLines(t, when+", the last two", got, whole[2:])
		if !more {
			t.Errorf("%s: two of four are said to be all", when)
		}
		got, _ = told(t, s, Changes{Span: a, Limit: 2, Oldest: true, Values: true, After: MakeID(2, 0)})
		wantLines(t, when+", two after the first", got, whole[1:3])
		got, _ = told(t, s, Changes{Span: a, Limit: 9, From: 4, Values: true})
		wantLines(t, when+", from 4", got, whole[2:])
		got, _ = told(t, s, Changes{Span: Span{Key: "a", End: "c"}, Limit: 2})
		wantLines(t, when+", a range", got, []string{"4.0 a v0 t0 0<4 lease 0 ", "5.0 a v1 t5 5<-1 lease 0 "})
		got, _ = told(t, s, Changes{Span: Span{Key: "d"}, Limit: 2})
		wantLines(t, when+", nothing", got, nil)
	}
	check("in memory")
	flush(t, s)
	check("on disk")

	// Agreed on, and not removed yet: nobody sees what is to go.
	onKeeper(t, s, func() {
		w := s.Writer()
		w.Begin(0)
		if err := w.Compact(3); err != nil {
			t.Error(err)
		}
		w.End()
		w.Publish(s.Applied() + 1)
		got, _ := told(t, s, Changes{Span: a, Limit: 9, Values: true})
		whole[1] = strings.Replace(whole[1], "4<1", "4<-1", 1)
		wantLines(t, "agreed on", got, whole[1:])
	})
	waitCompacted(t, s)
	got, _ := told(t, s, Changes{Span: a, Limit: 9, Values: true})
	wantLines(t, "removed", got, whole[1:])
	compact(t, s, 5)
	waitCompacted(t, s)
	got, _ = told(t, s, Changes{Span: a, Limit: 9, Values: true})
	wantLines(t, "compacted to the end", got, whole[3:])
}

// TestChangesOvertaken: a reader that a compaction overtakes is told so.
func TestChangesOvertaken(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	for i := range 10 {
		put(s, "a", fmt.Sprint(i))
	}
	flush(t, s)
	n := 0
	_, err := s.View().Changes(Changes{Span: Span{Key: "a", Single: true}, Limit: 10}, func(*Change) error {
		if n++; n == 1 {
			compact(t, s, s.Rev())
			waitCompacted(t, s)
		}
		return nil
	})
	if !errors.Is(err, ErrCompacted) {
		t.Errorf("after %d changes: got %v, want %v", n, err, ErrCompacted)
	}
}

// TestLookAgainstModel: times and histories of a store with clocks that jump,
// flushes, compactions and restarts are those of a plain list.
func TestLookAgainstModel(t *testing.T) {
	for seed := range uint64(2) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{Path: t.TempDir() + "/limpet.db", TailBytes: 2000, FlushAge: never}
		s := newStore(t, cfg)
		var all []Change
		floor := int64(-1)
		for i := range 500 {
			ms := rnd.Int64N(50) * rnd.Int64N(2) // half of them unknown
			if i%100 > 10 {
				ms = int64(i + 100)
			}
			commitAt(s, ms, func(w *Writer) {
				for _, key := range rnd.Perm(6)[:1+rnd.IntN(3)] {
					name, rev := fmt.Sprint("k", key), w.Base()+1
					if rnd.IntN(4) == 0 && w.Delete(name) {
						all = append(all, Change{Row: Row{ID: MakeID(rev, w.Changes()-1), Key: name}, Time: ms})
					} else {
						w.Put(name, make([]byte, rnd.IntN(30)), 0)
						all = append(all, Change{Row: Row{ID: MakeID(rev, w.Changes()-1), Key: name, Version: 1}, Time: ms})
					}
				}
			})
			switch rnd.IntN(100) {
			case 0, 1, 2:
				flush(t, s)
			case 3:
				floor = max(floor, s.Rev()-rnd.Int64N(300))
				if floor > s.Floor() {
					compact(t, s, floor)
				}
			case 4:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = newStore(t, cfg)
			}
			if i%50 == 0 {
				checkLook(t, s, all, floor, rnd.Int64N(int64(i+200)))
			}
		}
	}
}

func checkLook(t *testing.T, s *Store, all []Change, floor, ms int64) {
	t.Helper()
	want, oldest := Moment{}, Moment{}
	byKey := map[string][]Change{}
	for _, c := range all {
		if rev := c.ID.Rev(); rev >= floor {
			if c.Time > 0 && c.Time <= ms {
				want = Moment{rev, c.Time}
			}
			if oldest.Rev == 0 {
				oldest = Moment{rev, c.Time}
			}
		}
		kept := byKey[c.Key]
		if n := len(kept); n > 0 && c.ID.Rev() <= floor && kept[n-1].ID.Rev() < floor {
			kept = nil
		}
		byKey[c.Key] = append(kept, c)
	}
	got, ok, err := s.View().AsOf(ms)
	if err != nil || got != want || ok != (want.Rev != 0) {
		t.Fatalf("AsOf(%d) at floor %d: got %+v, %v, %v, want %+v", ms, floor, got, ok, err, want)
	}
	if got, err := s.From(max(floor, 0)); err != nil || got != oldest {
		t.Fatalf("From(%d): got %+v, %v, want %+v", floor, got, err, oldest)
	}
	var whole []ID
	for key, kept := range byKey {
		if kept[0].Tombstone() && kept[0].ID.Rev() < floor {
			kept = kept[1:]
		}
		type line struct {
			id    ID
			time  int64
			tombs bool
		}
		var want, got []line
		for _, c := range kept {
			want = append(want, line{c.ID, c.Time, c.Tombstone()})
			whole = append(whole, c.ID)
		}
		more, err := s.View().Changes(Changes{Span: Span{Key: key, Single: true}, Limit: 1 << 20}, func(c *Change) error {
			got = append(got, line{c.ID, c.Time, c.Tombstone()})
			return nil
		})
		if err != nil || more || !reflect.DeepEqual(got, want) {
			t.Fatalf("history of %s at floor %d: got %v, %v, %v\nwant %v", key, floor, got, more, err, want)
		}
	}
	slices.Sort(whole)
	for limit := 1; limit < 20; limit += 3 {
		for _, oldest := range []bool{false, true} {
			want := whole[max(0, len(whole)-limit):]
			if oldest {
				want = whole[:min(limit, len(whole))]
			}
			var got []ID
			more, err := s.View().Changes(Changes{Span: Span{Key: "k"}, Limit: limit, Oldest: oldest}, func(c *Change) error {
				got = append(got, c.ID)
				return nil
			})
			if err != nil || more != (len(whole) > limit) || !slices.Equal(got, want) {
				t.Fatalf("%d of all, oldest %v, at floor %d: got %v, %v, %v\nwant %v", limit, oldest, floor, got, more, err, want)
			}
		}
	}
}

// TestTimesAreBounded: what is compacted takes no memory in the index of times.
func TestTimesAreBounded(t *testing.T) {
	s := newStore(t, Config{})
	for i := range 10 * blockRevs {
		put(s, "a", fmt.Sprint(i))
	}
	compact(t, s, s.Rev())
	waitCompacted(t, s)
	if n := len(s.index.times.blocks); n != 1 {
		t.Errorf("%d blocks are left of 10, want 1", n)
	}
}

// TestLookAfterAdoption: who has taken over another's database tells what that one
// tells, of before and of what comes then.
func TestLookAfterAdoption(t *testing.T) {
	leader, follower := newStore(t, Config{Owner: 1}), newStore(t, Config{Owner: 2})
	for i := range int64(600) {
		commitAt(leader, 1000+i, func(w *Writer) { w.Put("a", nil, 0) })
	}
	adopt(t, follower, leader)
	for _, s := range []*Store{leader, follower} {
		commitAt(s, 5000, func(w *Writer) { w.Put("a", []byte("new"), 0) })
	}
	for _, ms := range []int64{999, 1000, 1300, 1599, 4999, 5000} {
		want, wantOK, err := leader.View().AsOf(ms)
		if err != nil || wantOK != (ms >= 1000) {
			t.Fatalf("AsOf(%d): got %+v, %v, %v", ms, want, wantOK, err)
		}
		if got, ok, err := follower.View().AsOf(ms); err != nil || got != want || ok != wantOK {
			t.Errorf("AsOf(%d) after the adoption: got %+v, %v, %v, want %+v", ms, got, ok, err, want)
		}
	}
	whole := Changes{Span: Span{Key: "a", Single: true}, Limit: 1000, Values: true}
	want, _ := told(t, leader, whole)
	got, _ := told(t, follower, whole)
	wantLines(t, "after the adoption", got, want)
}

// Of a store whose revisions have no time, as a restore makes it, the revision with
// which it was opened is that of every time since.
func TestAsOfAfterARestore(t *testing.T) {
	s := newStore(t, Config{Path: filepath.Join(t.TempDir(), "limpet.db"), TailBytes: -1})
	put(s, "k", "old")
	flush(t, s)
	if err := s.Writer().Bump(100); err != nil {
		t.Fatal(err)
	}
	s.Writer().Forget()
	s.Writer().Publish(s.Applied() + 1)
	before := time.Now().UnixMilli() - 1
	s = restart(t, s, true)
	rev, opened := s.Rev(), time.Now().UnixMilli()
	later := opened + 1000
	commitAt(s, later, func(w *Writer) { w.Put("k", []byte("new"), 0) })
	for ms, want := range map[int64]Moment{before: {}, opened: {Rev: rev}, later - 1: {Rev: rev}, later: {Rev: rev + 1, Time: later}} {
		if got, ok, err := s.View().AsOf(ms); err != nil || got != want || ok != (want.Rev != 0) {
			t.Errorf("AsOf(%d): got %+v, %v, %v, want %+v", ms-opened, got, ok, err, want)
		}
	}
}
