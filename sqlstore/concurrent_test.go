package sqlstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestReadersWhileWriting: whatever the writer, the keeper and compactions do, a
// view at R shows exactly R or says that it is compacted (I5).
//
// The state at each revision is known beforehand: revision R puts key R mod
// keys with R as its value, or deletes it when R is a multiple of 7.
func TestReadersWhileWriting(t *testing.T) {
	const keys, last = 17, 3000
	s := newStore(t, Config{FlushBytes: 20_000, TailBytes: 5_000, CacheBytes: 10_000})
	var wg sync.WaitGroup
	// Owner: this test; ends with the last revision.
	wg.Go(func() {
		w := s.Writer()
		for rev := int64(Initial + 1); rev <= last; rev++ {
			w.Begin(0)
			if rev%7 == 0 && s.currentHas(rev%keys) {
				w.Delete(fmt.Sprint(rev % keys))
			} else {
				w.Put(fmt.Sprint(rev%keys), fmt.Append(nil, rev), 0)
			}
			if w.End() != rev {
				t.Errorf("revision %d, want %d", w.Base(), rev)
				return
			}
			if rev%5 == 0 {
				w.Publish(uint64(rev))
			}
			if rev%200 == 0 {
				_ = w.Compact(rev - 100)
				w.Publish(uint64(rev))
			}
		}
		w.Publish(last)
	})
	for reader := range uint64(3) {
		// Owner: this test; ends with the last revision.
		wg.Go(func() {
			r := rand.New(rand.NewPCG(reader, 7))
			for s.Rev() < last {
				readAndCheck(t, s, r, keys)
			}
		})
	}
	wg.Wait()
	for range 100 {
		readAndCheck(t, s, rand.New(rand.NewPCG(9, 9)), keys)
	}
}

// currentHas reports whether the Writer sees the key.
func (s *Store) currentHas(n int64) bool {
	row, err := s.Writer().View().Meta(fmt.Sprint(n))
	return err == nil && row != nil
}

func readAndCheck(t *testing.T, s *Store, r *rand.Rand, keys int64) {
	now, floor := s.Rev(), max(s.Floor(), 1)
	if now <= floor {
		return
	}
	rev := floor + r.Int64N(now-floor+1)
	v, err := s.At(rev)
	if err == nil {
		err = checkFormula(v, keys)
	}
	if errors.Is(err, ErrCompacted) {
		if s.Floor() <= rev {
			t.Errorf("view at %d: compacted, with the floor at %d", rev, s.Floor())
		}
		return
	}
	if err != nil {
		t.Error(err)
	}
}

// checkFormula compares a view with what the formula says of its revision.
func checkFormula(v View, keys int64) error {
	want := make(map[string]string)
	for rev := max(Initial+1, 0); int64(rev) <= v.Rev(); rev++ {
		key := fmt.Sprint(int64(rev) % keys)
		if _, has := want[key]; rev%7 == 0 && has {
			delete(want, key)
		} else {
			want[key] = fmt.Sprint(rev)
		}
	}
	res, err := v.Range("", "", RangeOptions{})
	if err != nil {
		return err
	}
	if res.Count != len(want) || len(res.Rows) != len(want) {
		return fmt.Errorf("view at %d: %d keys, count %d; want %d", v.Rev(), len(res.Rows), res.Count, len(want))
	}
	for _, row := range res.Rows {
		if string(row.Value) != want[row.Key] {
			return fmt.Errorf("view at %d: %s = %s, want %s", v.Rev(), row.Key, row.Value, want[row.Key])
		}
	}
	row, err := v.Get("3")
	if err == nil && (row == nil) != (want["3"] == "") {
		return fmt.Errorf("view at %d: Get(3) = %s, want %q", v.Rev(), rowText(row), want["3"])
	}
	return err
}

// TestHashWhileCompacting: a hash taken while rows go is the same as before
// they went, for the same floor.
func TestHashWhileCompacting(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	w := s.Writer()
	for i := range 6000 {
		w.Begin(0)
		w.Put(fmt.Sprint("k", i%500), fmt.Append(nil, i), 0)
		w.End()
	}
	w.Publish(1)
	flush(t, s)
	hold := make(chan struct{})
	held := make(chan struct{})
	// Owner: this test; ends when hold is closed.
	go func() {
		_ = s.keeper.do(t.Context(), func() error { close(held); <-hold; return nil })
	}()
	<-held
	compact(t, s, 5000)
	before, err := s.HashKV(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	close(hold)
	for s.keeper.compacted.Load() < 5000 {
		if got, err := s.HashKV(t.Context(), 0); got != before || err != nil {
			t.Fatalf("hash %+v, %v while compacting; want %+v", got, err, before)
		}
	}
	if got := hashOf(t, s); got != before {
		t.Errorf("hash %+v after compacting, want %+v", got, before)
	}
}
