package migrate

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzBolt: whatever a file holds, reading it comes to an end, within the memory
// that the file itself takes.
func FuzzBolt(f *testing.F) {
	t := &testing.T{}
	for _, n := range []int{0, 3, 300} {
		fixture := newEtcdFixture()
		for i := range int64(n) {
			fixture.put(i+2, 0, "key", "a value of some length", 2, i+1, 0)
		}
		dir := f.TempDir()
		data, err := os.ReadFile(fixture.write(t, filepath.Join(dir, "db"), false))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := openBolt(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, name := range []string{etcdKey, etcdMeta, etcdUsers} {
			tree, err := b.bucket(name)
			if err != nil || tree == nil {
				continue
			}
			rows, size := 0, 0
			err = b.each(tree, func(k, v []byte) error {
				rows, size = rows+1, size+len(k)+len(v)
				return nil
			})
			if rows*boltElement > len(data) && err == nil {
				t.Errorf("%d rows of %d bytes in a file of %d", rows, size, len(data))
			}
		}
	})
}
