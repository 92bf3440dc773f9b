package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// smallSegment makes rotation come after a few entries.
const smallSegment = 4096

// openSmall opens a log of small segments, repairing as the product does.
func openSmall(t *testing.T, dir string) *wal.WAL {
	t.Helper()
	w, err := wal.Open(dir, wal.WithSegmentSize(smallSegment),
		wal.WithSegmentFiler(segment.NewFiler(dir, newWALFS(dir, smallSegment))), wal.WithMetaStore(&metaStore{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func entry(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: make([]byte, 500)}
}

func mustStore(t *testing.T, w *wal.WAL, from, to uint64) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := w.StoreLog(entry(i)); err != nil {
			t.Fatalf("store %d: %v", i, err)
		}
	}
}

func mustHold(t *testing.T, w *wal.WAL, first, last uint64) {
	t.Helper()
	f, _ := w.FirstIndex()
	l, _ := w.LastIndex()
	if f != first || l != last {
		t.Fatalf("the log holds [%d, %d], want [%d, %d]", f, l, first, last)
	}
	for i := first; i <= last; i++ {
		var log raft.Log
		if err := w.GetLog(i, &log); err != nil || log.Index != i || len(log.Data) != 500 {
			t.Fatalf("entry %d: got index %d, %d bytes, %v", i, log.Index, len(log.Data), err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// sealedByCrash makes a folder as a crash leaves it between sealing the tail
// and noting the rotation, and returns the last index in it.
func sealedByCrash(t *testing.T) (dir string, last uint64) {
	t.Helper()
	from := scratch(t)
	w := openSmall(t, from)
	before := filepath.Join(scratch(t), "meta")
	for last = 1; ; last++ {
		copyFile(t, filepath.Join(from, "wal-meta.db"), before)
		mustStore(t, w, last, last)
		if scanFile(t, filepath.Join(from, segment.FileName(types.SegmentInfo{BaseIndex: 1}))).indexStart != 0 {
			break
		}
		if last > 100 {
			t.Fatal("the log does not rotate")
		}
	}
	// The rotation runs behind the append: Close waits for it.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir = scratch(t)
	copyFile(t, before, filepath.Join(dir, "wal-meta.db"))
	first := types.SegmentInfo{ID: 0, BaseIndex: 1}
	copyFile(t, filepath.Join(from, segment.FileName(first)), filepath.Join(dir, segment.FileName(first)))
	return dir, last
}

// TestCrashBetweenSealAndRotation: raft-wal alone refuses every further append
// to such a log; a member killed there would never serve again.
func TestCrashBetweenSealAndRotation(t *testing.T) {
	dir, last := sealedByCrash(t)
	plain := scratch(t)
	for _, name := range []string{"wal-meta.db", segment.FileName(types.SegmentInfo{BaseIndex: 1})} {
		copyFile(t, filepath.Join(dir, name), filepath.Join(plain, name))
	}
	unrepaired, err := wal.Open(plain, wal.WithSegmentSize(smallSegment))
	if err != nil {
		t.Fatal(err)
	}
	if err := unrepaired.StoreLog(entry(last + 1)); !errors.Is(err, wal.ErrSealed) {
		t.Fatalf("raft-wal without the repair: got %v, want %v: the state is not the one to test, or raft-wal was mended", err, wal.ErrSealed)
	}
	_ = unrepaired.Close()

	w := openSmall(t, dir)
	mustHold(t, w, 1, last)
	mustStore(t, w, last+1, last+20)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mustHold(t, openSmall(t, dir), 1, last+20)
}

// TestTornTail: whatever a crash makes of the last record, the log opens with
// all records before it, and goes on.
func TestTornTail(t *testing.T) {
	for name, tear := range map[string]func(data []byte, from, to int){
		"nothing arrived":       func(d []byte, from, to int) { clear(d[from:to]) },
		"the end is missing":    func(d []byte, from, to int) { clear(d[from+(to-from)/2 : to]) },
		"the start is missing":  func(d []byte, from, to int) { clear(d[from : from+(to-from)/2]) },
		"the middle is garbage": func(d []byte, from, to int) { copy(d[from+100:], "garbage") },
		"the commit is missing": func(d []byte, _, to int) { clear(d[to-frameHeader : to]) },
		"an unknown frame type": func(d []byte, from, _ int) { d[from] = 0x7f },
		"a length beyond all":   func(d []byte, from, _ int) { copy(d[from+4:], "\xff\xff\xff\x7f") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			w := openSmall(t, dir)
			mustStore(t, w, 1, 3)
			path := filepath.Join(dir, segment.FileName(types.SegmentInfo{BaseIndex: 1}))
			before := scanFile(t, path)
			mustStore(t, w, 4, 4)
			after := scanFile(t, path)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			data, _ := os.ReadFile(path)
			tear(data, before.end, after.end)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			w = openSmall(t, dir)
			mustHold(t, w, 1, 3)
			mustStore(t, w, 4, 30)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			mustHold(t, openSmall(t, dir), 1, 30)
		})
	}
}

// TestTornSeal: the record that would have sealed the segment was torn. The
// segment is not sealed, and rotates when the record comes again.
func TestTornSeal(t *testing.T) {
	dir, last := sealedByCrash(t)
	path := filepath.Join(dir, segment.FileName(types.SegmentInfo{BaseIndex: 1}))
	data, _ := os.ReadFile(path)
	sealed := scanFile(t, path)
	clear(data[sealed.end-frameHeader : sealed.end]) // the commit never arrived
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	w := openSmall(t, dir)
	mustHold(t, w, 1, last-1)
	mustStore(t, w, last, last+20)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mustHold(t, openSmall(t, dir), 1, last+20)
}

// TestDamageBeforeTheTail: records that were acknowledged are not dropped in
// silence, wherever among them a bit flips or a sector is lost.
func TestDamageBeforeTheTail(t *testing.T) {
	dir := scratch(t)
	w := openSmall(t, dir)
	mustStore(t, w, 1, 4)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, segment.FileName(types.SegmentInfo{BaseIndex: 1}))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tail := scanFile(t, path)
	third := 0 // where the last batch, that of entry 4, begins
	for {
		b, ok := readBatch(whole, third)
		if !ok {
			t.Fatalf("no batch at %d", third)
		}
		if b.end == tail.end {
			break
		}
		third = b.end
	}
	refused := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := wal.Open(dir, wal.WithSegmentSize(smallSegment), wal.WithMetaStore(&metaStore{})); err == nil {
			_ = w.Close()
			t.Errorf("a log with %s was opened", what)
		}
		now, err := os.ReadFile(path)
		if err != nil || string(now) != string(data) {
			t.Fatalf("the file with %s was changed (%v)", what, err)
		}
	}
	const sector = 512
	for pos := segmentHeader; pos < third; pos++ {
		data := slices.Clone(whole)
		data[pos] ^= 0x10
		if tail, err := scanTail(data); err == nil {
			t.Errorf("a flipped bit at offset %d, before the last commit at %d: the log ends at %d, want it refused", pos, third, tail.end)
		}
	}
	for from := 0; from+sector <= third; from += sector {
		data := slices.Clone(whole)
		clear(data[from : from+sector])
		refused(fmt.Sprintf("a sector of zeros at offset %d", from), data)
	}
	data := slices.Clone(whole)
	data[segmentHeader] ^= 0x10 // the type of a frame
	refused("a frame of another type", data)
}

func scanFile(t *testing.T, path string) tailState {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tail, err := scanTail(data)
	if err != nil {
		t.Fatal(err)
	}
	return tail
}

// TestMetaRemoved: raft-wal deletes segments that its meta data do not name, so
// a log without them is refused before raft-wal sees it.
func TestMetaRemoved(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			l, err := openLogStore(dir, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(l.StoreLog(entry(1)), l.Close()); err != nil {
				t.Fatal(err)
			}
			if err := lose(filepath.Join(dir, "wal-meta.db")); err != nil {
				t.Fatal(err)
			}
			before, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
			if l, err := openLogStore(dir, 1<<20); err == nil {
				_ = l.Close()
				t.Fatal("the log was opened without its meta data")
			}
			after, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
			if len(before) == 0 || len(after) != len(before) {
				t.Fatalf("segments before %v, after the refusal %v; want the same", before, after)
			}
		})
	}
}

// scratch is a folder for a log whose rotation may still be making a segment
// when the test ends: raft-wal's Close does not wait for it.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "limpet-log-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { until(t, dir+" to be removed", func() bool { return os.RemoveAll(dir) == nil }) })
	return dir
}

// Whatever copies of the log's folder are made, its files are for their owner
// alone; also those of an older limpet, which left one for everybody to read.
func TestLogFilesAreTheOwners(t *testing.T) {
	dir := t.TempDir()
	for index := range uint64(2) {
		w := openSmall(t, dir)
		if err := w.StoreLog(entry(index + 1)); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) < 2 {
			t.Fatalf("%d files: %v", len(files), err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
			}
		}
		if err := errors.Join(w.Close(), os.Chmod(filepath.Join(dir, "wal-meta.db"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}
