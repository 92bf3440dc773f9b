package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"limpet/sqlstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// still is a Source that changes only when a test says so.
type still struct {
	mu      sync.Mutex
	commits []*sqlstore.Commit // of revisions 2, 3, …
	rev     int64
	floor   int64
	memory  int64 // Recent knows revisions from here on
	stretch int64 // revisions that one call of History answers
	fail    error // what History returns instead
	calls   int   // of History

	afterRev func() // called once, after the next call of Rev has its answer
}

func newStill() *still { return &still{rev: 1, floor: -1, stretch: 1000} }

// commit adds a revision made of rows; keys that begin with - are deletes.
func (s *still) commit(kvs ...string) *sqlstore.Commit {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	c := &sqlstore.Commit{Rev: s.rev}
	for i := 0; i < len(kvs); i += 2 {
		row := sqlstore.Row{ID: sqlstore.MakeID(s.rev, i/2), Key: kvs[i]}
		if kvs[i][0] == '-' {
			row.Key = kvs[i][1:]
		} else {
			row.Value = []byte(kvs[i+1])
			row.Create, row.Version = s.rev, 1
			if prev := s.newest(kvs[i], s.rev); prev != nil {
				row.Create, row.Version = prev.Create, prev.Version+1
			}
		}
		c.Rows = append(c.Rows, row)
	}
	s.commits = append(s.commits, c)
	return c
}

// newest is the version of key before rev; nil if it is absent.
func (s *still) newest(key string, rev int64) *sqlstore.Row {
	var found *sqlstore.Row
	for _, c := range s.commits {
		for i := range c.Rows {
			if c.Rev < rev && c.Rows[i].Key == key {
				found = &c.Rows[i]
			}
		}
	}
	if found == nil || found.Tombstone() {
		return nil
	}
	return found
}

// Rev implements Source.
func (s *still) Rev() int64 {
	s.mu.Lock()
	rev, then := s.rev, s.afterRev
	s.afterRev = nil
	s.mu.Unlock()
	if then != nil {
		then()
	}
	return rev
}

// Floor implements Source.
func (s *still) Floor() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor
}

// Recent implements Source.
func (s *still) Recent(revs []int64) []*sqlstore.Commit {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*sqlstore.Commit, len(revs))
	for i, rev := range revs {
		if rev >= s.memory && rev-2 < int64(len(s.commits)) {
			out[i] = s.commits[rev-2]
		}
	}
	return out
}

// History implements Source.
func (s *still) History(_ sqlstore.Span, from, to int64) ([]*sqlstore.Commit, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.fail != nil {
		return nil, 0, s.fail
	}
	if from < s.floor {
		return nil, 0, sqlstore.ErrCompacted
	}
	to = min(to, from+s.stretch-1)
	return slices.Clone(s.commits[max(from-2, 0):max(to-1, 0)]), to, nil
}

// Previous implements Source.
func (s *still) Previous(key string, rev int64) (*sqlstore.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev-1 < s.floor {
		return nil, nil
	}
	return s.newest(key, rev), nil
}

// openStore opens a real store with almost no tail.
func openStore(t testing.TB, tail int64) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(sqlstore.Config{
		Path: filepath.Join(t.TempDir(), "limpet.db"), TailBytes: tail, FlushAge: 24 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// publish makes a revision of the store as still.commit does, without telling
// the hub.
func publish(s *sqlstore.Store, kvs ...string) []*sqlstore.Commit {
	w := s.Writer()
	w.Begin(0)
	for i := 0; i < len(kvs); i += 2 {
		if kvs[i][0] == '-' {
			w.Delete(kvs[i][1:])
		} else {
			w.Put(kvs[i], []byte(kvs[i+1]), 0)
		}
	}
	w.End()
	return w.Publish(s.Applied() + 1)
}

// compactStore raises the floor and waits until the rows are gone.
func compactStore(t testing.TB, s *sqlstore.Store, rev int64) {
	t.Helper()
	w := s.Writer()
	if err := w.Compact(rev); err != nil {
		t.Fatal(err)
	}
	w.Publish(s.Applied() + 1)
	if err := s.WaitCompacted(context.Background(), rev); err != nil {
		t.Fatal(err)
	}
}

// adopt makes the store adopt the image of one that is ahead of it, without
// telling the hub.
func adopt(t testing.TB, store, ahead *sqlstore.Store) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	err = ahead.Image(context.Background(), func(int64) error { return nil }, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatalf("Image: %v", err)
	}
	if err := store.Adopt(f.Name()); err != nil {
		t.Fatalf("Adopt: %v", err)
	}
}

// done is a context that has ended: Next then returns what there is to send and
// never waits.
func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// drain returns all that can be sent now.
func drain(t testing.TB, s *Stream) []Response {
	t.Helper()
	var out []Response
	for ctx := done(); ; {
		r, err := s.Next(ctx, nil)
		if err == context.Canceled {
			return out
		}
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		out = append(out, r)
	}
}

var _ Source = (*sqlstore.Store)(nil)
