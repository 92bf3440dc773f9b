package sqlstore

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFlushByAge: what waits is written once the oldest of it is old enough,
// and an idle store writes nothing.
func TestFlushByAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		var flushes atomic.Int64
		s := newStore(t, Config{Path: path, FlushAge: 10 * time.Second, Observe: Observer{
			Flush: func(time.Duration, int) { flushes.Add(1) },
		}})
		at := func(d time.Duration, durable uint64, n int64) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if s.Durable() != durable || flushes.Load() != n {
				t.Fatalf("durable %d after %d flushes, want %d after %d", s.Durable(), flushes.Load(), durable, n)
			}
		}
		at(time.Hour, 0, 0)
		put(s, "a", "1")
		at(9*time.Second, 0, 0)
		put(s, "a", "2") // the age of the first counts
		at(time.Second, 2, 1)
		at(time.Hour, 2, 1)
	})
}

// TestFlushByBytes: what waits is written at once when there is much of it.
func TestFlushByBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path, FlushBytes: 10_000})
		put(s, "a", strings.Repeat("x", 9_000))
		synctest.Wait()
		if s.Durable() != 0 {
			t.Fatalf("flushed at %d bytes, want it at 10000", s.Stats().Pending)
		}
		put(s, "a", strings.Repeat("x", 1_000))
		synctest.Wait()
		if s.Durable() != 2 || s.Stats().Pending != 0 {
			t.Fatalf("durable %d with %d bytes pending, want 2 with 0", s.Durable(), s.Stats().Pending)
		}
	})
}

// TestRecordsCountAsPending: what records hold is written as soon as there is
// much of it, and is no more pending then.
func TestRecordsCountAsPending(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path, FlushBytes: 10_000})
		record := func(index uint64, size int) {
			s.Writer().SetRecord("kind", "name", make([]byte, size))
			s.Writer().Publish(index)
			synctest.Wait()
		}
		record(1, 9_000)
		if s.Durable() != 0 || s.Stats().Pending != 9_008 {
			t.Fatalf("durable %d with %d bytes pending, want 0 with 9008", s.Durable(), s.Stats().Pending)
		}
		record(2, 1_000)
		if s.Durable() != 2 || s.Stats().Pending != 0 {
			t.Fatalf("durable %d with %d bytes pending, want 2 with 0", s.Durable(), s.Stats().Pending)
		}
	})
}

// TestBackPressure: Publish waits while more than MaxPending bytes wait for the
// disk, and ends its wait with the disk's.
func TestBackPressure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path, FlushBytes: 1 << 20, MaxPending: 10_000})
		hold := make(chan struct{})
		// Owner: this test; ends when hold is closed.
		go func() { _ = s.keeper.do(t.Context(), func() error { <-hold; return nil }) }()
		synctest.Wait()
		put(s, "a", strings.Repeat("x", 5_000)) // does not wait
		published := false
		// Owner: this test; ends when the keeper goes on.
		go func() {
			put(s, "b", strings.Repeat("x", 5_000))
			published = true
		}()
		synctest.Wait()
		if published {
			t.Fatalf("Publish returned with %d bytes pending, want it to wait beyond 10000", s.Stats().Pending)
		}
		if v, ok := get(t, s, "b", s.Rev()); !ok || len(v) != 5_000 {
			t.Fatalf("b has %d bytes, %v; want it readable while the writer waits", len(v), ok)
		}
		close(hold)
		synctest.Wait()
		if !published || s.Durable() != 2 {
			t.Fatalf("published %v, durable %d; want true, 2 once the keeper goes on", published, s.Durable())
		}
	})
}

