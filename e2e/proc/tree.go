package proc

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Tree describes every file below a folder: path, mode and content hash. Two equal Trees mean
// that nothing was touched.
type Tree map[string]string

// TreeOf reads the folder at root.
func TreeOf(t testing.TB, root string) Tree {
	t.Helper()
	tree := Tree{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d bytes %x", len(content), sha256.Sum256(content))
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		tree[rel] = what
		return nil
	})
	if err != nil {
		t.Fatalf("read folder: %v", err)
	}
	return tree
}
