package sqlstore

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// never is a FlushAge that no test reaches: the keeper then writes only when it
// is told to.
const never = 24 * time.Hour

// newStore opens a store on a fresh file, closed when the test ends.
func newStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "limpet.db")
	}
	if cfg.FlushAge == 0 {
		cfg.FlushAge = never
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open(%+v): %v", cfg, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// put is one command of one put, published at the next index.
func put(s *Store, key, value string) int64 {
	w := s.Writer()
	w.Begin(0)
	w.Put(key, []byte(value), 0)
	rev := w.End()
	w.Publish(s.Applied() + 1)
	return rev
}

// compact is one compaction, published at the next index.
func compact(t testing.TB, s *Store, rev int64) {
	t.Helper()
	w := s.Writer()
	w.Begin(0)
	if err := w.Compact(rev); err != nil {
		t.Fatalf("Compact(%d): %v", rev, err)
	}
	w.End()
	w.Publish(s.Applied() + 1)
}

// flush writes all that is published.
func flush(t testing.TB, s *Store) {
	t.Helper()
	if err := s.WaitDurable(context.Background(), s.Applied()); err != nil {
		t.Fatalf("WaitDurable(%d): %v", s.Applied(), err)
	}
}

// waitCompacted waits until the rows below the floor are gone.
func waitCompacted(t testing.TB, s *Store) {
	t.Helper()
	if err := s.WaitCompacted(context.Background(), s.Floor()); err != nil {
		t.Fatalf("WaitCompacted(%d): %v", s.Floor(), err)
	}
}

// onKeeper runs fn on the keeper's goroutine, between two of its steps.
func onKeeper(t testing.TB, s *Store, fn func()) {
	t.Helper()
	if err := s.keeper.do(context.Background(), func() error { fn(); return nil }); err != nil {
		t.Fatalf("on the keeper: %v", err)
	}
}

// copyDatabase copies what a power cut would leave now. The caller runs on the
// keeper's goroutine, or knows that the keeper stands still.
func copyDatabase(t testing.TB, path, dir string) string {
	t.Helper()
	to := filepath.Join(dir, filepath.Base(path))
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// get reads key at rev and returns its value; "" and false if it is absent.
func get(t testing.TB, s *Store, key string, rev int64) (string, bool) {
	t.Helper()
	v, err := s.At(rev)
	if err != nil {
		t.Fatalf("At(%d): %v", rev, err)
	}
	row, err := v.Get(key)
	if err != nil {
		t.Fatalf("Get(%q) at %d: %v", key, rev, err)
	}
	if row == nil {
		return "", false
	}
	return string(row.Value), true
}

func hashOf(t testing.TB, s *Store) Hash {
	t.Helper()
	waitCompacted(t, s)
	h, err := s.HashKV(context.Background(), 0)
	if err != nil {
		t.Fatalf("HashKV: %v", err)
	}
	return h
}