// TestCompactionNeverPassesTheFlush: rows may go only when the floor that
// condemns them, and the rows that replace them, are in the file. Otherwise a
// power cut leaves a file at revision R that lacks what was live at R, and
// replaying the log gives other versions and other results than on other
// members.
func TestCompactionNeverPassesTheFlush(t *testing.T) {
	var s *Store
	var crashed string
	dir := t.TempDir()
	flushes, slices := 0, 0
	s = newStore(t, Config{Observe: Observer{
		Flush: func(time.Duration, int) {
			if flushes++; flushes == 1 {
				// While the compaction to 2 flushes, a put and a further
				// compaction are published.
				put(s, "a", "2")
				compact(t, s, 3)
			}
		},
		Slice: func(time.Duration) {
			if slices++; slices == 1 {
				crashed = copyDatabase(t, s.cfg.Path, dir)
			}
		},
	}})
	put(s, "a", "1")
	compact(t, s, 2)
	if err := s.WaitCompacted(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	onKeeper(t, s, func() {}) // the callbacks are over
	if crashed == "" {
		t.Fatal("no slice was removed")
	}
	after := newStore(t, Config{Path: crashed})
	v, ok := get(t, after, "a", after.Rev())
	if want := fmt.Sprint(after.Rev() - 1); !ok || v != want {
		t.Fatalf("the file stands at revision %d, floor %d, applied %d and has a = %q, %v; want %q",
			after.Rev(), after.Floor(), after.Applied(), v, ok, want)
	}
}

// TestCompactionResumes: the floor is flushed before rows go, so a crash in
// between is made good by the next start.
func TestCompactionResumes(t *testing.T) {
	var s *Store
	var crashed []string
	dir := t.TempDir()
	crash := func() {
		sub := filepath.Join(dir, fmt.Sprint(len(crashed)))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Error(err)
		}
		crashed = append(crashed, copyDatabase(t, s.cfg.Path, sub))
	}
	s = newStore(t, Config{Observe: Observer{
		Flush: func(time.Duration, int) { crash() },
		Slice: func(time.Duration) { crash() },
	}})
	const keys = 3000 // more than one slice
	w := s.Writer()
	for range 3 {
		for i := range keys {
			w.Begin(0)
			w.Put(fmt.Sprintf("k%04d", i), []byte("v"), 0)
			w.End()
		}
	}
	w.Publish(1)
	compact(t, s, s.Rev())
	waitCompacted(t, s)
	want := hashOf(t, s)
	onKeeper(t, s, func() {}) // the last callback is over
	if len(crashed) < 4 {
		t.Fatalf("%d moments to crash at, want the flush and at least three slices", len(crashed))
	}
	for i, path := range crashed {
		after := newStore(t, Config{Path: path})
		got := hashOf(t, after)
		if got != want || after.Stats().Keys != keys {
			t.Errorf("crash %d: %+v with %d keys, want %+v with %d", i, got, after.Stats().Keys, want, keys)
		}
		if n := count(t, after, "SELECT count(*) FROM revisions"); n != keys {
			t.Errorf("crash %d: %d rows are left, want %d", i, n, keys)
		}
	}
}

