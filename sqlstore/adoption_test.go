package sqlstore

import (
	"database/sql/driver"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// crashed is what a power cut left: the folder of a member whose id is 2.
type crashed struct{ dir string }

func (c crashed) path() string  { return filepath.Join(c.dir, "limpet.db") }
func (c crashed) image() string { return filepath.Join(c.dir, "image") }

// copyOf copies the folder, since each question to it changes it.
func (c crashed) copyOf(t *testing.T) crashed {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(c.dir)); err != nil {
		t.Fatal(err)
	}
	return crashed{dir}
}

func (c crashed) open(t *testing.T) *Store {
	t.Helper()
	return newStore(t, Config{Path: c.path(), Owner: 2})
}

// wantTidy fails if an adoption has left anything behind.
func (c crashed) wantTidy(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"*.aside", "*.next*", "image*"} {
		left, err := filepath.Glob(filepath.Join(c.dir, pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
}

// behindAndAhead makes the folder of a member whose database has a part of its
// state in the WAL only, beside the image of one that is ahead, and the hashes
// of both.
func behindAndAhead(t *testing.T) (c crashed, behind, ahead Hash) {
	t.Helper()
	c = crashed{t.TempDir()}
	leader, follower := newStore(t, Config{Owner: 1}), newStore(t, Config{Owner: 2})
	for _, s := range []*Store{leader, follower} {
		fill(t, s, 40, 3000)
		flush(t, s)
		onKeeper(t, s, func() { _ = s.keeper.checkpoint("TRUNCATE") })
		put(s, "in the WAL", "1")
		flush(t, s)
	}
	behind = hashOf(t, follower)
	onKeeper(t, follower, func() { copyDatabase(t, follower.cfg.Path, c.dir) })
	if err := os.Rename(filepath.Join(c.dir, filepath.Base(follower.cfg.Path)), c.path()); err != nil {
		t.Fatal(err)
	}
	fill(t, leader, 60, 3000)
	compact(t, leader, leader.Rev()-5)
	ahead = hashOf(t, leader)
	writeImage(t, leader, c.image())
	return c, behind, ahead
}

// ownHalf is own, cut short before the WAL has gone into the file.
func ownHalf(t *testing.T, a adoption) error {
	c, err := openConn(a.next(), []string{"synchronous = FULL"})
	if err != nil {
		return err
	}
	if err := c.exec(sqlPutMeta, metaOwner, int64(a.owner)); err != nil {
		return err
	}
	// What lies on disk now is what counts; closing would tidy up.
	half := t.TempDir()
	copyDatabase(t, a.next(), half)
	if err := c.close(); err != nil {
		return err
	}
	copyDatabase(t, filepath.Join(half, filepath.Base(a.next())), filepath.Dir(a.next()))
	return nil
}

// crashes are the moments of an adoption, each with what it does beyond the one
// before.
func crashes(t *testing.T, a adoption) []struct {
	name string
	do   func() error
} {
	moveIn := func() error { _, err := a.moveIn(); return err }
	return []struct {
		name string
		do   func() error
	}{
		{"before", func() error { return nil }},
		{"staged", a.stage},
		{"owner in the WAL", func() error { return ownHalf(t, a) }},
		{"owned", a.own},
		{"shm aside", func() error { return renameIfThere(a.path+"-shm", a.path+"-shm"+asideSuffix) }},
		{"WAL aside", func() error { return renameIfThere(a.path+"-wal", a.path+"-wal"+asideSuffix) }},
		{"cleared", a.clear},
		{"moved in", moveIn},
		{"tidied", a.tidy},
	}
}

// TestCrashWhileAdopting: wherever the power is cut, the next start finds the
// old database with its WAL, or the new one without it, and AdoptFile comes to
// the end, once and again.
func TestCrashWhileAdopting(t *testing.T) {
	c, behind, ahead := behindAndAhead(t)
	a := adoption{path: c.path(), image: c.image(), owner: 2}
	for i, crash := range crashes(t, a) {
		if err := crash.do(); err != nil {
			t.Fatalf("%s: %v", crash.name, err)
		}
		t.Run(crash.name, func(t *testing.T) {
			want := behind
			if i >= 7 {
				want = ahead
			}
			started := c.copyOf(t)
			s := started.open(t)
			if got := hashOf(t, s); got != want {
				t.Errorf("Open finds %+v, want %+v", got, want)
			}
			// It may have gone on before it asks for the rest.
			put(s, "more", "x")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			finish := []crashed{c.copyOf(t)}
			if want == behind { // else the image that would be adopted is older
				finish = append(finish, started)
			}
			for _, f := range finish {
				adoptFileTwice(t, f, ahead)
			}
		})
	}
}

func adoptFileTwice(t *testing.T, c crashed, want Hash) {
	t.Helper()
	for range 2 {
		if err := AdoptFile(c.path(), c.image(), 2); err != nil {
			t.Fatalf("AdoptFile: %v", err)
		}
		c.wantTidy(t)
		s := c.open(t)
		if got := hashOf(t, s); got != want {
			t.Errorf("after AdoptFile %+v, want %+v", got, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAdoptAfterACrash: a store that was opened in the middle of an adoption
// adopts what it had begun with, or a newer image instead.
func TestAdoptAfterACrash(t *testing.T) {
	c, _, ahead := behindAndAhead(t)
	fresh := filepath.Join(t.TempDir(), "fresh")
	data, err := os.ReadFile(c.image())
	if err == nil {
		err = os.WriteFile(fresh, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := adoption{path: c.path(), image: c.image(), owner: 2}
	for i, crash := range crashes(t, a)[:7] {
		if err := crash.do(); err != nil {
			t.Fatalf("%s: %v", crash.name, err)
		}
		for _, another := range []bool{false, true} {
			at := c.copyOf(t)
			if another && i > 0 {
				if err := os.WriteFile(at.image(), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := at.open(t)
			if err := s.Adopt(at.image()); err != nil {
				t.Fatalf("%s, another image %v: %v", crash.name, another, err)
			}
			at.wantTidy(t)
			if got := hashOf(t, s); got != ahead {
				t.Errorf("%s, another image %v: %+v, want %+v", crash.name, another, got, ahead)
			}
		}
	}
}

// TestStaleWAL: a WAL that belongs to another database, beside the image or
// beside the name that the image gets, is never replayed onto it.
func TestStaleWAL(t *testing.T) {
	for _, name := range []string{"image-wal", "limpet.db.next-wal", "limpet.db-wal", "limpet.db-wal.aside"} {
		t.Run(name, func(t *testing.T) {
			c, _, ahead := behindAndAhead(t)
			stale, err := os.ReadFile(c.path() + "-wal")
			if err != nil || len(stale) == 0 {
				t.Fatalf("the follower has no WAL: %v", err)
			}
			if err := os.WriteFile(filepath.Join(c.dir, name), stale, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := AdoptFile(c.path(), c.image(), 2); err != nil {
				t.Fatal(err)
			}
			s := c.open(t)
			if got := hashOf(t, s); got != ahead {
				t.Errorf("after AdoptFile %+v, want %+v", got, ahead)
			}
		})
	}
}

// TestAdoptFileWithoutDatabase: a new member, and one whose database is
// damaged, take the image; without one there is nothing to open.
func TestAdoptFileWithoutDatabase(t *testing.T) {
	for _, damage := range []string{"gone", "empty", "rubbish", "cut"} {
		t.Run(damage, func(t *testing.T) {
			c, _, ahead := behindAndAhead(t)
			old, err := os.ReadFile(c.path())
			if err != nil {
				t.Fatal(err)
			}
			switch damage {
			case "gone":
				err = errors.Join(os.Remove(c.path()), os.Remove(c.path()+"-wal"))
			case "empty":
				err = os.WriteFile(c.path(), nil, 0o600)
			case "rubbish":
				err = os.WriteFile(c.path(), []byte(strings.Repeat("rubbish ", 2000)), 0o600)
			case "cut":
				err = errors.Join(os.Remove(c.path()+"-wal"), os.WriteFile(c.path(), old[:len(old)/2], 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			adoptFileTwice(t, c, ahead)
		})
	}
	c := crashed{t.TempDir()}
	if err := AdoptFile(c.path(), c.image(), 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("AdoptFile without image and database: %v, want ErrNotExist", err)
	}
}

// TestAdoptFileRefuses: what Adopt refuses, AdoptFile does, and the old
// database stays with its WAL.
func TestAdoptFileRefuses(t *testing.T) {
	c, _, _ := behindAndAhead(t)
	newer := c.open(t)
	fill(t, newer, 100, 100)
	want := hashOf(t, newer)
	if err := newer.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := AdoptFile(c.path(), c.image(), 2); !errors.Is(err, ErrImageRefused) || !strings.Contains(err.Error(), "older") {
			t.Fatalf("AdoptFile of an older image: %v, want it refused as older", err)
		}
	}
	if got := hashOf(t, c.open(t)); got != want {
		t.Errorf("after a refusal %+v, want %+v", got, want)
	}
}

// damages are images that look like one and are none. Each edits the file, or
// the database in it, and says which words the refusal must hold.
var damages = []struct {
	name, sql, says string
	edit            func([]byte) []byte
}{
	{name: "empty file", edit: func([]byte) []byte { return nil }, says: "0 bytes"},
	{name: "shorter than its header", edit: func(b []byte) []byte { return b[:60] }, says: "60 bytes"},
	{name: "cut in a page", edit: func(b []byte) []byte { return b[:len(b)-100] }, says: "header speaks of"},
	{name: "a page short", edit: func(b []byte) []byte { return b[:len(b)-pageSize] }, says: "header speaks of"},
	{name: "a page long", edit: func(b []byte) []byte { return append(b, make([]byte, pageSize)...) }, says: "header speaks of"},
	{name: "no SQLite database", edit: func(b []byte) []byte { return make([]byte, len(b)) }, says: "does not begin"},
	{name: "other page size", edit: func(b []byte) []byte { b[16] = 0x20; return b }, says: "8192 bytes"},
	{name: "a page of zeros", edit: func(b []byte) []byte { clear(b[2*pageSize : 3*pageSize]); return b }, says: "quick_check: *** in database main *** "},
	{name: "other program", sql: "PRAGMA application_id = 1", says: "another program"},
	{name: "newer schema", sql: "PRAGMA user_version = 2", says: "schema is 2, this program knows 1"},
	{name: "older schema", sql: "PRAGMA user_version = 0", says: "schema is 0"},
	{name: "no records", sql: "DROP TABLE records", says: "records"},
	{name: "other columns", sql: "ALTER TABLE revisions RENAME COLUMN lease TO rent", says: "lease"},
	{name: "never flushed to", sql: "DELETE FROM meta", says: "never written"},
	{name: "text in meta", sql: "UPDATE meta SET value = 'x' WHERE name = 'floor'", says: "table meta holds floor = x"},
	{name: "floor above revision", sql: "UPDATE meta SET value = 1000000 WHERE name = 'floor'", says: "floor 1000000"},
	{name: "lower applied", sql: "UPDATE meta SET value = 1 WHERE name = 'applied'", says: "older (applied 1,"},
	{name: "lower revision", sql: "UPDATE meta SET value = 2 WHERE name IN ('revision', 'floor', 'compacted')", says: "revision 2"},
	{name: "row of the future", sql: "UPDATE revisions SET id = id + (1 << 40) WHERE id = (SELECT max(id) FROM revisions)", says: "in a file of revision"},
	{name: "blob for a number", sql: "UPDATE revisions SET version = x'00'", says: "wrong type"},
	{name: "text for a key", sql: "UPDATE revisions SET key = 'text'", says: "wrong type"},
	{name: "created later", sql: "UPDATE revisions SET create_revision = 1 << 40", says: "create_revision"},
	{name: "negative version", sql: "UPDATE revisions SET version = -1", says: "version -1"},
}

// TestAdoptRefuses: whatever is wrong with an image is said, and image, store
// and files stay as they were.
func TestAdoptRefuses(t *testing.T) {
	c, behind, ahead := behindAndAhead(t)
	whole, err := os.ReadFile(c.image())
	if err != nil {
		t.Fatal(err)
	}
	s := c.open(t)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "image")
			data := slices.Clone(whole)
			if d.edit != nil {
				data = d.edit(data)
			}
			if err := os.WriteFile(bad, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if d.sql != "" {
				alter(t, bad, d.sql)
			}
			before, _ := os.ReadFile(bad)
			err := s.Adopt(bad)
			if !errors.Is(err, ErrImageRefused) || !strings.Contains(err.Error(), d.says) {
				t.Errorf("Adopt: %v; want it refused with %q", err, d.says)
			}
			if after, err := os.ReadFile(bad); err != nil || string(after) != string(before) {
				t.Errorf("the refused image has changed: %v", err)
			}
			if got := hashOf(t, s); got != behind || s.Err() != nil {
				t.Errorf("after a refusal %+v, %v; want %+v", got, s.Err(), behind)
			}
		})
	}
	if err := s.Adopt(filepath.Join(c.dir, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Adopt without an image: %v, want ErrNotExist", err)
	}
	if err := s.Adopt(c.image()); err != nil {
		t.Fatalf("Adopt of the whole image after all that: %v", err)
	}
	if got := hashOf(t, s); got != ahead {
		t.Errorf("after Adopt %+v, want %+v", got, ahead)
	}
	c.wantTidy(t)
}

// alter runs sql on a closed database and leaves one file, sealed as the image
// it was.
func alter(t *testing.T, file, sql string) {
	t.Helper()
	c, err := openConn(file, []string{"journal_mode = DELETE"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.exec(sql), c.exec("PRAGMA journal_mode = WAL"), c.close()); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// TestFlippedBits: a bit that was turned over on the way is noticed, or does no
// more harm than a wrong value, key or number in the rows that it hit.
func TestFlippedBits(t *testing.T) {
	s := newStore(t, Config{Owner: 1})
	s.Writer().SetRecord("kind", "name", []byte("1"))
	fill(t, s, 200, 5) // small values: most of the file is structure
	file := filepath.Join(t.TempDir(), "image")
	writeImage(t, s, file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	passed, tried := 0, 0
	for pos := 0; pos < len(data); pos += 1 + tried%7*41 {
		tried++
		data[pos] ^= 1 << (tried % 8)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		data[pos] ^= 1 << (tried % 8)
		index, at, err := inspect(file, position{rev: Initial, floor: -1})
		if err != nil {
			if !errors.Is(err, ErrImageRefused) {
				t.Fatalf("bit %d of byte %d: %v, want it refused", tried%8, pos, err)
			}
			continue
		}
		passed++
		if index.live == 0 || at.rev <= Initial {
			t.Errorf("bit %d of byte %d: %d keys at %v", tried%8, pos, index.live, at)
		}
		readAll(t, file)
	}
	if passed == tried || tried < 150 {
		t.Errorf("%d of %d damaged images passed", passed, tried)
	}
	t.Logf("%d of %d flipped bits lie in free space, keys, values or numbers, where nothing can notice them", passed, tried)
}

// readAll reads every row of a database, as a reader would.
func readAll(t *testing.T, file string) {
	t.Helper()
	c, err := openStill(file)
	if err != nil {
		t.Fatal(err)
	}
	err = c.query(sqlScanRows, rowCols, func(cols []driver.Value) error {
		_ = rowOf(cols)
		return nil
	}, int64(0), int64(1<<62))
	if err = errors.Join(err, c.close()); err != nil {
		t.Errorf("%s: %v", file, err)
	}
}

// TestOddPath: characters that mean something in a URI are part of a path.
func TestOddPath(t *testing.T) {
	for _, name := range []string{"a#b", "100%41", "with space&mode=rw", "ümlaut"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		c := crashed{dir}
		s, leader := newStore(t, Config{Path: c.path(), Owner: 2, TailBytes: -1}), newStore(t, Config{Owner: 1})
		put(leader, "a", "1")
		writeImage(t, leader, c.image())
		if err := s.Adopt(c.image()); err != nil {
			t.Fatal(err)
		}
		if v, ok := get(t, s, "a", s.Rev()); !ok || v != "1" {
			t.Errorf("%s: a = %q, %v; want 1", name, v, ok)
		}
	}
}
