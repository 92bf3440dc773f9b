package raftfsm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const testSegment = 64 << 10

func newTestWALFS(t *testing.T) *walFS {
	t.Helper()
	w := newWALFS(t.TempDir(), testSegment)
	t.Cleanup(w.close)
	return w
}

// create makes a segment and closes it.
func (w *walFS) create(t *testing.T, name string) {
	t.Helper()
	f, err := w.Create(w.dir, name, w.size)
	if err != nil {
		t.Fatalf("Create(%s): %v", name, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// settle waits until the spare under way is done.
func (w *walFS) settle() {
	w.mu.Lock()
	under := w.preparing
	w.mu.Unlock()
	if under != nil {
		<-under
	}
}

func wantZeros(t *testing.T, file string, size int) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, make([]byte, size)) {
		t.Errorf("%s: got %d bytes, %d of them 0; want %d zeros", filepath.Base(file), len(got), bytes.Count(got, []byte{0}), size)
	}
}

func fill(t *testing.T, file string, size int) {
	t.Helper()
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, file string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A lazy log leaves the disk alone: a sync succeeds even on a file that is closed.
func TestLazySegmentsAreNotSynced(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		w := newTestWALFS(t)
		w.lazy = lazy
		w.create(t, "1.wal")
		f, err := w.OpenWriter(w.dir, "1.wal")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); (err == nil) != lazy {
			t.Errorf("lazy %v: sync of a closed segment: got %v", lazy, err)
		}
	}
}

// Each segment after the first is the spare that was prepared before.
func TestCreateTakesTheSpare(t *testing.T) {
	w := newTestWALFS(t)
	w.create(t, "1.wal")
	wantZeros(t, filepath.Join(w.dir, "1.wal"), testSegment)
	for _, name := range []string{"2.wal", "3.wal"} {
		w.settle()
		spare := stat(t, filepath.Join(w.dir, spareName))
		w.create(t, name)
		if made := stat(t, filepath.Join(w.dir, name)); !os.SameFile(spare, made) {
			t.Errorf("%s is not the spare that was there", name)
		}
		wantZeros(t, filepath.Join(w.dir, name), testSegment)
	}
}

// What an earlier process left under the spare's name may be half done, or
// full of something else: it is never taken.
func TestCreateIgnoresALeftSpare(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "half": testSegment / 2, "whole": testSegment, "too long": 2 * testSegment} {
		t.Run(name, func(t *testing.T) {
			w := newTestWALFS(t)
			fill(t, filepath.Join(w.dir, spareName), size)
			w.create(t, "1.wal")
			wantZeros(t, filepath.Join(w.dir, "1.wal"), testSegment)
		})
	}
}

// A spare that could not be finished, the disk being full, is made anew.
func TestCreateIgnoresABrokenSpare(t *testing.T) {
	for name, breaks := range map[string]func(spare string) error{
		"short":   func(spare string) error { return os.Truncate(spare, testSegment-1) },
		"missing": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWALFS(t)
			w.create(t, "1.wal")
			w.settle()
			if err := breaks(filepath.Join(w.dir, spareName)); err != nil {
				t.Fatal(err)
			}
			w.create(t, "2.wal")
			wantZeros(t, filepath.Join(w.dir, "2.wal"), testSegment)
		})
	}
}

func TestCreateRefusesANameInUse(t *testing.T) {
	w := newTestWALFS(t)
	file := filepath.Join(w.dir, "1.wal")
	fill(t, file, 10)
	if _, err := w.Create(w.dir, "1.wal", testSegment); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a file: got %v, want os.ErrExist", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "xxxxxxxxxx" {
		t.Errorf("the file that was there: got %q, %v, want it untouched", got, err)
	}
}

func TestCreateInAFolderThatIsGone(t *testing.T) {
	w := newWALFS(filepath.Join(t.TempDir(), "gone"), testSegment)
	defer w.close()
	if _, err := w.Create(w.dir, "1.wal", testSegment); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Create: got %v, want os.ErrNotExist", err)
	}
}

// A file of another size is not the spare's business, even while one is under
// way under the same name.
func TestCreateOfAnotherSize(t *testing.T) {
	w := newWALFS(t.TempDir(), 4<<20)
	defer w.close()
	w.create(t, "1.wal")
	for _, c := range []struct {
		name string
		size int
	}{{"2.wal", 4 << 10}, {"3.wal", 8 << 10}, {"4.wal", 16 << 10}} {
		f, err := w.Create(w.dir, c.name, uint64(c.size))
		if err != nil {
			t.Fatalf("Create(%s): %v", c.name, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	wantZeros(t, filepath.Join(w.dir, "2.wal"), 4<<10)
	wantZeros(t, filepath.Join(w.dir, "3.wal"), 8<<10)
	wantZeros(t, filepath.Join(w.dir, "4.wal"), 16<<10)
}

// Whether zeros are written or only reserved is not to be seen, nor is what
// was in the file before.
func TestReservedReadsAsZeros(t *testing.T) {
	for name, make := range map[string]func(string, uint64) error{"writeZeros": writeZeros, "reserve": reserve} {
		for _, size := range []int{0, 1, zeroWrite - 1, zeroWrite, zeroSync, zeroSync + zeroWrite + 1} {
			file := filepath.Join(t.TempDir(), "spare")
			for range 2 { // at first there is none, then one of something else
				if err := make(file, uint64(size)); err != nil {
					if size == 0 && name == "reserve" {
						t.Errorf("%s(%d): %v", name, size, err)
						break
					}
					t.Fatalf("%s(%d): %v", name, size, err)
				}
				wantZeros(t, file, size)
				fill(t, file, size+100)
			}
			if mode := stat(t, file).Mode().Perm(); mode != 0o600 {
				t.Errorf("%s: mode %o, want 600", name, mode)
			}
		}
		if err := make(filepath.Join(t.TempDir(), "gone", "spare"), 1); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s in a folder that is gone: got %v, want os.ErrNotExist", name, err)
		}
	}
}

func TestSegmentsAreWrittenAndReadBack(t *testing.T) {
	w := newTestWALFS(t)
	f, err := w.Create(w.dir, "1.wal", testSegment)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("entry"), testSegment-5); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := w.OpenWriter(w.dir, "1.wal")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	if _, err := again.ReadAt(got, testSegment-7); err != nil || string(got) != "\x00\x00entry" {
		t.Errorf("read back: got %q, %v, want two zeros and the entry", got, err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if size := stat(t, filepath.Join(w.dir, "1.wal")).Size(); size != testSegment {
		t.Errorf("size after writing: got %d, want %d", size, testSegment)
	}
	if _, err := w.OpenWriter(w.dir, "2.wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenWriter of no file: got %v, want os.ErrNotExist", err)
	}
}

func TestCloseTakesTheSpareAway(t *testing.T) {
	w := newTestWALFS(t)
	w.create(t, "1.wal")
	w.close()
	w.close() // twice is as good
	if _, err := os.Lstat(filepath.Join(w.dir, spareName)); !os.IsNotExist(err) {
		t.Errorf("the spare after close: got %v, want none", err)
	}
	wantZeros(t, filepath.Join(w.dir, "1.wal"), testSegment)
}
