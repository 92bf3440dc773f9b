package sqlstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInspect: a whole file is told as it is, and left as it is.
func TestInspect(t *testing.T) {
	s := newStore(t, Config{Owner: 7})
	for _, k := range []string{"a", "b", "a", "c"} {
		put(s, k, "x")
	}
	s.Writer().Begin(0)
	s.Writer().Delete("b")
	s.Writer().End()
	s.Writer().SetRecord("kind", "name", []byte("data"))
	s.Writer().Publish(s.Applied() + 1)
	file := filepath.Join(t.TempDir(), "x.db")
	writeImage(t, s, file)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var records []string
	p, err := Inspect(t.Context(), file, 0, func(kind, name string, data []byte) error {
		records = append(records, kind+" "+name+" "+string(data))
		return nil
	})
	want := Picture{Rev: s.Rev(), Floor: -1, Applied: s.Applied(), Owner: 7, Versions: 5, Bytes: int64(len(before))}
	if err != nil || *p != want || !slices.Equal(records, []string{"kind name data"}) {
		t.Errorf("Inspect: %+v, %v, records %v; want %+v", p, err, records, want)
	}
	if n, err := CountKeys(file); err != nil || n != 2 {
		t.Errorf("CountKeys: %d, %v; want 2", n, err)
	}
	if after, err := os.ReadFile(file); err != nil || !slices.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
	if left, _ := filepath.Glob(file + "?*"); len(left) > 0 {
		t.Errorf("looking has left %v", left)
	}
	sealed := file + ".sealed"
	if err := os.WriteFile(sealed, append(slices.Clone(before), "a checksum"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Inspect(t.Context(), sealed, 10, nil); err != nil || *p != want {
		t.Errorf("Inspect, of one with a tail: %+v, %v; want %+v", p, err, want)
	}
	if _, err := Inspect(t.Context(), sealed, 0, nil); !errors.Is(err, ErrImageRefused) {
		t.Errorf("Inspect, of one with a tail that was not announced: %v", err)
	}
	said := errors.New("no")
	if _, err := Inspect(t.Context(), file, 0, func(string, string, []byte) error { return said }); !errors.Is(err, said) {
		t.Errorf("Inspect, of a listener that says no: %v", err)
	}
	if _, err := Inspect(t.Context(), file+".none", 0, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Inspect of nothing: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(over, file, 0, nil); !errors.Is(err, context.Canceled) || errors.Is(err, ErrImageRefused) {
		t.Errorf("Inspect, when its time is over: %v, want %v", err, context.Canceled)
	}
	clear(before[3*pageSize : 4*pageSize])
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), file, 0, nil); !errors.Is(err, ErrImageRefused) || !strings.Contains(err.Error(), "page 4") {
		t.Errorf("Inspect of a file with a page of zeros: %v, want that page 4 is damaged", err)
	}
}

// TestBumpForget: revisions go on higher; what was there can be read until it is
// forgotten.
func TestBumpForget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	s := newStore(t, Config{Path: path, TailBytes: -1})
	rev := put(s, "k", "old")
	flush(t, s)
	w := s.Writer()
	if err := w.Bump(100); err != nil {
		t.Fatal(err)
	}
	w.Publish(s.Applied() + 1)
	if got := put(s, "k", "new"); got != rev+101 {
		t.Errorf("the next revision is %d, want %d", got, rev+101)
	}
	if _, err := s.At(rev); err != nil {
		t.Errorf("the revision before: %v", err)
	}
	if err := w.Bump(1); err == nil {
		t.Error("Bump with a commit in memory: no error")
	}
	flush(t, s)
	w.Forget()
	w.Publish(s.Applied() + 1)
	if _, err := s.At(rev); !errors.Is(err, ErrCompacted) {
		t.Errorf("the revision before, forgotten: %v, want ErrCompacted", err)
	}
	if s = restart(t, s, true); s.Rev() != rev+101 || s.Floor() != rev+101 {
		t.Errorf("after a restart at revision %d, floor %d; want %d for both", s.Rev(), s.Floor(), rev+101)
	}
}
