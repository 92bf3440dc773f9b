package sqlstore

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildAgainstModel rebuilds stores of a random past from their rows: what
// opens is the same store, whether a compaction has passed or not.
func TestBuildAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 9))
			s, m := newStore(t, Config{}), newModel()
			for i := range uint64(150) {
				b := randomBatch(r, i+1, m.rev)
				m.apply(b)
				replay(s, b)
			}
			flush(t, s)
			image := filepath.Join(t.TempDir(), "image")
			writeImage(t, s, image)
			built := newStore(t, Config{Path: rebuild(t, image, s.Rev(), s.Floor())})
			checkAll(t, r, built, m)
			compareHashes(t, s, built)
			put(built, "k00", "goes on")
			if v, _ := get(t, built, "k00", s.Rev()+1); v != "goes on" {
				t.Errorf("the built store does not go on: %q at revision %d", v, s.Rev()+1)
			}
		})
	}
}

// rebuild builds a database of the rows of another one.
func rebuild(t *testing.T, from string, rev, floor int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limpet.db")
	b, err := Build(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := ReadFile(from, func(r *Row) error { return b.Add(r, 0) }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Finish(rev, floor), b.Publish()); err != nil {
		t.Fatalf("Finish(%d, %d), Publish: %v", rev, floor, err)
	}
	return path
}

func TestBuildRefusesRows(t *testing.T) {
	good := Row{ID: MakeID(5, 1), Create: 5, Version: 1, Key: "a", Value: []byte("1")}
	for want, r := range map[string]Row{
		"comes after":         {ID: MakeID(5, 1), Create: 5, Version: 1, Key: "b"},
		"revisions begin at":  {ID: MakeID(0, 2), Version: 1, Key: "b"},
		"an empty key":        {ID: MakeID(6, 0), Create: 6, Version: 1},
		"and version -1":      {ID: MakeID(6, 0), Create: 6, Version: -1, Key: "b"},
		"create_revision 7 ":  {ID: MakeID(6, 0), Create: 7, Version: 1, Key: "b"},
		"create_revision 0 a": {ID: MakeID(6, 0), Version: 1, Key: "b"},
		"lease 4":             {ID: MakeID(6, 0), Lease: 4, Key: "b"},
	} {
		b, err := Build(filepath.Join(t.TempDir(), "limpet.db"))
		if err != nil {
			t.Fatal(err)
		}
		if r.ID.Rev() != 0 {
			err = b.Add(&good, 0)
		}
		if err := errors.Join(err, b.Add(&r, 0)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Add(%+v): got %v, want it refused for %q", r, err, want)
		}
		if err := b.Discard(); err != nil {
			t.Error(err)
		}
	}
}

// TestBuildAppearsWhole: the name is there after Publish, and only then; what a
// crash has left is written over.
func TestBuildAppearsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "limpet.db")
	wantFiles := func(when string, want ...string) {
		t.Helper()
		var got []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: files %v, want %v", when, got, want)
		}
	}
	if err := os.WriteFile(path+buildingSuffix, []byte("cut short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, floor := range []int64{9, -1} { // the first cannot be: its floor is above its revision
		b, err := Build(path)
		if err != nil {
			t.Fatal(err)
		}
		wantFiles("begun", "limpet.db.building")
		if err := errors.Join(b.Add(&Row{ID: MakeID(2, 0), Create: 2, Version: 1, Key: "a"}, 0), b.SetRecord("kind", "name", []byte("1"))); err != nil {
			t.Fatal(err)
		}
		err = b.Finish(8, floor)
		if i == 0 {
			if err == nil {
				t.Error("Finish with a floor above the revision: got no error")
			}
			if b.Publish() == nil {
				t.Error("Publish after a Finish that failed: got no error")
			}
			if err := b.Discard(); err != nil {
				t.Error(err)
			}
			wantFiles("failed")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		wantFiles("finished", "limpet.db.building")
		if err := b.Publish(); err != nil {
			t.Fatal(err)
		}
		wantFiles("published", "limpet.db")
		if err := b.Discard(); err != nil {
			t.Errorf("Discard after Publish: %v", err)
		}
		wantFiles("discarded after the end", "limpet.db")
	}
	if _, err := Build(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Build where there is a database: got %v, want %v", err, fs.ErrExist)
	}
	s := newStore(t, Config{Path: path})
	if v, ok := get(t, s, "a", 8); !ok || v != "" || s.Rev() != 8 || s.Floor() != -1 {
		t.Errorf("opened: a = %q, %v at revision %d, floor %d; want an empty value, 8, -1", v, ok, s.Rev(), s.Floor())
	}
}

func TestReadFileOfSomethingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadFile(file, func(*Row) error { return nil }); err == nil {
		t.Error("ReadFile of a file that is no database: got no error")
	}
}
