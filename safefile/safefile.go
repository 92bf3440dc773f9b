// Package safefile answers: how does a small file change in one durable step?
package safefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Owner is whose a file becomes.
type Owner struct{ UID, GID int }

// Write replaces the file at path, mode 0600: new content under another name,
// synced, renamed over the old, the folder synced. After a crash the file is
// the old one or the new one. What is there under the other name, left by a crash
// or put there by somebody else, is never written to.
func Write(path string, data []byte) error { return WriteFor(path, data, 0o600, nil) }

// WriteFor does the same for a file of a mode, which belongs to owner; nil: to whom
// this process does. It has both before it has its name.
func WriteFor(path string, data []byte, mode os.FileMode, owner *Owner) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if owner != nil && err == nil {
		err = f.Chown(owner.UID, owner.GID)
	}
	if err == nil {
		err = f.Chmod(mode) // whatever the umask is
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes durable which names a folder has.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
