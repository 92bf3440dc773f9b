package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// folder is a release in the making.
type folder string

// newFolder makes it, empty: what a run that was broken off has left goes.
func newFolder(dir string) (folder, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return folder(dir), os.MkdirAll(dir, 0o755)
}

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

func (f folder) discard() { _ = os.RemoveAll(string(f)) }

// seal hashes all files, gives them the time of the commit and sends them to the disk.
func (f folder) seal(at time.Time) error {
	entries, err := os.ReadDir(string(f)) // sorted
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(f.path(e.Name()))
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), e.Name())
		sums.WriteString(line)
		if strings.HasPrefix(e.Name(), "limpet-linux-") && filepath.Ext(e.Name()) == "" {
			if err := os.WriteFile(f.path(e.Name()+".sha256"), []byte(line), 0o644); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(f.path("sha256sums.txt"), sums.Bytes(), 0o644); err != nil {
		return err
	}
	if entries, err = os.ReadDir(string(f)); err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Chtimes(f.path(e.Name()), at, at); err != nil {
			return err
		}
		if err := sync(f.path(e.Name())); err != nil {
			return err
		}
	}
	return sync(string(f))
}

// publish gives the folder its name. One of that name goes: it is moved away first,
// so that nobody finds half of either.
func (f folder) publish(to string) error {
	old := string(f) + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(to, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(string(f), to); err != nil {
		_ = os.Rename(old, to)
		return err
	}
	if err := sync(filepath.Dir(to)); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// replace writes a file in one step: who reads it meanwhile reads the old or the new.
func replace(path string, text []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	if err := sync(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return sync(filepath.Dir(path))
}

// sync sends a file, or the names in a folder, to the disk.
func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
