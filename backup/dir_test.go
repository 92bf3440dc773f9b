package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	at := time.Unix(1700000000, 0)
	for _, c := range []struct {
		name, member string
		cluster      uint64
		compressed   bool
		want         string
	}{
		{"scheduled", "board-1", 0xabc, false, "scheduled-board_1-0000000000000abc-1700000000"},
		{"scheduled", "board-1", 1<<64 - 1, true, "scheduled-board_1-ffffffffffffffff-1700000000.zst"},
		{"on-demand", "a/b c", 0x1700000000000000, true, "on-demand-a_b_c-1700000000000000-1700000000.zst"},
		{"on-demand", "", 1, false, "on-demand--0000000000000001-1700000000"},
	} {
		series := Series(c.name, c.member, c.cluster)
		name := nameOf(series, at, c.compressed)
		s, ok := parse(name)
		if name != c.want || !ok || s.Series != series || s.Cluster != fmt.Sprintf("%016x", c.cluster) || !s.Created.Equal(at) || s.Compressed != c.compressed {
			t.Errorf("%v: %q, read as %+v, %v; want %q", c, name, s, ok, c.want)
		}
		if got, _, ok := splitSeries(s.Series); got != c.name || !ok {
			t.Errorf("%s is taken for one of %q, %v; want %q", s.Series, got, ok, c.name)
		}
	}
	// Names of before, without a cluster.
	for _, name := range []string{"scheduled-board-1-1700000000.zst", "a-b-c-1700000000", "a-0000000000000abc-1700000000", "a-b-0000000000000ABC-1700000000", "a-b-000000000000abc-1700000000"} {
		if s, ok := parse(name); !ok || s.Cluster != "" || s.Created != at.UTC() {
			t.Errorf("%q is taken for %+v, %v", name, s, ok)
		}
	}
	for _, name := range []string{"", "x", "-1", ".a-1", "a-", "a-x", "a--1", "a-01", "a-1.part", "a-1.zip", "a-1.zst.part", ".newest-a-b.json",
		"a/b-1", "../../etc/x-1", "../a-1", "a\\b-1", "a\x1b[2J-1", "a b-1", "ä-1", strings.Repeat("a", 254) + "-1"} {
		if s, ok := parse(name); ok && !strings.HasPrefix(name, "a--") {
			t.Errorf("%q is taken for %+v", name, s)
		}
	}
	for name, fits := range map[string]bool{"scheduled": true, "a.b_c-1": true, "": false, "a/b": false, "..": false, "a b": false} {
		if err := CheckName(name); (err == nil) != fits {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
}

// take takes a snapshot of b into a folder at a time.
func (b *board) take(d Dir, series string, at time.Time, compress bool) Snapshot {
	b.t.Helper()
	taken, err := Take(b.t.Context(), Taking{Source: b.source(), Spool: d.Path, Compress: compress})
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := KeepIn(b.t.Context(), d, taken, series, at)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// TestTake: a snapshot has its name when it is whole, and the folder nothing else.
func TestTake(t *testing.T) {
	b := newBoard(t)
	for _, compress := range []bool{false, true} {
		d := Dir{filepath.Join(t.TempDir(), "snapshots")}
		if err := d.Open(); err != nil {
			t.Fatal(err)
		}
		var heard []int64
		taken, err := Take(t.Context(), Taking{Source: b.source(), Spool: d.Path, Compress: compress, Progress: func(done, total int64) {
			if done > total {
				t.Errorf("%d bytes of %d", done, total)
			}
			heard = append(heard, done)
		}})
		if err != nil {
			t.Fatal(err)
		}
		if all, err := d.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("before it has its name: %v, %v", all, err)
		}
		s, err := KeepIn(t.Context(), d, taken, "s-m", time.Unix(5, 0))
		if err != nil {
			t.Fatal(err)
		}
		wantFiles(t, d.Path, s.Name)
		if all, err := d.List(t.Context()); err != nil || fmt.Sprint(all) != fmt.Sprint([]Snapshot{s}) || s.Compressed != compress {
			t.Errorf("listed %+v, %v; want %+v", all, err, s)
		}
		c, db, err := Open(t.Context(), s.Location, t.TempDir(), nil)
		if err != nil || c.Revision != b.Rev() || c.Kept != s.Bytes {
			t.Fatalf("it holds %+v, %v", c, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if want := c.Bytes + hashBytes; len(heard) == 0 || heard[len(heard)-1] != want {
			t.Errorf("progress %v, want up to %d", heard, want)
		}
		if compress && s.Bytes > c.Bytes/2 {
			t.Errorf("compressed it has %d of %d bytes", s.Bytes, c.Bytes)
		}
		if info, err := os.Stat(s.Location); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("its mode is %v, %v; want 0600", info.Mode(), err)
		}
	}
}

// TestTakeFails: whatever comes in between, the folder is as before.
func TestTakeFails(t *testing.T) {
	b := newBoard(t)
	whole := int64(len(b.snapshot()))
	broken := errors.New("the line broke")
	d := Dir{t.TempDir()}
	before := b.take(d, "s-m", time.Unix(5, 0), true)
	damaged := bytes.Clone(b.snapshot())
	damaged[5000] ^= 1
	for what, c := range map[string]struct {
		source Source
		says   string
	}{
		"the line":       {failing{b.source(), whole / 2, broken}.stream, "the line broke"},
		"a full disk":    {failing{b.source(), whole / 2, syscall.ENOSPC}.stream, "the disk of " + d.Path + " is full"},
		"before a byte":  {failing{b.source(), 0, broken}.stream, "the line broke"},
		"too large":      {ofBytes(nil, 1<<60), "free, and a snapshot needs"},
		"damaged":        {ofBytes(damaged, whole), "is not whole"},
		"without a hash": {ofBytes(damaged[:len(damaged)-hashBytes], whole), "page"},
		"short":          {ofBytes(b.snapshot()[:whole-hashBytes], whole), "has no hash behind it"},
	} {
		for _, compress := range []bool{false, true} {
			_, err := Take(t.Context(), Taking{Source: c.source, Spool: d.Path, Compress: compress})
			if err == nil || what != "without a hash" && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %q", what, err, c.says)
			}
			wantFiles(t, d.Path, before.Name)
		}
	}
}

// TestFullDisk: a disk that really is full leaves nothing, and says which it is.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a disk that is full")
	}
	b := newBoard(t)
	for i := range 3000 {
		b.put(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i*7919), 1000))
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("no disk could be made: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	for _, size := range []int64{1, 0} { // as if it were small, so that the check before lets it pass
		lying := func(ctx context.Context, tell func(int64) error, w io.Writer) error {
			return b.source()(ctx, func(int64) error { return tell(size) }, w)
		}
		fill := filepath.Join(dir, "fill")
		if err := os.WriteFile(fill, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		slow := func(ctx context.Context, tell func(int64) error, w io.Writer) error {
			return lying(ctx, func(n int64) error {
				if err := tell(n); err != nil {
					return err
				}
				return os.WriteFile(fill, make([]byte, 37<<20), 0o600) // somebody else was faster
			}, w)
		}
		_, err := Take(t.Context(), Taking{Source: slow, Spool: dir, Compress: true})
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk of "+dir+" is full") {
			t.Errorf("a disk that fills up: %v", err)
		}
		wantFiles(t, dir, "fill")
	}
	// What unpacks to far more than it takes does not fill the disk: half of this one,
	// with what others use, is to stay free.
	if err := os.Truncate(filepath.Join(dir, "fill"), 10<<20); err != nil {
		t.Fatal(err)
	}
	bomb := write(t, zstdOf(t, make([]byte, 20<<20)))
	if _, _, err := Open(t.Context(), bomb, dir, nil); err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "no room for the unpacked snapshot") {
		t.Errorf("unpacking far more than there is room: %v", err)
	}
	wantFiles(t, dir, "fill")
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 37<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	small := write(t, zstdOf(t, b.snapshot()))
	if _, _, err := Open(t.Context(), small, dir, nil); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--temp-dir") {
		t.Errorf("unpacking on a disk that is full: %v", err)
	}
	wantFiles(t, dir, "fill")
	if _, err := Take(t.Context(), Taking{Source: b.source(), Spool: dir}); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("a disk that is full: %v", err)
	}
	wantFiles(t, dir, "fill")
}

