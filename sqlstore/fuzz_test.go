package sqlstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzImage: an image in which something is other than it was written is
// refused, and then untouched, or it can be lived with: it opens, and every row
// can be read. What it claims costs no more memory than it has bytes.
func FuzzImage(f *testing.F) {
	s, err := Open(Config{Path: filepath.Join(f.TempDir(), "limpet.db"), Owner: 1, FlushAge: never})
	if err != nil {
		f.Fatal(err)
	}
	for i := range byte(40) {
		put(s, string([]byte{'k', 'a' + i%9}), string(bytes.Repeat([]byte{i}, 90*int(i%5))))
	}
	put(s, "large", string(bytes.Repeat([]byte("x"), 3*pageSize))) // on pages of its own
	s.Writer().SetRecord("kind", "name", []byte("record"))
	put(s, "last", "")
	file := filepath.Join(f.TempDir(), "image")
	writeImage(f, s, file)
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}

	f.Add(uint32(0), []byte(nil), uint32(0))
	f.Add(uint32(0), []byte("SQLite format 2"), uint32(0))
	f.Add(uint32(16), []byte{0x80, 0}, uint32(0))                 // page size
	f.Add(uint32(28), []byte{0x7f, 0xff, 0xff, 0xff}, uint32(0))  // pages in the file
	f.Add(uint32(32), []byte{0, 0, 0, 3, 0, 0, 0, 9}, uint32(0))  // free pages
	f.Add(uint32(52), []byte{0, 0, 0, 1}, uint32(0))              // auto-vacuum
	f.Add(uint32(56), []byte{0, 0, 0, 3}, uint32(0))              // text encoding
	f.Add(uint32(60), []byte{0, 0, 0, 99}, uint32(0))             // schema version
	f.Add(uint32(100), []byte{13, 0, 0, 0xff, 0xff}, uint32(0))   // cells of the schema
	f.Add(uint32(pageSize), []byte{5, 0, 0, 0, 1}, uint32(0))     // a leaf that becomes an inner page
	f.Add(uint32(2*pageSize+8), []byte{0xff, 0xff}, uint32(0))    // a cell beyond its page
	f.Add(uint32(len(whole)-9), []byte{0x81, 0x82, 3}, uint32(0)) // a value
	f.Add(uint32(0), []byte(nil), uint32(pageSize))               // cut
	f.Add(uint32(0), []byte(nil), uint32(1))                      // cut within a page
	f.Add(uint32(0), []byte(nil), uint32(len(whole)-50))          // cut within the header
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		if len(patch) > pageSize {
			return
		}
		data := bytes.Clone(whole)
		copy(data[int(at)%len(data):], patch)
		data = data[:len(data)-int(cut)%len(data)]
		dir := t.TempDir()
		image, path := filepath.Join(dir, "image"), filepath.Join(dir, "limpet.db")
		if err := os.WriteFile(image, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := AdoptFile(path, image, 2); err != nil {
			if !errors.Is(err, ErrImageRefused) {
				t.Fatalf("AdoptFile: %v; want it taken or refused", err)
			}
			if left, err := os.ReadFile(image); err != nil || !bytes.Equal(left, data) {
				t.Errorf("the refused image has %d bytes, %v; want it as it was", len(left), err)
			}
			if files, _ := os.ReadDir(dir); len(files) != 1 {
				t.Errorf("beside the refused image: %v", files)
			}
			return
		}
		s := newStore(t, Config{Path: path, Owner: 2})
		for _, rev := range []int64{s.Rev(), max(s.Floor(), 1)} {
			view, err := s.View().Past(rev)
			if err != nil {
				continue // compacted
			}
			if _, err := view.Range("", "\x00", RangeOptions{}); err != nil {
				t.Errorf("revision %d cannot be read: %v", rev, err)
			}
		}
		if err := s.Records("kind", func(string, []byte) error { return nil }); err != nil {
			t.Errorf("records cannot be read: %v", err)
		}
	})
}
