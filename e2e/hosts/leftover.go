//go:build linux

package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Names inside a run folder.
const (
	lockFile   = "lock"
	mountPoint = "disk"
)

// runFolders is where all test processes of this machine keep theirs.
func runFolders() string { return filepath.Join(os.TempDir(), "limpet-hosts") }

// newRunFolder makes a folder named after this process and locks it until unlock, or the
// process's death. Before, it clears away what dead processes have left.
func newRunFolder() (folder string, unlock func(), err error) {
	if err := os.MkdirAll(runFolders(), 0o755); err != nil {
		return "", nil, err
	}
	// The kernel names mounts by their real path.
	root, err := filepath.EvalSymlinks(runFolders())
	if err != nil {
		return "", nil, err
	}
	// One process at a time: a folder that is made and not yet locked would look like a leftover.
	all, err := lock(filepath.Join(root, lockFile), 0)
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if err := sweep(root); err != nil {
		return "", nil, fmt.Errorf("sweep %s: %w", root, err)
	}
	if folder, err = os.MkdirTemp(root, fmt.Sprintf("%d-*", os.Getpid())); err != nil {
		return "", nil, err
	}
	own, err := lock(filepath.Join(folder, lockFile), 0)
	if err != nil {
		return "", nil, err
	}
	return folder, func() { own.Close() }, nil
}

// lock locks the file at path. With unix.LOCK_NB it does not wait for others.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep clears away every run folder below root whose process is dead.
func sweep(root string) error {
	folders, err := filepath.Glob(filepath.Join(root, "*", lockFile))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range folders {
		f, err := lock(path, unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // its process lives
		}
		if err == nil {
			err = clearAway(filepath.Dir(path))
			f.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// clearAway undoes NewDisk, however far it came, and whatever state the disk is in.
func clearAway(folder string) error {
	mount := filepath.Join(folder, mountPoint)
	device := ""
	if mounted(mount) {
		var stat unix.Stat_t
		if err := unix.Stat(mount, &stat); err == nil {
			device = fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
		}
		ioctl(mount, fiThaw, 0) // an error says that it was not frozen
	}
	if group, err := groupOf(filepath.Base(folder)); err == nil {
		if err := group.remove(device); err != nil {
			return err
		}
	}
	if err := unmount(mount); err != nil {
		return fmt.Errorf("unmount %s: %w", mount, err)
	}
	return os.RemoveAll(folder)
}

// mounted matters because a thaw must never reach the machine's own file system.
func mounted(path string) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(text), " "+path+" ")
}