// count runs a query that yields one number on the keeper's connection.
func count(t testing.TB, s *Store, sql string) (n int64) {
	t.Helper()
	onKeeper(t, s, func() {
		var err error
		if n, err = s.keeper.conn.int64(sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	})
	return n
}

// TestTornFlush: a flush is there as a whole or not at all, wherever the power
// was cut while its pages were written.
func TestTornFlush(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "a", "1")
	s.Writer().SetRecord("kind", "name", []byte("1"))
	s.Writer().Publish(2)
	flush(t, s)
	wal, err := os.ReadFile(s.cfg.Path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	before := len(wal)
	for i := range 40 {
		put(s, fmt.Sprintf("b%02d", i), strings.Repeat("x", 1000))
	}
	put(s, "a", "2")
	s.Writer().SetRecord("kind", "name", []byte("2"))
	s.Writer().Publish(s.Applied() + 1)
	flush(t, s)
	dir := t.TempDir()
	path := ""
	onKeeper(t, s, func() { path = copyDatabase(t, s.cfg.Path, dir) })
	wal, err = os.ReadFile(path + "-wal")
	if err != nil || len(wal) <= before {
		t.Fatalf("the second flush left a WAL of %d bytes after one of %d, %v", len(wal), before, err)
	}
	for cut := before; cut < len(wal); cut += 1 + (len(wal)-before)/23 {
		if err := os.WriteFile(path+"-wal", wal[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path + "-shm")
		db, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(t.TempDir(), "limpet.db")
		if err := errors.Join(os.WriteFile(at, db, 0o600), os.WriteFile(at+"-wal", wal[:cut], 0o600)); err != nil {
			t.Fatal(err)
		}
		after := newStore(t, Config{Path: at})
		if after.Rev() != 2 || after.Applied() != 2 || after.Stats().Keys != 1 {
			t.Errorf("WAL cut at %d of %d: revision %d, applied %d, %d keys; want 2, 2, 1", cut, len(wal), after.Rev(), after.Applied(), after.Stats().Keys)
		}
		_ = after.Records("kind", func(_ string, data []byte) error {
			if string(data) != "1" {
				t.Errorf("WAL cut at %d: record is %q, want 1", cut, data)
			}
			return nil
		})
	}
}

// TestDiskFull: while the file cannot grow, reads and writes go on in memory
// and Err says why; once it can, everything waiting is written.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path, FlushAge: time.Second})
		put(s, "a", "1")
		s.Writer().SetRecord("kind", "name", []byte("1"))
		s.Writer().Publish(2)
		time.Sleep(2 * time.Second)
		pages := count(t, s, "PRAGMA page_count")
		count(t, s, fmt.Sprintf("PRAGMA max_page_count = %d", pages+1))
		for i := range 100 {
			put(s, fmt.Sprint("b", i), strings.Repeat("x", 4096))
		}
		s.Writer().SetRecord("kind", "name", []byte("2"))
		s.Writer().Publish(s.Applied() + 1)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), "full") {
			t.Fatalf("Err() = %v, want that the disk is full", err)
		}
		if s.Durable() != 2 {
			t.Fatalf("durable %d, want 2", s.Durable())
		}
		if v, ok := get(t, s, "b99", s.Rev()); !ok || len(v) != 4096 {
			t.Fatalf("b99 has %d bytes, %v; want it readable", len(v), ok)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := s.WaitDurable(ctx, s.Applied()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("WaitDurable: %v, want the deadline", err)
		}
		count(t, s, "PRAGMA max_page_count = 1000000")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Err() != nil || s.Durable() != s.Applied() {
			t.Fatalf("Err() = %v, durable %d of %d; want all written once there is room", s.Err(), s.Durable(), s.Applied())
		}
		if n := count(t, s, "SELECT count(*) FROM revisions"); n != 101 {
			t.Fatalf("%d rows, want 101", n)
		}
		if n := count(t, s, "SELECT data = CAST('2' AS BLOB) FROM records"); n != 1 {
			t.Fatal("the record changed while the disk was full is not in the file")
		}
	})
}

// TestForeignFileUntouched: another program's database is refused as it is.
func TestForeignFileUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	c, err := openConn(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.exec("CREATE TABLE t(x); INSERT INTO t VALUES (1)"), c.close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	s, err := Open(Config{Path: path})
	if err == nil {
		_ = s.Close()
		t.Fatal("Open took over another program's database")
	}
	if !strings.Contains(err.Error(), "another program") || !strings.Contains(err.Error(), path) {
		t.Errorf("Open: %v, want it to name the file and say that it is another program's", err)
	}
	after, _ := os.ReadFile(path)
	if !bytes.Equal(before, after) {
		t.Errorf("Open changed the %d bytes of a file it refused", len(before))
	}
}

// TestRefusedFiles: what is no database, or of a newer program, is not opened.
func TestRefusedFiles(t *testing.T) {
	newer := func(t *testing.T, path string) {
		s := newStore(t, Config{Path: path})
		put(s, "a", "1")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := openConn(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.exec(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion+1)), c.close()); err != nil {
			t.Fatal(err)
		}
	}
	write := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		make  func(*testing.T, string)
		wants string
	}{
		{"newer schema", newer, "newer limpet"},
		{"text", write(strings.Repeat("no database, ", 1000)), "not a database"},
		{"folder", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "unable to open"},
		{"no folder", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "unable to open"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "limpet.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			tc.make(t, path)
			s, err := Open(Config{Path: path})
			if err == nil {
				_ = s.Close()
				t.Fatalf("Open took %s", tc.name)
			}
			if !strings.Contains(err.Error(), tc.wants) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v, want it to name the file and say %q", err, tc.wants)
			}
		})
	}
}

