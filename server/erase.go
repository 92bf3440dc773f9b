package server

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"limpet/safefile"
)

// EraseDataDir removes what a member that does not run has on this machine: its
// data directory, and its raft log where --wal-dir has it. Only files that limpet
// makes go; others stay, and their names are returned. Nothing is removed from a
// directory that is another program's, or in use. After a crash a start is refused,
// and a second call goes on.
func EraseDataDir(path string) (left []string, err error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err := inspectDataDir(path); err != nil {
		return nil, err
	}
	lock, err := lockDataDir(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	switch id, err := readIdentity(path); {
	case errors.Is(err, os.ErrNotExist): // a member was to be here, and never was
	case err != nil:
		return nil, err
	default:
		// What is left of it must not be started.
		id.Removed = true
		if err := writeIdentity(path, id); err != nil {
			return nil, err
		}
		if id.RaftDir != "" {
			if err := os.RemoveAll(id.RaftDir); err != nil {
				return nil, err
			}
		}
	}
	left, err = removeOurs(path)
	if err != nil || len(left) > 0 {
		return left, err
	}
	err = os.Remove(path)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil, nil // a mount point, or in a folder that is not ours
	}
	return nil, err
}

// removeOurs removes limpet's files, who the member was last, and names the others.
func removeOurs(path string) (left []string, err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	last := []string{identityName, lockName}
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(last, name):
		case isOurs(name):
			if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
				return nil, err
			}
		default:
			left = append(left, name)
		}
	}
	if err := safefile.SyncDir(path); err != nil {
		return nil, err
	}
	for _, name := range last {
		if err := os.Remove(filepath.Join(path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return left, nil
}

// setAsideName is a folder that setAside has made.
var setAsideName = regexp.MustCompile(`^old-[0-9a-f]+-[0-9]{8}T[0-9]{6}$`)

// isOurs reports whether limpet has made a file of this name in a data directory.
func isOurs(name string) bool {
	switch strings.TrimSuffix(name, ".tmp") {
	case identityName, lockName, tokenName, ownCAName, rosterName, raftDirName, adminName, SnapshotsName, restoredName:
		return true
	}
	return name == databaseName || strings.HasPrefix(name, databaseName+"-") || strings.HasPrefix(name, databaseName+".") || setAsideName.MatchString(name)
}
