package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"limpet/safefile"
)

// raftDir is the folder of the raft log.
func (d *dataDir) raftDir() string {
	if at := d.now().RaftDir; at != "" {
		return at
	}
	return d.file(raftDirName)
}

// placeLog decides, once in the life of a member, that its raft log is in a folder
// below walDir, if there is one; empty: in the data directory. Later it only makes
// sure that the log is still there: a member that lost it would vote again in a
// term in which it has voted. It returns where the log is instead, if walDir came
// too late.
func (d *dataDir) placeLog(walDir string) (instead string, err error) {
	if walDir != "" {
		if walDir, err = filepath.Abs(walDir); err != nil {
			return "", err
		}
	}
	below := filepath.Join(walDir, raftDirName+"-"+d.id.MemberID)
	switch at := d.id.RaftDir; {
	case at != "":
		if _, err := os.Stat(at); err != nil {
			return "", fmt.Errorf("the raft log of this member is in %s, which cannot be read (%w): mount that disk, or restore the folder", at, unwrapPath(err))
		}
		if walDir != "" && at != below {
			return at, nil
		}
		return "", nil
	case walDir == "":
		return "", nil
	case exists(d.file(raftDirName)):
		return d.file(raftDirName), nil
	}
	if err := os.MkdirAll(below, 0o700); err != nil {
		return "", fmt.Errorf("--wal-dir: %s cannot be created: %w", below, unwrapPath(err))
	}
	// Before the identity says that it is there.
	if err := errors.Join(safefile.SyncDir(walDir), safefile.SyncDir(filepath.Dir(walDir))); err != nil {
		return "", fmt.Errorf("--wal-dir: %s cannot be synced: %w", walDir, unwrapPath(err))
	}
	id := d.id
	id.RaftDir = below
	if err := writeIdentity(d.path, id); err != nil {
		return "", err
	}
	d.id = id
	return "", nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// emptyFolder reports whether path is a folder in which there is nothing but what
// a file system puts there: another disk's, for the raft log, say.
func emptyFolder(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "lost+found" })
}