// TestDefragment: free pages go back to the file system, and nothing else
// changes.
func TestDefragment(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	for i := range 500 {
		put(s, fmt.Sprint("k", i%10), strings.Repeat("x", 4000))
	}
	compact(t, s, s.Rev())
	waitCompacted(t, s)
	want := hashOf(t, s)
	onKeeper(t, s, func() {}) // the sizes are measured
	before := s.Stats()
	if before.FileBytes-before.SizeInUse < 1<<20 {
		t.Fatalf("%d bytes in use of %d, want much free space to begin with", before.SizeInUse, before.FileBytes)
	}
	if err := s.Defragment(t.Context()); err != nil {
		t.Fatalf("Defragment: %v", err)
	}
	after := s.Stats()
	if after.FileBytes > before.SizeInUse+64<<10 {
		t.Errorf("%d bytes after Defragment, want about the %d in use", after.FileBytes, before.SizeInUse)
	}
	if info, err := os.Stat(s.cfg.Path); err != nil || info.Size() != after.FileBytes {
		t.Errorf("the file has %d bytes (%v), want the %d that Stats tells", info.Size(), err, after.FileBytes)
	}
	if info, err := os.Stat(s.cfg.Path + "-wal"); err == nil && info.Size() > 0 {
		t.Errorf("the WAL has %d bytes after Defragment, want 0", info.Size())
	}
	if got := hashOf(t, s); got != want {
		t.Errorf("hash %+v after Defragment, want %+v", got, want)
	}
}

