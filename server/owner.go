package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"limpet/safefile"
)

// keeperOf is whose the files of a data directory are to be; nil: there is nothing
// to change, as this process makes its files for itself.
type keeperOf struct{ uid, gid int }

// ownerOf is the owner of a directory, if this process is root's and the directory
// is not: a service runs as its owner.
func ownerOf(dir string) (*keeperOf, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 {
		return nil, nil
	}
	return &keeperOf{int(st.Uid), int(st.Gid)}, nil
}

// give changes the owner of a file, or of a folder and all below it; one that is not
// there is nobody's.
func (k *keeperOf) give(path string) error {
	if k == nil {
		return nil
	}
	return filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.Lchown(name, k.uid, k.gid)
	})
}

func (k *keeperOf) file() *safefile.Owner {
	if k == nil {
		return nil
	}
	return &safefile.Owner{UID: k.uid, GID: k.gid}
}
