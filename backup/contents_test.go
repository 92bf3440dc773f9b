package backup

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := compress(context.Background(), &out, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestOpenWhole: in whatever form a snapshot comes, it holds the same.
func TestOpenWhole(t *testing.T) {
	b := newBoard(t)
	sealed := b.snapshot()
	bare := sealed[:len(sealed)-hashBytes]
	for what, c := range map[string]struct {
		data   []byte
		kind   string
		hashed bool
	}{
		"as etcdctl saves it":      {sealed, "", true},
		"without its hash":         {bare, "", false},
		"compressed":               {zstdOf(t, sealed), "zstd", true},
		"compressed, without hash": {zstdOf(t, bare), "zstd", false},
		"through gzip":             {gzipOf(t, sealed), "gzip", true},
	} {
		spool := t.TempDir()
		got, d, err := Open(t.Context(), write(t, c.data), spool, nil)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		want := Contents{
			Bytes: int64(len(bare)), Kept: int64(len(c.data)), Compressed: c.kind, Hashed: c.hashed, SHA256: fmt.Sprintf("%x", sha256.Sum256(bare)),
			Revision: b.Rev(), Compacted: -1, Index: b.Applied(), Versions: 200, Cluster: "abc", Members: []string{"one", "two"}, Digest: got.Digest,
		}
		if fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, want %+v", what, *got, want)
		}
		if n, err := d.CountKeys(); err != nil || n != 150 {
			t.Errorf("%s: %d keys, %v; want 150", what, n, err)
		}
		data, err := os.ReadFile(d.Path)
		if err != nil || !bytes.Equal(data[:len(data)-int(d.Tail)], bare) {
			t.Errorf("%s: the database is another one, %v", what, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: Close: %v", what, err)
		}
		wantFiles(t, spool)
	}
}

// TestOpenDamaged: wherever a snapshot is damaged, that is noticed, said, and leaves
// nothing behind.
func TestOpenDamaged(t *testing.T) {
	sealed := newBoard(t).snapshot()
	bare := sealed[:len(sealed)-hashBytes]
	edit := func(data []byte, at int, to ...byte) []byte {
		data = bytes.Clone(data)
		copy(data[at:], to)
		return data
	}
	flip := func(data []byte, at int) []byte { return edit(data, at, data[at]^1) }
	small := zstdOf(t, sealed)
	inValue := bytes.Index(sealed, []byte("much alike"))
	bolt := make([]byte, 8192)
	copy(bolt[16:], "\xed\xda\x0c\xed")
	for what, c := range map[string]struct {
		data []byte
		says string
	}{
		"a bit in a value":                 {flip(sealed, inValue), "its hash is"},
		"a bit in the hash":                {flip(sealed, len(sealed)-1), "its hash is"},
		"a page of zeros":                  {edit(sealed, 2*4096, make([]byte, 4096)...), "page 3"},
		"a page of zeros, no hash":         {edit(bare, 2*4096, make([]byte, 4096)...), "page 3"},
		"its header":                       {edit(sealed, 0, []byte("nothing")...), "does not begin as a SQLite database"},
		"another program's":                {edit(bare, 68, 1, 2, 3, 4), "another program"},
		"a newer schema":                   {edit(bare, 63, 99), "its schema is 99"},
		"cut short between pages":          {bare[:len(bare)-4096], fmt.Sprintf("it has %d bytes, and its header speaks of %d", len(bare)-4096, len(bare))},
		"cut short within a page":          {sealed[:len(sealed)-1000], "it was cut short"},
		"cut short in the hash":            {sealed[:len(sealed)-1], "it was cut short"},
		"something behind it":              {append(bytes.Clone(sealed), 1), "it was cut short, or is something else"},
		"nothing":                          {nil, "0 bytes"},
		"text":                             {bytes.Repeat([]byte("x"), 512), "does not begin as a SQLite database"},
		"etcd's":                           {bolt, "limpet import etcd"},
		"etcd's, without a hash":           {append(bytes.Clone(bolt), bolt[:32]...), "limpet import etcd"},
		"compressed, a bit":                {flip(small, len(small)/2), "zstd stream"},
		"compressed, cut short":            {small[:len(small)/2], "zstd stream breaks off"},
		"compressed, the last byte":        {small[:len(small)-1], "zstd stream"},
		"compressed, of something damaged": {zstdOf(t, flip(sealed, inValue)), "its hash is"},
		"compressed, of something short":   {zstdOf(t, sealed[:len(sealed)-7]), "neither whole pages"},
		"compressed, of nothing":           {zstdOf(t, nil), "0 bytes"},
		"gzip, cut short":                  {gzipOf(t, sealed)[:1000], "gzip stream"},
		"gzip, its header":                 {[]byte(gzipMagic + "garbage"), "gzip header"},
	} {
		spool := t.TempDir()
		file := write(t, c.data)
		_, _, err := Open(t.Context(), file, spool, nil)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%s: %v, want ErrDamaged, that it is %s, and %q", what, err, file, c.says)
		}
		wantOnce(t, what, err, spool)
		fetched, err := FetchTo(t.Context(), still{data: c.data}, "s-m-1", spool, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = fetched.Open(t.Context(), "s3://boards/s-m-1", spool, nil)
		if !errors.Is(err, ErrDamaged) || !strings.HasPrefix(err.Error(), "s3://boards/s-m-1: ") {
			t.Errorf("%s, fetched: %v", what, err)
		}
		wantOnce(t, what, err, spool)
		if err := fetched.Drop(); err != nil {
			t.Error(err)
		}
		wantFiles(t, spool)
		wantFiles(t, filepath.Dir(file), "x.db")
	}
	if _, _, err := Open(t.Context(), t.TempDir(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("of a folder: %v", err)
	}
}

// still gives the same whatever is asked for.
type still struct {
	Dir
	data []byte
}

func (s still) Fetch(_ context.Context, _ string, size func(int64) error, w io.Writer) error {
	if err := size(int64(len(s.data))); err != nil {
		return err
	}
	_, err := w.Write(s.data)
	return err
}

// wantOnce: what is wrong is told once, and without files that nobody knows.
func wantOnce(t *testing.T, what string, err error, spool string) {
	t.Helper()
	text := fmt.Sprint(err)
	if strings.Count(text, ErrDamaged.Error()) != 1 || strings.Contains(text, "\n") || strings.Contains(text, "sqlstore") || strings.Contains(text, spool) {
		t.Errorf("%s: %q, want it once, and without internals", what, text)
	}
}

// TestOpenEveryByte: no bit of a small snapshot can change without being noticed.
func TestOpenEveryByte(t *testing.T) {
	sealed := newBoard(t).snapshot()
	for _, data := range [][]byte{sealed, zstdOf(t, sealed)} {
		for at := 3; at < len(data); at += len(data)/150 + 1 {
			file := write(t, slices.Concat(data[:at], []byte{data[at] ^ 0x10}, data[at+1:]))
			if _, _, err := Open(t.Context(), file, t.TempDir(), nil); err == nil {
				t.Errorf("with byte %d of %d changed it is taken for whole", at, len(data))
			}
		}
	}
}

// TestDigest: it changes with keys, records and compaction, and not with the index.
func TestDigest(t *testing.T) {
	b := newBoard(t)
	digest := func() string {
		c, d, err := Open(t.Context(), write(t, b.snapshot()), t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return c.Digest
	}
	last := digest()
	b.Writer().Publish(b.Applied() + 1)
	if got := digest(); got != last {
		t.Error("the digest changes with the index alone")
	}
	for what, change := range map[string]func(){
		"a key":        func() { b.put("k", "v") },
		"a record":     func() { b.record("lease", "1", map[string]int{"ttl": 5}) },
		"a compaction": func() { _ = b.Writer().Compact(b.Rev() - 1); b.Writer().Publish(b.Applied() + 1) },
	} {
		change()
		if got := digest(); got == last {
			t.Errorf("%s does not change the digest", what)
		} else {
			last = got
		}
	}
}
