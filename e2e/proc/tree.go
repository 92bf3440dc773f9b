package proc

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
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

// CopyDir copies a data directory to one that is not there yet. A socket that a killed server has left
// is copied, too: os.CopyFS would refuse it.
func CopyDir(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp -a %s %s: %w: %s", from, to, err, out)
	}
	return nil
}