// TestTidy: what a crash left goes, what is being written stays.
func TestTidy(t *testing.T) {
	d := Dir{t.TempDir()}
	if err := os.WriteFile(d.File(".123"+partSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := newPart(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.File("mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Tidy(t.Context(), "s-m"); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, d.Path, filepath.Base(busy.Name()), "mine")
	if err := busy.drop(); err != nil {
		t.Error(err)
	}
}

// TestPrune: of each series the newest whole ones stay.
func TestPrune(t *testing.T) {
	b := newBoard(t)
	d := Dir{t.TempDir()}
	var names []string
	for i := range 6 {
		names = append(names, b.take(d, "s-m", time.Unix(int64(100+i), 0), i%2 == 0).Name)
	}
	other := b.take(d, "s-m-2", time.Unix(1, 0), false).Name
	if err := os.WriteFile(d.File("notes-of-mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The newest two were damaged by the disk: they count for nothing.
	for _, n := range names[4:] {
		if err := os.Truncate(d.File(n), 700); err != nil {
			t.Fatal(err)
		}
	}
	removed, damaged, err := Prune(t.Context(), d, "s-m", 2)
	var gone, bad []string
	for _, s := range removed {
		gone = append(gone, s.Name)
	}
	for _, s := range damaged {
		bad = append(bad, s.Name)
	}
	slices.Sort(gone)
	slices.Sort(bad)
	if err != nil || !slices.Equal(gone, names[:2]) || !slices.Equal(bad, names[4:]) {
		t.Errorf("removed %v, damaged %v, %v; want %v and %v", gone, bad, err, names[:2], names[4:])
	}
	want := append(slices.Clone(names[2:]), other, "notes-of-mine")
	slices.Sort(want)
	wantFiles(t, d.Path, want...)
	if _, _, err := Prune(t.Context(), d, "s-m", 0); err == nil {
		t.Error("keeping none: no error")
	}
}

// TestDirVerbs: a snapshot can be copied in, fetched and deleted, and nothing else.
func TestDirVerbs(t *testing.T) {
	b := newBoard(t)
	d := Dir{t.TempDir()}
	data := b.snapshot()
	file := write(t, data)
	s, err := d.Put(t.Context(), file, "s-m-100", nil)
	if err != nil || s.Bytes != int64(len(data)) {
		t.Fatalf("Put: %+v, %v", s, err)
	}
	if _, err := d.Put(t.Context(), file, "s-m-100", nil); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("Put again: %v", err)
	}
	if _, err := d.Put(t.Context(), file, "../x", nil); err == nil {
		t.Error("Put under no name: no error")
	}
	var got bytes.Buffer
	if err := d.Fetch(t.Context(), "s-m-100", anySize, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("Fetch: %v", err)
	}
	secret := filepath.Join(filepath.Dir(d.Path), "s-1")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"none-1", "../s-1", "", "x"} {
		if err := d.Fetch(t.Context(), name, anySize, &got); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("Fetch %q: %v", name, err)
		}
		if err := d.Delete(t.Context(), name); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("Delete %q: %v", name, err)
		}
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
	if err := d.Delete(t.Context(), "s-m-100"); err != nil {
		t.Error(err)
	}
	wantFiles(t, d.Path)
}

// TestTidySpool: in a folder that others use, the next part removes what limpet left
// there, and nothing else.
func TestTidySpool(t *testing.T) {
	d := Dir{t.TempDir()}
	for _, name := range []string{".limpet-1" + partSuffix, ".123" + partSuffix, "limpet-1" + partSuffix} {
		if err := os.WriteFile(d.File(name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(d.File("limpet-1"+partSuffix), d.File(".limpet-2"+partSuffix)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p, err := newPart(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := p.drop(); err != nil {
				t.Error(err)
			}
		}()
	}
	left, err := os.ReadDir(d.Path)
	if err != nil || len(left) != 5 { // both parts, the link and the two of others
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Lstat(d.File(".limpet-1" + partSuffix)); err == nil {
		t.Error("what limpet left is there still")
	}
}

// TestNewest: between members the revision counts, not their clocks.
func TestNewest(t *testing.T) {
	d := Dir{t.TempDir()}
	if _, _, err := Newest(t.Context(), d, d.Path); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("of an empty folder: %v", err)
	}
	ahead, behind := newBoard(t), newBoard(t)
	old := ahead.take(d, "scheduled-a", time.Unix(100, 0), true)
	want := func(name string, notes ...string) {
		t.Helper()
		s, note, err := Newest(t.Context(), d, t.TempDir())
		if err != nil || s.Name != name || len(notes) == 0 && note != "" {
			t.Errorf("got %s, %q, %v; want %s", s.Name, note, err, name)
		}
		for _, n := range notes {
			if !strings.Contains(note, n) {
				t.Errorf("%q does not say %q", note, n)
			}
		}
	}
	want(old.Name)
	ahead.put("more", "x")
	high := ahead.take(d, "scheduled-a", time.Unix(200, 0), true)
	want(high.Name)
	low := behind.take(d, "scheduled-b", time.Unix(5000, 0), false) // its clock is ahead
	want(high.Name, "took "+high.Name, fmt.Sprint("revision ", ahead.Rev()), low.Name+" is newer by its member's clock")
	if err := os.WriteFile(d.File(high.Name), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(low.Name, "took "+low.Name, high.Name+" is damaged, and was passed over")
}