// TestImage: an image is a database with all that is published, of the size
// announced, however the reader dawdles.
func TestImage(t *testing.T) {
	s := newStore(t, Config{})
	for i := range 200 {
		put(s, fmt.Sprint("k", i%20), strings.Repeat("x", 500))
	}
	flush(t, s)
	put(s, "last", "1") // not flushed
	s.Writer().SetRecord("kind", "name", []byte("1"))
	s.Writer().Publish(s.Applied() + 1)
	want, applied := hashOf(t, s), s.Applied()
	var img bytes.Buffer
	size := int64(-1)
	err := s.Image(t.Context(), func(n int64) error {
		size = n
		put(s, "later", "1") // must not change the size
		flush(t, s)
		return nil
	}, &img)
	if err != nil || size != int64(img.Len()) {
		t.Fatalf("Image: %d bytes announced, %d sent, %v", size, img.Len(), err)
	}
	path := filepath.Join(t.TempDir(), "image.db")
	if err := os.WriteFile(path, img.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	from := newStore(t, Config{Path: path})
	if got := hashOf(t, from); got != want || from.Applied() != applied {
		t.Errorf("the image has %+v at index %d, want %+v at %d", got, from.Applied(), want, applied)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Image(ctx, func(int64) error { cancel(); return nil }, &img)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Image with a canceled context: %v", err)
	}
	stop := errors.New("stop")
	if err := s.Image(t.Context(), func(int64) error { return stop }, &img); !errors.Is(err, stop) {
		t.Errorf("Image: %v, want the error of size", err)
	}
}

// TestClosed: a closed store says so, and closing again is harmless.
func TestClosed(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	put(s, "a", "1")
	flush(t, s)
	put(s, "b", "1")
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if s.Durable() != s.Applied() {
		t.Errorf("durable %d of %d after Close", s.Durable(), s.Applied())
	}
	ctx := t.Context()
	_, _, historyErr := s.History(Span{}, 2, 2)
	_, getErr := s.View().Get("a")
	for what, err := range map[string]error{
		"History":       historyErr,
		"Get":           getErr,
		"WaitDurable":   s.WaitDurable(ctx, 99),
		"WaitCompacted": s.WaitCompacted(ctx, 99),
		"Defragment":    s.Defragment(ctx),
		"Image":         s.Image(ctx, func(int64) error { return nil }, new(bytes.Buffer)),
		"Records":       s.Records("x", func(string, []byte) error { return nil }),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if err := s.WaitDurable(ctx, s.Applied()); err != nil {
		t.Errorf("WaitDurable of what is durable: %v", err)
	}
}

// TestCloseWaitsForReaders: a read under way keeps its connection until it ends.
func TestCloseWaitsForReaders(t *testing.T) {
	s := newStore(t, Config{})
	s.Writer().SetRecord("kind", "name", []byte("1"))
	s.Writer().Publish(1)
	flush(t, s)
	inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	// Owner: this test; ends when leave is closed.
	go func() {
		done <- s.Records("kind", func(string, []byte) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	<-inside
	closed := make(chan error, 1)
	// Owner: this test; ends with Close.
	go func() { closed <- s.Close() }()
	<-s.keeper.quit
	select {
	case <-closed:
		t.Fatal("Close returned while a read was under way")
	default:
	}
	close(leave)
	if err := errors.Join(<-done, <-closed); err != nil {
		t.Fatal(err)
	}
	if _, err := s.borrow(); !errors.Is(err, ErrClosed) {
		t.Errorf("a read after Close: %v, want ErrClosed", err)
	}
}

// TestPragmas: the settings that durability rests on are the ones in force.
func TestPragmas(t *testing.T) {
	s := newStore(t, Config{})
	for pragma, want := range map[string]int64{
		"synchronous": 2, "wal_autocheckpoint": 0, "auto_vacuum": 2, "application_id": ApplicationID, "user_version": schemaVersion,
	} {
		if got := count(t, s, "PRAGMA "+pragma); got != want {
			t.Errorf("PRAGMA %s = %d, want %d", pragma, got, want)
		}
	}
	r, err := s.borrow()
	if err != nil {
		t.Fatal(err)
	}
	defer s.giveBack(r)
	if err := r.conn.exec("DELETE FROM meta"); err == nil {
		t.Error("a read connection can write")
	}
}

// TestReadableBySqlite3: column revision and the names in the file are part of
// the face.
func TestReadableBySqlite3(t *testing.T) {
	s := newStore(t, Config{})
	w := s.Writer()
	w.Begin(1234567)
	w.Put("a", []byte("x"), 9)
	w.Delete("a")
	w.End()
	w.Publish(1)
	flush(t, s)
	var got []string
	onKeeper(t, s, func() {
		err := s.keeper.conn.query("SELECT revision, CAST(key AS TEXT), create_revision, version, lease, time, coalesce(CAST(value AS TEXT), 'NULL') FROM revisions ORDER BY id", 7,
			func(row []driver.Value) error {
				got = append(got, fmt.Sprint(row))
				return nil
			})
		if err != nil {
			t.Error(err)
		}
	})
	want := []string{"[2 a 2 1 9 1234567 x]", "[2 a 0 0 0 1234567 NULL]"}
	if !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
}

// TestRowsAtTheFloorStay is I5: a row at the compaction floor does not change,
// also when a later change of the same revision replaced it (a transaction may
// delete from a key on and put that key).
func TestRowsAtTheFloorStay(t *testing.T) {
	s := newStore(t, Config{TailBytes: -1})
	put(s, "a", "1")
	w := s.Writer()
	w.Begin(0)
	w.Delete("a")
	w.Put("a", []byte("2"), 0)
	w.End()
	w.Publish(s.Applied() + 1)
	compact(t, s, 3)
	waitCompacted(t, s)
	commits, _, err := s.History(Span{}, 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(commits) != 1 || len(commits[0].Rows) != 2 {
		t.Errorf("revision 3, the floor, has %+v, want the delete and the put", commits)
	}
	if v, ok := get(t, s, "a", 3); v != "2" || !ok {
		t.Errorf("a = %q, %v at 3; want 2", v, ok)
	}
}

// TestEmptyKey: the API takes no empty key. If a log holds one all the same, it
// must not keep every member from writing its database for ever.
func TestEmptyKey(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "", "1")
	put(s, "a", "2")
	s = restart(t, s, true)
	if v, ok := get(t, s, "", s.Rev()); !ok || v != "1" {
		t.Errorf("the empty key is %q, %v; want 1", v, ok)
	}
}
