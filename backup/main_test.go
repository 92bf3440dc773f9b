package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"limpet/sqlstore"
	"limpet/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// board is the store of a member.
type board struct {
	*sqlstore.Store
	t testing.TB
}

func newBoard(t testing.TB) *board {
	t.Helper()
	s, err := sqlstore.Open(sqlstore.Config{Path: filepath.Join(t.TempDir(), "limpet.db"), Owner: 7})
	if err != nil {
		t.Fatal(err)
	}
	b := &board{s, t}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b.record("cluster", "cluster", txn.Found{Cluster: 0xabc})
	for i, name := range []string{"one", "two"} {
		b.record("member", fmt.Sprint(i), txn.Member{ID: uint64(i + 1), Name: name})
	}
	for i := range 200 {
		b.put(fmt.Sprintf("/registry/things/%03d", i%150), fmt.Sprintf("value %d of something that is much alike", i))
	}
	return b
}

func (b *board) put(key, value string) {
	w := b.Writer()
	w.Begin(0)
	w.Put(key, []byte(value), 0)
	w.End()
	w.Publish(b.Applied() + 1)
}

func (b *board) record(kind, name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Writer().SetRecord(kind, name, data)
	b.Writer().Publish(b.Applied() + 1)
}

func (b *board) source() Source { return ImageSource(b.Image) }

func (b *board) position() Position { return Position{b.Rev(), b.Floor(), b.Applied()} }

// snapshot is one as a member sends it.
func (b *board) snapshot() []byte {
	b.t.Helper()
	var out bytes.Buffer
	if err := b.source()(context.Background(), func(int64) error { return nil }, &out); err != nil {
		b.t.Fatal(err)
	}
	return out.Bytes()
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func anySize(int64) error { return nil }

// wantFiles says which files a folder is to hold, hidden ones too.
func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %v, %v; want %v", dir, got, err, want)
	}
}

// failing is a source that breaks off.
type failing struct {
	source Source
	after  int64
	err    error
}

func (f failing) stream(ctx context.Context, size func(int64) error, w io.Writer) error {
	return f.source(ctx, size, &limitedWriter{w, f.after, f.err})
}

type limitedWriter struct {
	w    io.Writer
	left int64
	err  error
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		n, _ := l.w.Write(p[:l.left])
		l.left = 0
		return n, l.err
	}
	l.left -= int64(len(p))
	return l.w.Write(p)
}

// ofBytes is a source of bytes as they are.
func ofBytes(data []byte, size int64) Source {
	return func(_ context.Context, tell func(int64) error, w io.Writer) error {
		if err := tell(size); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
}
